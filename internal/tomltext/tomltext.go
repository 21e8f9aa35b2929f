// Package tomltext reads TOML as people's editors write it, and says what is wrong with it
// in their terms instead of a Go program's.
package tomltext

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// ErrEncoding is matched where a file has another encoding than TOML's, UTF-8.
var ErrEncoding = errors.New("it is not in UTF-8")

// Plain returns the text of a file without the byte order mark that Windows' editors put
// before it. The error of UTF-16 matches ErrEncoding. Lines keep their numbers.
func Plain(data []byte) ([]byte, error) {
	for _, utf16 := range []string{"\xff\xfe", "\xfe\xff"} {
		if bytes.HasPrefix(data, []byte(utf16)) {
			return nil, fmt.Errorf("%w but in UTF-16: save it as UTF-8", ErrEncoding)
		}
	}
	return bytes.TrimPrefix(data, []byte("\ufeff")), nil
}

// octetRange is what the decoder says of a number that an octet does not hold.
var octetRange = regexp.MustCompile(`^(?:negative )?integer value (\S+) cannot be stored in uint8$`)

// mismatch is what it says of a value of another type than its key's.
var mismatch = regexp.MustCompile(`^cannot decode TOML (.+?) into (?:struct field .+ of type )?(.+)$`)

// Fault returns the line of a decoder's error, 0 where it belongs to none, and one line of
// what is wrong there. forms are how values of the caller's own types are written, by the
// name of the type as %T has it.
func Fault(err error, forms map[string]string) (line int, msg string) {
	msg = strings.TrimPrefix(err.Error(), "toml: ")
	var dec *toml.DecodeError
	if !errors.As(err, &dec) {
		return 0, msg
	}
	line, _ = dec.Position()
	msg = strings.TrimPrefix(dec.Error(), "toml: ")
	if m := mismatch.FindStringSubmatch(msg); m != nil {
		msg = fmt.Sprintf("%sit is a TOML %s: want %s", keyText(dec), m[1], want(m[2], forms))
	}
	if m := octetRange.FindStringSubmatch(msg); m != nil {
		msg = fmt.Sprintf("%s%s: want 0 to 255", keyText(dec), m[1])
	}
	for _, odd := range []struct{ begins, hint string }{
		{"unexpected character U+00E2", "use plain quotes"}, // the first octet of curly ones
		{"expected newline but got U+00C2", "there is a character that looks like a blank"},
		{"expected newline but got U+00E2", "there is a character that cannot be seen, or a curly quote"},
		{"expected newline but got U+000D", "lines end with a carriage return alone"},
		{"invalid UTF-8", "save it as UTF-8"},
	} {
		if strings.HasPrefix(msg, odd.begins) {
			msg += "; " + odd.hint
			break
		}
	}
	return line, msg
}

func keyText(dec *toml.DecodeError) string {
	if key := dec.Key(); len(key) > 0 {
		return key[len(key)-1] + ": "
	}
	return ""
}

// want is what a key of a Go type is written as.
func want(typ string, forms map[string]string) string {
	if form, own := forms[typ]; own {
		return form
	}
	switch typ {
	case "[]string":
		return `a list such as ["a", "b"]`
	case "bool":
		return "true or false, without quotes"
	case "string":
		return "text in quotes"
	}
	if strings.HasPrefix(typ, "int") || strings.HasPrefix(typ, "uint") {
		return "a number, without quotes"
	}
	return "a table, [NAME]"
}
