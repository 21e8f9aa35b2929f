package xmlfilter

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/beevik/etree"
	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirtxml"

	"libvirt-direct/internal/settings"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

func load(t *testing.T, name string) *Domain {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	d, err := Parse(doc)
	require.NoError(t, err)
	return d
}

func TestParseReadsEveryNIC(t *testing.T) {
	d := load(t, "mixed.xml")
	require.Equal(t, "web 1 – ü", d.Name)
	require.Equal(t, "2a6a4a9c-8b2f-4c07-9d37-51a1b2c3d4e5", d.UUID)
	require.Len(t, d.NICs, 7)

	direct := d.NICs[0]
	require.Equal(t, "direct", direct.Type)
	require.Equal(t, "52:54:00:00:00:01", direct.MAC)
	require.Equal(t, Source{Dev: "nica", Mode: "bridge"}, direct.Source)
	require.Equal(t, []int{100}, direct.VLAN.Tags)
	require.True(t, direct.RxFilters)
	require.Equal(t, "storage", direct.Settings.Uplink)

	live := d.NICs[1]
	require.Equal(t, "net1", live.Source.Network)
	require.Equal(t, "9f4e", live.Source.PortID)
	require.Equal(t, "802.1Qbg", live.VirtualPort.Type)
	require.Equal(t, "0x0b", live.VirtualPort.Parameters["managerid"], "numbers in hex are libvirt's own spelling")
	require.NoError(t, live.Err())

	require.Equal(t, "wormhole", d.NICs[2].Type)
	require.Equal(t, "quantum", d.NICs[2].VirtualPort.Type)
	require.NoError(t, d.NICs[2].Err())

	require.Equal(t, 4, d.NICs[3].Queues)
	require.Equal(t, 1400, d.NICs[3].MTU)
	require.Equal(t, settings.OwnHook, d.NICs[3].Settings.Own, "words keyed by alias")

	require.ErrorIs(t, d.NICs[4].Err(), ErrNIC)
	require.Nil(t, d.NICs[6].Settings)
	require.Len(t, d.Stray, 1)
	require.Equal(t, "52:54:00:00:00:99", d.Stray[0].Key)
}

// A NIC that libvirtxml, an independent reader, understands must be read the same.
func TestParseAgreesWithLibvirtxml(t *testing.T) {
	d := load(t, "plain.xml")
	var peer libvirtxml.Domain
	require.NoError(t, peer.Unmarshal(string(d.doc)))
	require.Len(t, d.NICs, len(peer.Devices.Interfaces))
	for i, p := range peer.Devices.Interfaces {
		require.Equal(t, p.MAC.Address, d.NICs[i].MAC)
		require.Equal(t, p.Source.Direct.Dev, d.NICs[i].Source.Dev)
		require.Equal(t, p.Source.Direct.Mode, d.NICs[i].Source.Mode)
	}
}

func TestParseRefuses(t *testing.T) {
	nics := func(s string) string {
		return "<domain><metadata>" + s + "</metadata><devices><interface type='direct'><mac address='52:54:00:00:00:01'/></interface></devices></domain>"
	}
	for name, c := range map[string]struct {
		doc  string
		want error
	}{
		"empty":             {"", ErrSyntax},
		"cut off":           {"<domain><name>x</name>", ErrSyntax},
		"two roots":         {"<domain/><domain/>", ErrSyntax},
		"text behind":       {"<domain/>x", ErrSyntax},
		"crossed tags":      {"<domain><a></domain></a>", ErrSyntax},
		"unknown entity":    {"<domain>&x;</domain>", ErrSyntax},
		"too deep":          {strings.Repeat("<domain>", 300) + strings.Repeat("</domain>", 300), ErrSyntax},
		"others' too deep":  {"<domain><x:a xmlns:x='urn:x'>" + strings.Repeat("<a>", 300) + strings.Repeat("</a>", 300) + "</x:a></domain>", ErrSyntax},
		"others' crossed":   {"<domain><x:a xmlns:x='urn:x'><b><c></b></c></x:a></domain>", ErrSyntax},
		"another root":      {"<network/>", ErrNotDomain},
		"unknown word":      {nics("<nics xmlns='urn:libvirt-direct:1'><nic mac='52:54:00:00:00:01' vlna='3'/></nics>"), ErrSettings},
		"no key":            {nics("<nics xmlns='urn:libvirt-direct:1'><nic vlan='3'/></nics>"), ErrSettings},
		"two keys":          {nics("<nics xmlns='urn:libvirt-direct:1'><nic mac='52:54:00:00:00:01' alias='ua-x'/></nics>"), ErrSettings},
		"bad key":           {nics("<nics xmlns='urn:libvirt-direct:1'><nic mac='52:54:00'/></nics>"), ErrSettings},
		"said twice":        {nics("<nics xmlns='urn:libvirt-direct:1'><nic mac='52:54:00:00:00:01'/><nic mac='52:54:00:00:00:01'/></nics>"), ErrSettings},
		"VLAN out of range": {nics("<nics xmlns='urn:libvirt-direct:1'><nic mac='52:54:00:00:00:01' vlan='4095'/></nics>"), ErrSettings},
		"unknown mode":      {nics("<nics xmlns='urn:libvirt-direct:1'><nic mac='52:54:00:00:00:01' mode='passthru'/></nics>"), ErrSettings},
		"unknown owner":     {nics("<nics xmlns='urn:libvirt-direct:1'><nic mac='52:54:00:00:00:01' own='me'/></nics>"), ErrSettings},
		"unknown element":   {nics("<nix xmlns='urn:libvirt-direct:1'/>"), ErrSettings},
		"unknown wish":      {nics("<nics xmlns='urn:libvirt-direct:1' rewrite='maybe'/>"), ErrSettings},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.doc))
			require.ErrorIs(t, err, c.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestUUID(t *testing.T) {
	const uuid = "aaaaaaaa-0000-4000-8000-00000000000b"
	for doc, want := range map[string]string{
		"<domain><name>x</name><uuid> " + strings.ToUpper(uuid) + "\n</uuid>":                       uuid,
		"<domain><x:uuid xmlns:x='urn:x'>1</x:uuid><a><uuid>2</uuid></a><uuid>" + uuid + "</uuid>&": uuid,
		"<domain><uuid>a<!-- c --><b>d</b>e</uuid></domain>":                                        "ae",
		"<domain><uuid>" + uuid:                                                  "",
		"<domain/><domain><uuid>" + uuid + "</uuid></domain>":                    "",
		"<network><uuid>" + uuid + "</uuid></network>":                           "",
		"<x:domain xmlns:x='urn:x'><uuid>" + uuid + "</uuid></x:domain>":         "",
		"<?xml version='1.0' encoding='KOI8-R'?><domain><uuid>a</uuid></domain>": "",
		"<domain><name>&n;</name><uuid>a</uuid></domain>":                        "",
		"": "",
	} {
		require.Equal(t, want, UUID([]byte(doc)), doc)
	}
}

func TestRewriteNothingReturnsTheSameBytes(t *testing.T) {
	for _, name := range []string{"mixed.xml", "plain.xml", "odd.xml"} {
		d := load(t, name)
		out, err := d.Rewrite(nil)
		require.NoError(t, err)
		require.Equal(t, string(d.doc), string(out))
		out, err = d.Rewrite([]Change{{NIC: 0}})
		require.NoError(t, err)
		require.Equal(t, string(d.doc), string(out))
	}
}

var rewrites = map[string]struct {
	in      string
	changes []Change
}{
	"vlan":      {"mixed.xml", []Change{{NIC: 0, SourceDev: "nica.100", DropVLAN: true, Keep: true, Settings: map[string]string{settings.NameVLAN: "100"}}}},
	"ethernet":  {"plain.xml", []Change{{NIC: 1, Ethernet: "ldt0123456789", Keep: true, Settings: map[string]string{settings.NameOwn: settings.OwnHook, settings.NameDev: "nicb", settings.NameMode: "vepa"}}}},
	"rename":    {"plain.xml", []Change{{NIC: 0, SourceDev: "enp<b>'"}, {NIC: 2, SourceDev: "enpb.7"}}},
	"drop-word": {"mixed.xml", []Change{{NIC: 0, Settings: map[string]string{settings.NameUplink: ""}}}},
	"odd":       {"odd.xml", []Change{{NIC: 0, Ethernet: "ldt1", Keep: true, Settings: map[string]string{settings.NameOwn: settings.OwnHook}}, {NIC: 1, SourceDev: "b"}}},
}

func TestRewriteGolden(t *testing.T) {
	for name, c := range rewrites {
		t.Run(name, func(t *testing.T) {
			d := load(t, c.in)
			out, err := d.Rewrite(c.changes)
			require.NoError(t, err)
			golden(t, "rewrite-"+name+".golden", out)
			requireSameElsewhere(t, d.doc, out, c.changes)
		})
	}
}

func TestUndoRestoresTheBytes(t *testing.T) {
	for name, c := range rewrites {
		if !c.changes[0].Keep {
			continue
		}
		t.Run(name, func(t *testing.T) {
			d := load(t, c.in)
			out, err := d.Rewrite(c.changes[:1])
			require.NoError(t, err)
			after, err := Parse(out)
			require.NoError(t, err)
			back, err := after.Undo()
			require.NoError(t, err)
			require.Equal(t, string(d.doc), string(back))
		})
	}
}

func TestUndoKeepsLaterEdits(t *testing.T) {
	d := load(t, "plain.xml")
	out, err := d.Rewrite(rewrites["ethernet"].changes)
	require.NoError(t, err)
	edited := strings.Replace(string(out), "<model type='virtio'/>", "<model type='e1000e'/>", 2)
	after, err := Parse([]byte(edited))
	require.NoError(t, err)
	back, err := after.Undo()
	require.NoError(t, err)
	require.Equal(t, strings.Replace(string(d.doc), "<model type='virtio'/>", "<model type='e1000e'/>", 2), string(back))
}

func TestRewriteTwiceKeepsTheFirstOriginal(t *testing.T) {
	d := load(t, "plain.xml")
	out, err := d.Rewrite(rewrites["ethernet"].changes)
	require.NoError(t, err)
	again, err := Parse(out)
	require.NoError(t, err)
	require.Equal(t, "vepa", again.NICs[1].Settings.Was.Source.Mode)
	same, err := again.Rewrite(rewrites["ethernet"].changes)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(same), "<ld:was"))
}

// virsh metadata --set gives only the outermost element our namespace.
func TestWordsAsVirshSetsThem(t *testing.T) {
	d, err := Parse([]byte("<domain><metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'><nic mac='52:54:00:00:00:01' own='hook'/></ld:nics></metadata>" +
		"<devices><interface type='direct'><mac address='52:54:00:00:00:01'/><source dev='a'/></interface></devices></domain>"))
	require.NoError(t, err)
	require.Equal(t, settings.OwnHook, d.NICs[0].Settings.Own)
	out, err := d.Rewrite([]Change{{NIC: 0, Ethernet: "ldt1", Keep: true, Settings: map[string]string{settings.NameMode: "vepa"}}})
	require.NoError(t, err)
	after, err := Parse(out)
	require.NoError(t, err)
	back, err := after.Undo()
	require.NoError(t, err)
	require.Equal(t, string(d.doc), string(back))
}

func TestSetRewrite(t *testing.T) {
	for _, name := range []string{"plain.xml", "mixed.xml", "odd.xml"} {
		out, err := load(t, name).SetRewrite("no")
		require.NoError(t, err)
		d, err := Parse(out)
		require.NoError(t, err)
		require.Equal(t, "no", d.Wish)
	}
}

// requireSameElsewhere checks with an independent parser that nothing but the
// changed interfaces and our metadata differs.
func requireSameElsewhere(t *testing.T, before, after []byte, changes []Change) {
	t.Helper()
	strip := func(doc []byte) string {
		tree := etree.NewDocument()
		require.NoError(t, tree.ReadFromBytes(doc))
		nics := tree.FindElements("/domain/devices/interface")
		for _, c := range changes {
			p := nics[c.NIC]
			for len(p.Child) > 0 {
				p.RemoveChildAt(0)
			}
			p.Attr = nil
		}
		for _, m := range tree.FindElements("/domain/metadata") {
			for _, e := range m.ChildElements() {
				if e.NamespaceURI() == Namespace {
					m.RemoveChild(e)
				}
			}
			if len(m.ChildElements()) == 0 {
				m.Parent().RemoveChild(m)
			}
		}
		tree.Unindent()
		s, err := tree.WriteToString()
		require.NoError(t, err)
		return s
	}
	require.Equal(t, strip(before), strip(after))
}

func FuzzRewrite(f *testing.F) {
	names, err := filepath.Glob("testdata/*.xml")
	if err != nil || len(names) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, n := range names {
		doc, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(doc, "eth0.5", "ldt0")
	}
	for _, doc := range encodedSeeds(f) {
		f.Add(doc, "ö→", "ldt0")
	}
	f.Fuzz(func(t *testing.T, doc []byte, dev, target string) {
		d, err := Parse(doc)
		if err != nil {
			if !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrEncoding) && !errors.Is(err, ErrNotDomain) && !errors.Is(err, ErrSettings) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if same, err := d.Rewrite(nil); err != nil || !bytes.Equal(same, doc) {
			t.Fatalf("%v, and %q", err, same)
		}
		if uuid := UUID(doc); uuid != d.UUID {
			t.Fatalf("%q and %q", uuid, d.UUID)
		}
		for i := range d.NICs {
			n := &d.NICs[i]
			for _, c := range []Change{
				{NIC: i, SourceDev: dev, DropVLAN: true, Keep: true},
				{NIC: i, Ethernet: target, Keep: true, Settings: map[string]string{settings.NameOwn: settings.OwnHook}},
			} {
				out, err := d.Rewrite([]Change{c})
				if errors.Is(err, ErrNIC) && (n.MAC == "" || !settings.Printable(dev) || !settings.Printable(target)) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				after, err := Parse(out)
				if err != nil {
					t.Fatalf("%v in %q", err, out)
				}
				if len(after.NICs) != len(d.NICs) {
					t.Fatalf("%d NICs became %d in %q", len(d.NICs), len(after.NICs), out)
				}
				if _, err := after.Undo(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	doc, err := os.ReadFile("testdata/plain.xml")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(doc)))
	for b.Loop() {
		if _, err := Parse(doc); err != nil {
			b.Fatal(err)
		}
	}
}
