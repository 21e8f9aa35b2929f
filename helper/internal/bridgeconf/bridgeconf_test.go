package bridgeconf

import (
	"strings"
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

var (
	main = []string{"/main"}
	br0  = Device{Names: []string{"br0"}}
)

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
		{"Windows' lines", "# one\r\n\r\nallow br0\r\n", "", nil},
		{"a long comment", "#" + strings.Repeat(" x", 3000) + "\nallow br0", "", nil},
		{"a long line", "allow " + strings.Repeat("x", 300), "", ErrSyntax},
		{"a byte order mark", "\ufeffallow br0", "", ErrMark},
		{"a byte order mark before a comment", "\ufeff# bridges\nallow br0", "", ErrMark},
		{"one of an included file", "allow all\ninclude /i", "\ufeffdeny br0", ErrMark},
		{"one that stands elsewhere", "\n\ufeffallow br0", "", ErrSyntax},
		{"UTF-16", "\xff\xfea\x00l\x00l\x00", "", ErrSyntax},
		{"a comment behind", "allow br0 # the LAN", "", ErrSyntax},
		{"a comment behind a deny", "allow all\ndeny br0 #", "", ErrSyntax},
		{"a comment at the word", "allow br0#", "", ErrDenied},
		{"equals", "allow=br0", "", ErrSyntax},
		{"no end", "allow br0", "", nil},
		{"prefix", "allow br01\nallow br", "", ErrDenied},
	} {
		f := files{map[string]string{"/main": test.main, "/i": "allow br0", "/s": test.included}, secret}
		if test.name == "included deny" || test.name == "included" || test.name == "one of an included file" {
			f.text["/i"] = test.included
		}
		err := Check(f, main, br0)
		if test.want == nil {
			require.NoError(t, err, test.name)
		} else {
			require.ErrorIs(t, err, test.want, test.name)
		}
	}
	require.EqualError(t, Check(files{map[string]string{"/main": "allow br0\nx"}, nil}, main, br0), "/main:2: "+ErrSyntax.Error())
	require.ErrorIs(t, Check(files{map[string]string{"/main": "allow all"}, map[string]bool{"/main": true}}, main, br0), unix.EACCES)
}

func TestCheckNames(t *testing.T) {
	d := Device{Names: []string{"br-mgmt", "mgmt", "a-very-long-alternative-name"}, Alias: "management"}
	for _, test := range []struct {
		text string
		ok   bool
	}{
		{"allow all\ndeny mgmt", false},
		{"allow all\ndeny br-mgmt", false},
		{"allow all\ndeny a-very-long-alternative-name", false},
		{"allow all\ndeny management", false},
		{"allow all\ndeny br0", true},
		{"allow mgmt", true},
		{"allow a-very-long-alternative-name", true},
		{"allow management", false}, // an alias is a description, and several devices may have the same
		{"allow br0", false},
	} {
		err := Check(files{map[string]string{"/main": test.text}, nil}, main, d)
		if test.ok {
			require.NoError(t, err, test.text)
		} else {
			require.ErrorIs(t, err, ErrDenied, test.text)
		}
	}
	// A device without an alias is not denied by an empty word: there is none.
	require.ErrorIs(t, Check(files{map[string]string{"/main": "allow all\ndeny"}, nil}, main, br0), ErrSyntax)
}

func TestCheckBothFiles(t *testing.T) {
	both := []string{"/main", "/rhel"}
	check := func(text map[string]string, secret ...string) error {
		f := files{text, map[string]bool{}}
		for _, s := range secret {
			f.secret[s] = true
		}
		return Check(f, both, br0)
	}
	const allow, deny = "allow br0", "deny br0"
	require.NoError(t, check(map[string]string{"/main": allow}))
	require.NoError(t, check(map[string]string{"/rhel": allow}))
	require.NoError(t, check(map[string]string{"/main": "allow br1", "/rhel": allow}))
	require.ErrorIs(t, check(map[string]string{"/main": allow, "/rhel": deny}), ErrDenied)
	require.ErrorIs(t, check(map[string]string{"/main": deny, "/rhel": allow}), ErrDenied)
	require.ErrorIs(t, check(map[string]string{"/main": "", "/rhel": ""}), ErrDenied)
	require.ErrorIs(t, check(map[string]string{}), unix.ENOENT)
	// What is there has to be read and understood.
	require.ErrorIs(t, check(map[string]string{"/main": allow, "/rhel": "x"}), ErrSyntax)
	require.ErrorIs(t, check(map[string]string{"/main": allow, "/rhel": ""}, "/rhel"), unix.EACCES)
	require.ErrorIs(t, check(map[string]string{"/main": allow, "/rhel": "include /none"}), unix.ENOENT)
	require.ErrorIs(t, check(map[string]string{"/main": "include /none", "/rhel": allow}), unix.ENOENT)
	require.ErrorIs(t, check(map[string]string{"/main": allow, "/rhel": "include /rhel"}), ErrLoop)
}

func TestAllowing(t *testing.T) {
	f := files{map[string]string{"/main": "deny all\ninclude /i\ninclude /s", "/i": "allow br0\nallow br1", "/s": "allow br2"}, map[string]bool{"/s": true}}
	paths, err := Allowing(f, []string{"/main", "/none"})
	require.NoError(t, err)
	require.Equal(t, []string{"/i"}, paths)
}

func FuzzCheck(f *testing.F) {
	f.Add("allow br0\ninclude /main", "deny br0")
	f.Add("\ufeffallow br0\r\n", "# "+strings.Repeat("x", 300))
	f.Fuzz(func(t *testing.T, text, included string) {
		fs := files{map[string]string{"/main": text, "/i": included}, nil}
		if Check(fs, main, br0) != nil {
			return
		}
		other := Device{Names: []string{"eth0", "br0"}, Alias: "lan"}
		if Check(fs, main, other) != nil && Check(fs, main, Device{Names: []string{"eth0"}, Alias: "lan"}) == nil {
			t.Fatal("an allow did not count under another name, and no deny did")
		}
		fs.text["/main"] += "\ndeny br0\n"
		if Check(fs, main, br0) == nil || Check(fs, main, other) == nil {
			t.Fatal("a deny did not count")
		}
	})
}
