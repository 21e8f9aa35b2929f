package hooks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/xmlfilter"
)

var allOps = []step.Op{step.Prepare, step.Start, step.Started, step.Stopped, step.Release, step.Migrate, step.Restore, step.Reconnect}

// inUTF16 is text in UTF-16 with a byte order mark.
func inUTF16(order binary.AppendByteOrder, s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune("\ufeff" + s)) {
		b = order.AppendUint16(b, u)
	}
	return string(b)
}

// inEBCDIC is ASCII text in the characters that all EBCDIC code pages share.
func inEBCDIC(s string) string {
	const ascii = " \"%&'()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
	const ebcdic = "\x40\x7f\x6c\x50\x7d\x4d\x5d\x5c\x4e\x6b\x60\x4b\x61\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\x7a\x5e\x4c\x7e\x6e\x6f" +
		"\xc1\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xd1\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\x6d" +
		"\x81\x82\x83\x84\x85\x86\x87\x88\x89\x91\x92\x93\x94\x95\x96\x97\x98\x99\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9"
	b := []byte(s)
	for i, c := range b {
		b[i] = ebcdic[strings.IndexByte(ascii, c)]
	}
	return string(b)
}

// encodings are ways to write a domain down. libvirt itself writes plain UTF-8; the
// filter operations see what a person has given to `virsh restore --xml`.
var encodings = map[string]func(string) string{
	"UTF-8":           func(s string) string { return s },
	"byte order mark": func(s string) string { return "\xef\xbb\xbf" + s },
	"ISO-8859-1": func(s string) string {
		return `<?xml version="1.0" encoding="ISO-8859-1"?><!-- K` + "\xfc" + `che -->` + s
	},
	"US-ASCII": func(s string) string { return `<?xml version="1.0" encoding="us-ascii"?>` + s },
	"DOCTYPE":  func(s string) string { return `<!DOCTYPE domain [<!ENTITY n "x">]>` + s },
	"an entity": func(s string) string {
		return `<!DOCTYPE domain [<!ENTITY n "x">]>` + strings.Replace(s, "<name>", "<name>&n;", 1)
	},
	"UTF-16LE":   func(s string) string { return inUTF16(binary.LittleEndian, s) },
	"UTF-16BE":   func(s string) string { return inUTF16(binary.BigEndian, s) },
	"EBCDIC":     func(s string) string { return inEBCDIC(`<?xml version="1.0" encoding="IBM037"?>` + s) },
	"KOI8-R":     func(s string) string { return `<?xml version="1.0" encoding="KOI8-R"?><!-- ` + "\xcb" + ` -->` + s },
	"broken":     func(s string) string { return s[:len(s)-1] },
	"no UUID":    func(s string) string { return strings.ReplaceAll(s, "uuid", "id") },
	"a bad UUID": func(s string) string { return strings.ReplaceAll(s, uuidA, "../"+uuidA) },
}

// read are those that can be understood, and not only be recognised.
var read = []string{"UTF-8", "byte order mark", "ISO-8859-1", "US-ASCII", "DOCTYPE"}

// A domain that has nothing for us gets neither an error nor a word from us, whatever
// its bytes are.
func TestForeignDomainsInAnyBytes(t *testing.T) {
	for what, doc := range map[string]string{
		"bridge": domain(uuidA, "", "<interface type='user'/><interface type='bridge'><source bridge='br0'/></interface>"+
			"<emulator>/usr/bin/indirect</emulator><disk><driver cache='directsync'/></disk>"),
		"network":                  domain(uuidA, "", `<interface type="network"><source network="default"/><vlan><tag id="7"/></vlan></interface>`),
		"a device of another kind": domain(uuidA, "", "<hostdev mode='subsystem' type='pci'><source><address bus='3'/></source></hostdev>"),
	} {
		for name, encode := range encodings {
			for _, op := range append(allOps, "attach") {
				t.Run(fmt.Sprintf("%s, %s, %s", what, name, op), func(t *testing.T) {
					w := newWorld(t, "", "nica")
					w.hook.Config = func() (*config.Config, error) { panic("config read") }
					w.hook.Kernel = func() (step.Kernel, func(), error) { panic("kernel asked") }
					require.Empty(t, w.must(op, encode(doc)))
					require.Empty(t, w.log.String())
					require.NoDirExists(t, w.journal)
				})
			}
		}
	}
}

// What concerns us is mapped in each encoding that is read, and else refused by name.
func TestFiltersInAnyEncoding(t *testing.T) {
	for name, c := range map[string]struct{ doc, want string }{
		"direct":  {domain(uuidA, "", direct(mac1, "nica", "vepa")), "<source dev='enpb' mode='vepa'/>"},
		"setting": {domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt1")), "dev='enpb'"},
		"an attribute with a reference": {
			domain(uuidA, "", strings.Replace(direct(mac1, "nica", "vepa"), "'direct'", `"dir&#x65;&#0000000000000000000099;t"`, 1)),
			"<source dev='enpb' mode='vepa'/>"},
	} {
		for _, op := range []step.Op{step.Migrate, step.Restore} {
			w := newWorld(t, twoUplinks, "enpb")
			plain := w.must(op, c.doc)
			require.Contains(t, plain, c.want, name)
			for _, encoding := range read {
				require.Equal(t, encodings[encoding](plain), w.must(op, encodings[encoding](c.doc)), "%s in %s", name, encoding)
			}
			for encoding, said := range map[string]string{"UTF-16LE": "UTF-16", "UTF-16BE": "UTF-16", "EBCDIC": "EBCDIC", "KOI8-R": "KOI8-R"} {
				if encoding == "EBCDIC" && strings.Contains(c.doc, "#") {
					continue
				}
				out, err := w.run(op, encodings[encoding](c.doc))
				require.Empty(t, out)
				require.ErrorIs(t, err, xmlfilter.ErrEncoding, "%s in %s", name, encoding)
				require.ErrorContains(t, err, said)
			}
			for _, encoding := range []string{"broken", "an entity"} {
				_, err := w.run(op, encodings[encoding](c.doc))
				require.ErrorIs(t, err, xmlfilter.ErrSyntax, "%s in %s", name, encoding)
			}
		}
	}
}

// The journal decides, not the XML: a domain that concerns us no more is cleaned up
// after, as far as it can be told which one it is.
func TestForeignDomainThatWasOurs(t *testing.T) {
	for _, encoding := range []string{"UTF-8", "byte order mark", "ISO-8859-1", "US-ASCII", "DOCTYPE", "broken", "UTF-16LE"} {
		for _, op := range []step.Op{step.Prepare, step.Release} {
			t.Run(encoding+" "+string(op), func(t *testing.T) {
				w := newWorld(t, "", "nica")
				before := w.dump()
				w.must(step.Prepare, domain(uuidA, "", direct(mac1, "nica.100", "vepa")))
				held := w.dump()
				require.NotEqual(t, before, held)
				require.Empty(t, w.must(op, encodings[encoding](domain(uuidA, "", "<interface type='user'/>"))))
				if encoding == "UTF-16LE" {
					require.Equal(t, held, w.dump())
					return
				}
				require.Equal(t, before, w.dump())
				require.Empty(t, w.journals())
			})
		}
	}
}

// Nothing on the host can refuse a domain that has nothing for us.
func TestForeignDomainOnABrokenHost(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"journal is no directory": func(w *world) {
			require.NoError(w.t, os.RemoveAll(w.journal))
			require.NoError(w.t, os.WriteFile(w.journal, nil, 0o600))
		},
		"journal of the domain is a directory": func(w *world) {
			file := filepath.Join(w.journal, "domains", uuidA+".json")
			require.NoError(w.t, os.Remove(file))
			require.NoError(w.t, os.Mkdir(file, 0o700))
		},
		"no configuration, no kernel": func(w *world) {
			w.hook.Config = func() (*config.Config, error) { return nil, errors.New("no configuration") }
			w.hook.Kernel = func() (step.Kernel, func(), error) { return nil, nil, errors.New("no kernel") }
		},
		"a lock that stays": func(w *world) {
			dir, err := journal.Open(w.journal)
			require.NoError(w.t, err)
			unlock, err := dir.Lock(w.t.Context(), "domain-"+uuidA)
			require.NoError(w.t, err)
			w.t.Cleanup(unlock)
		},
	} {
		for _, op := range allOps {
			t.Run(name+" "+string(op), func(t *testing.T) {
				w := newWorld(t, "", "nica")
				w.must(step.Prepare, domain(uuidA, "", direct(mac1, "nica.100", "vepa")))
				spoil(w)
				w.log.Reset()
				from := time.Now()
				if name == "a lock that stays" && op != step.Prepare && op != step.Start {
					w.cfg.Deadline = config.Duration(1e6) // what ends may take the time that it is given
				}
				require.Empty(t, w.must(op, domain(uuidA, "", "<interface type='user'/>")))
				require.Less(t, time.Since(from), time.Second)
				if op == step.Release && name != "journal of the domain is a directory" {
					require.Contains(t, w.log.String(), `level=WARN msg="release \"vm\": `)
				}
			})
		}
	}
}

// FuzzForeign holds that a document in which we find nothing is passed by without a
// word, and that one which we would have to do with is not passed by.
func FuzzForeign(f *testing.F) {
	for _, doc := range []string{
		domain(uuidA, "", "<interface type='user'/>"), domain(uuidA, "", direct(mac1, "nica", "vepa")),
		domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt1")),
		domain(uuidA, "", bridged(mac1, "br0", "", trunkVLAN)), domain(uuidA, "", onSwitch(mac1)),
		domain(uuidA, "", "<interface type=\"hostdev\">"+qbg("11")+"</interface>"),
		strings.Replace(domain(uuidA, "", direct(mac1, "nica", "vepa")), "'direct'", `"dir&#x65;c&#116;"`, 1),
		"<domain xmlns:q=''><devices><interface type='bridge'><q:vlan/></interface></devices></domain>",
	} {
		for name, encode := range encodings {
			if name == "EBCDIC" && strings.ContainsAny(doc, "#") {
				continue
			}
			f.Add([]byte(encode(doc)))
		}
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if !plan.MayConcern(doc) && !plan.MayNameDevice(doc) {
			w := newWorld(t, "", "nica")
			w.hook.Config = func() (*config.Config, error) { panic("config read") }
			w.hook.Kernel = func() (step.Kernel, func(), error) { panic("kernel asked") }
			for _, op := range allOps {
				require.Empty(t, w.must(op, string(doc)))
			}
			require.Empty(t, w.log.String())
		}
		d, err := xmlfilter.Parse(doc)
		if d != nil && (plan.Concerns(d) || d.Wish != "" || errors.Is(err, xmlfilter.ErrSettings)) {
			require.True(t, plan.MayConcern(doc))
		}
	})
}
