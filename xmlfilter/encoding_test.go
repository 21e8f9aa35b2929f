package xmlfilter

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/settings"
)

const byteOrderMark = "\xef\xbb\xbf"

// latin1 is text in ISO-8859-1.
func latin1(t testing.TB, s string) []byte {
	t.Helper()
	var b []byte
	for _, r := range s {
		require.LessOrEqual(t, r, rune(0xff))
		b = append(b, byte(r))
	}
	return b
}

// utf16In is text in UTF-16 of one byte order, with its mark or without.
func utf16In(order binary.AppendByteOrder, mark bool, s string) []byte {
	if mark {
		s = "\ufeff" + s
	}
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = order.AppendUint16(b, u)
	}
	return b
}

// umlauts is a domain with text on both sides of everything that an edit changes.
const umlauts = `<domain><name>Küche</name><uuid>` + uuidOfLarge + `</uuid><title>ÿ</title><devices>` +
	`<interface type='direct'><!-- große --><mac address='52:54:00:00:00:01'/><source dev='nicä' mode='vepa'/><alias name='ua-ö'/></interface>` +
	`</devices><description>` + "\u0085\u00a0" + `»Ende«</description></domain>` + "\n"

// What is edited and what is not is the same in each encoding.
func TestEncodings(t *testing.T) {
	asciiOnly := strings.NewReplacer("ü", "u", "ÿ", "y", "ß", "ss", "ä", "a", "ö", "o", "\u0085\u00a0", "", "»", "", "«", "").Replace(umlauts)
	for name, c := range map[string]struct {
		head, text string
		encode     func(string) []byte
		dev        string // as it is written
	}{
		"UTF-8":              {"", umlauts, func(s string) []byte { return []byte(s) }, "ö→"},
		"UTF-8, said":        {`<?xml version="1.0" encoding="utf-8"?>`, umlauts, func(s string) []byte { return []byte(s) }, "ö→"},
		"byte order mark":    {`<?xml version="1.0"?>`, umlauts, func(s string) []byte { return []byte(byteOrderMark + s) }, "ö→"},
		"DOCTYPE":            {`<!DOCTYPE domain [<!ENTITY n "x">]>`, umlauts, func(s string) []byte { return []byte(s) }, "ö→"},
		"ISO-8859-1":         {`<?xml version="1.0" encoding="ISO-8859-1"?>`, umlauts, func(s string) []byte { return latin1(t, s) }, "ö&#8594;"},
		"by its other names": {"<?xml version='1.0'\n encoding = 'latin1' standalone='yes' ?>\n", umlauts, func(s string) []byte { return latin1(t, s) }, "ö&#8594;"},
		"US-ASCII":           {`<?xml version="1.0" encoding="us-ascii"?>`, asciiOnly, func(s string) []byte { return []byte(s) }, "&#246;&#8594;"},
	} {
		t.Run(name, func(t *testing.T) {
			text := c.head + c.text
			doc := c.encode(text)
			d, err := Parse(doc)
			require.NoError(t, err)
			if c.text == umlauts {
				require.Equal(t, "Küche", d.Name)
				require.Equal(t, "nicä", d.NICs[0].Source.Dev)
				require.Equal(t, "ua-ö", d.NICs[0].Alias)
			}
			same, err := d.Rewrite(nil)
			require.NoError(t, err)
			require.Equal(t, doc, same)

			source := "<source dev='nicä' mode='vepa'/>"
			if c.text == asciiOnly {
				source = "<source dev='nica' mode='vepa'/>"
			}
			require.Contains(t, text, source)
			out, err := d.Rewrite([]Change{{NIC: 0, SourceDev: "ö→"}})
			require.NoError(t, err)
			require.Equal(t, c.encode(strings.Replace(text, source, "<source dev='"+c.dev+"' mode='vepa'/>", 1)), out)
			again, err := Parse(out)
			require.NoError(t, err)
			require.Equal(t, "ö→", again.NICs[0].Source.Dev)

			kept, err := d.Rewrite([]Change{{NIC: 0, Ethernet: "ldt0", Keep: true, Settings: map[string]string{settings.NameOwn: settings.OwnHook}}})
			require.NoError(t, err)
			again, err = Parse(kept)
			require.NoError(t, err)
			back, err := again.Undo()
			require.NoError(t, err)
			require.Equal(t, doc, back)
		})
	}
}

func TestUnsupportedEncodings(t *testing.T) {
	const said = `<?xml version="1.0" encoding="UTF-16"?><domain/>`
	for name, c := range map[string]struct {
		doc  []byte
		want string
	}{
		"UTF-16LE":        {utf16In(binary.LittleEndian, true, said), "UTF-16"},
		"UTF-16BE":        {utf16In(binary.BigEndian, true, said), "UTF-16"},
		"no mark, LE":     {utf16In(binary.LittleEndian, false, said), "UTF-16"},
		"no mark, BE":     {utf16In(binary.BigEndian, false, "<domain/>"), "UTF-16"},
		"UTF-32LE":        {[]byte("\xff\xfe\x00\x00<\x00\x00\x00"), "UTF-32"},
		"UTF-32BE":        {[]byte("\x00\x00\xfe\xff\x00\x00\x00<"), "UTF-32"},
		"EBCDIC":          {[]byte("\x4c\x6f\xa7\x94\x93\x40"), "EBCDIC"},
		"Cyrillic":        {[]byte("<?xml version='1.0' encoding='KOI8-R'?><domain/>"), "KOI8-R"},
		"only in the XML": {[]byte(said), "UTF-16"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(c.doc)
			require.ErrorIs(t, err, ErrEncoding)
			var e *EncodingError
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.want, e.Name)
			require.EqualError(t, err, "domain XML: unsupported encoding "+c.want+"; supported are UTF-8, ISO-8859-1 and US-ASCII")
			_, _, err = ParseHook(c.doc)
			require.ErrorIs(t, err, ErrEncoding)
		})
	}
	_, err := Parse([]byte("<?xml version='1.0' encoding='us-ascii'?><domain>\xfc</domain>"))
	require.ErrorIs(t, err, ErrSyntax)
}

// encodedSeeds are documents that a fuzz target would not soon find by itself.
func encodedSeeds(f *testing.F) [][]byte {
	plain, err := os.ReadFile("testdata/plain.xml")
	if err != nil {
		f.Fatal(err)
	}
	text := string(plain)
	seeds := [][]byte{
		[]byte(byteOrderMark + text),
		utf16In(binary.LittleEndian, true, text), utf16In(binary.BigEndian, true, text), utf16In(binary.LittleEndian, false, text),
		[]byte("\x4c\x6f\xa7\x94\x93\x40\xa5\x85\x99\xa2\x89\x96\x95\x7e\x7f\xf1\x4b\xf0\x7f\x6f\x6e\x4c\x84\x96\x94\x81\x89\x95\x61\x6e"), // <?xml version="1.0"?><domain/>
		[]byte(`<!DOCTYPE domain [<!ENTITY n "x"><!ENTITY d 'direct'>]>` + text),
	}
	for _, label := range []string{"ISO-8859-1", "latin1", "us-ascii", "UTF-8", "UTF-16", "KOI8-R"} {
		seeds = append(seeds, latin1(f, `<?xml version="1.0" encoding="`+label+`"?>`+umlauts))
	}
	return seeds
}

func TestASCII(t *testing.T) {
	const want = `<domain a="direct">`
	for name, doc := range map[string]string{
		"ASCII":       want,
		"UTF-16LE":    string(utf16In(binary.LittleEndian, false, want)),
		"UTF-16BE":    string(utf16In(binary.BigEndian, false, want)),
		"references":  `<domain a="&#100;i&#x72;&#0000000000000000000000101;&#x000063;t">`,
		"both":        string(utf16In(binary.BigEndian, false, `<domain a="dir&#101;ct">`)),
		"a character": `<domain a="&#100;irect&#62;`,
	} {
		require.Contains(t, string(ASCII([]byte(doc))), want[:len(want)-2], name)
	}
	const ebcdic = "\x4c\x6f\xa7\x94\x93\x6f\x6e\x4c\x81\x60\x82\x7e\x7d\xf0\xf9\x7d\x61\x6e"
	require.Equal(t, "<?xml?><a-b='09'/>", string(ASCII([]byte(ebcdic))))
	for _, kept := range []string{"", "&#", "&#x", "&#x64", "&#64", "&#;", "&#128;", "&#x100000000000000000064;", "&#d;", "&amp;#100;", "K\xfcche", "&#&#"} {
		require.Equal(t, kept, string(ASCII([]byte(kept))))
	}
	require.Equal(t, "&#d", string(ASCII([]byte("&#&#100;"))))
	require.Equal(t, "&#100;", string(ASCII([]byte("&#38;#100;"))), "a reference is resolved once")
}
