package tomltext

import (
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/require"
)

func TestFault(t *testing.T) {
	for text, want := range map[string]string{
		"a = 1\nb = '2'\n":   "b: it is a TOML string: want a number, without quotes",
		"a = 1\nl = 'x'\n":   `l: it is a TOML string: want a list such as ["a", "b"]`,
		"a = 1\nt = true\n":  "t: it is a TOML boolean: want text in quotes",
		"a = 1\nf = 'on'\n":  "f: it is a TOML string: want true or false, without quotes",
		"a = 1\no = 256\n":   "o: 256: want 0 to 255",
		"a = 1\no = -1\n":    "o: -1: want 0 to 255",
		"a = 1\ns = 'x'\n":   "s: it is a TOML string: want a table, [NAME]",
		"a = 1\nt = “x”\n":   "use plain quotes",
		"a = 1\nb = 2\rc=3":  "lines end with a carriage return alone",
		"a = 1\nt = '\xff'":  "save it as UTF-8",
		"a = 1\nb = 2\u00a0": "there is a character that looks like a blank",
	} {
		var into struct {
			A, B int
			L    []string
			T    string
			F    bool
			O    uint8
			S    struct{ X int }
		}
		err := toml.Unmarshal([]byte(text), &into)
		require.Error(t, err, text)
		line, msg := Fault(err, nil)
		require.Equal(t, 2, line, text)
		require.Contains(t, msg, want)
		require.NotContains(t, msg, "toml:")
	}
}

func FuzzText(f *testing.F) {
	f.Add([]byte("\ufeffa = 1\r\n"))
	f.Add([]byte("\xff\xfea\x00"))
	f.Add([]byte("a = 'x'"))
	f.Fuzz(func(t *testing.T, b []byte) {
		text, err := Plain(b)
		if err != nil {
			require.ErrorIs(t, err, ErrEncoding)
			return
		}
		require.True(t, strings.HasSuffix(string(b), string(text)))
		var into struct{ A int }
		if err := toml.Unmarshal(text, &into); err != nil {
			line, msg := Fault(err, nil)
			require.GreaterOrEqual(t, line, 0)
			require.NotEmpty(t, msg)
			require.NotContains(t, msg, "\n")
		}
	})
}
