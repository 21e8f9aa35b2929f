package bridgeconf

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// files maps paths to texts; a path in secret can be read by root only.
type files struct {
	text   map[string]string
	secret map[string]bool
}

func (f files) ReadAsCaller(path string) ([]byte, error) {
	if f.secret[path] {
		return nil, unix.EACCES
	}
	return f.ReadAsRoot(path)
}

func (f files) ReadAsRoot(path string) ([]byte, error) {
	s, ok := f.text[path]
	if !ok {
		return nil, unix.ENOENT
	}
	return []byte(s), nil
}

func TestCheck(t *testing.T) {
	secret := map[string]bool{"/s": true}
	for _, test := range []struct {
		name, main, included string
		want                 error
	}{
		{"allowed", "allow br0", "", nil},
		{"all", "# comment\n\n \tallow\t all \n", "", nil},
		{"another", "allow br1", "", ErrDenied},
		{"empty", "", "", ErrDenied},
		{"deny wins", "deny br0\nallow br0", "", ErrDenied},
		{"deny wins in any order", "allow br0\ndeny all", "", ErrDenied},
		{"included", "include /i", "allow br0", nil},
		{"included deny", "allow all\ninclude /i", "deny br0", ErrDenied},
		{"secret allow", "include /s", "allow br0", ErrDenied},
		{"secret deny", "allow all\ninclude /s", "deny br0", ErrDenied},
		{"allow below a secret", "include /s", "include /i", ErrDenied},
		{"missing", "allow all\ninclude /none", "", unix.ENOENT},
		{"loop", "allow all\ninclude /main", "", ErrLoop},
		{"unknown word", "allow br0\npermit br1", "", ErrSyntax},
		{"too many words", "allow br0 br1", "", ErrSyntax},
		{"capital", "Allow br0", "", ErrSyntax},
		{"no word", "allow", "", ErrSyntax},
		{"prefix", "allow br01\nallow br", "", ErrDenied},
	} {
		f := files{map[string]string{"/main": test.main, "/i": "allow br0", "/s": test.included}, secret}
		if test.name == "included deny" || test.name == "included" {
			f.text["/i"] = test.included
		}
		err := Check(f, "/main", "br0")
		if test.want == nil {
			require.NoError(t, err, test.name)
		} else {
			require.ErrorIs(t, err, test.want, test.name)
		}
	}
	require.EqualError(t, Check(files{map[string]string{"/main": "allow br0\nx"}, nil}, "/main", "br0"), "/main:2: "+ErrSyntax.Error())
	require.ErrorIs(t, Check(files{map[string]string{"/main": "allow all"}, map[string]bool{"/main": true}}, "/main", "br0"), unix.EACCES)
}

func FuzzCheck(f *testing.F) {
	f.Add("allow br0\ninclude /main", "deny br0")
	f.Fuzz(func(t *testing.T, main, included string) {
		fs := files{map[string]string{"/main": main, "/i": included}, nil}
		if Check(fs, "/main", "br0") != nil {
			return
		}
		fs.text["/main"] += "\ndeny br0\n"
		if Check(fs, "/main", "br0") == nil {
			t.Fatal("a deny did not count")
		}
	})
}
