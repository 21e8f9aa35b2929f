package hooks

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

func TestFilters(t *testing.T) {
	for name, c := range map[string]struct{ doc, want string }{
		"nothing to map":     {domain(uuidA, "", direct(mac1, "enpb", "vepa")), ""},
		"another's name":     {domain(uuidA, "", direct(mac1, "nica", "vepa")), "dev='enpb'"},
		"another's VLAN":     {domain(uuidA, "", direct(mac1, "nica.100", "vepa")), "dev='enpb.100'"},
		"the uplink's name":  {domain(uuidA, "", direct(mac1, "storage", "vepa")), "uplink='storage'"},
		"by word":            {domain(uuidA, "<ld:nic mac='"+mac1+"' uplink='storage'/>", direct(mac1, "whatever", "vepa")), "dev='enpb'"},
		"VLAN by word":       {domain(uuidA, "<ld:nic mac='"+mac1+"' uplink='storage'/>", direct(mac1, "whatever.100", "vepa")), "dev='enpb.100'"},
		"owned, by dev":      {domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt1")), "dev='enpb'"},
		"owned, by uplink":   {domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' uplink='storage'/>", owned(mac1, "ldt1")), ""},
		"libvirt's own pool": {domain(uuidA, "", "<interface type='direct'><source network='pool' dev='nica' mode='vepa'/></interface>"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, op := range []step.Op{step.Migrate, step.Restore} {
				w := newWorld(t, twoUplinks, "enpb")
				out := w.must(op, c.doc)
				if c.want == "" {
					require.Empty(t, out)
				} else {
					require.Contains(t, out, c.want)
					require.Empty(t, w.must(op, out), "what was mapped needs no mapping")
				}
				require.Zero(t, w.calls)
				_, err := os.Stat(w.journal)
				require.ErrorIs(t, err, os.ErrNotExist, "nothing is allocated")
			}
		})
	}
}

func TestWhatCannotBeMappedCancels(t *testing.T) {
	w := newWorld(t, twoUplinks, "enpb")
	_, err := w.run(step.Migrate, domain(uuidA, "", direct(mac1, "eth7", "vepa")))
	require.ErrorIs(t, err, plan.ErrNoDevice)
	require.Equal(t, `domain "vm a", NIC 52:54:00:00:00:01: no such device on this host: "eth7"; say what it is here: `+
		`[uplink.NAME] device = "…", also = ["eth7"] in /etc/libvirt-direct/config.toml`, err.Error())
	w.kernel.Links = map[int]*link.Link{}
	_, err = w.run(step.Restore, domain(uuidA, "", direct(mac1, "nica", "vepa")))
	require.ErrorIs(t, err, plan.ErrNoDevice)
	require.ErrorIs(t, err, link.ErrNotFound)
	require.Contains(t, err.Error(), `uplink "storage"`)
}

// A guest goes there and back: B's name for the network is not known on A, but the
// words tell.
func TestMigrationThereAndBack(t *testing.T) {
	a := newWorld(t, "[uplink.storage]\ndevice='nica'\nalso=['enpb']\n", "nica")
	b := newWorld(t, "[uplink.storage]\ndevice='enpb'\nalso=['nica']\n", "enpb")
	doc := domain(uuidA, "<ld:nic mac='"+mac3+"' own='hook' uplink='storage' vlan='7'/>",
		direct(mac1, "nica", "bridge")+direct(mac2, "nica.100", "vepa")+owned(mac3, "ldt1"))
	there := b.must(step.Migrate, doc)
	require.Contains(t, there, "dev='enpb'")
	require.Contains(t, there, "dev='enpb.100'")
	b.must(step.Prepare, there)
	require.True(t, b.has("enpb.100") && b.has("ldt1") && b.has("enpb.7"))
	back := a.must(step.Migrate, there)
	require.Contains(t, back, "dev='nica'")
	require.Contains(t, back, "dev='nica.100'")
	a.must(step.Prepare, back)
	b.must(step.Release, there)
	a.must(step.Release, back)
	require.False(t, b.has("enpb.100") || a.has("nica.100"))
}

// Where a domain comes from decides whose names stand in it. A device of this host goes
// before what other hosts call an uplink, unless the domain comes from one of those; the
// uplink that the settings name goes before both.
func TestNamesByOrigin(t *testing.T) {
	const lan = "[uplink.storage]\ndevice='enpb'\nalso=['nica']\n"
	noted := "<ld:nic mac='" + mac1 + "' uplink='storage'/>"
	for _, c := range []struct {
		op      step.Op
		here    bool // a device of this host is called nica
		setting string
		want    string // <source dev=>, "" for the same
	}{
		{step.Migrate, false, "", "enpb"},
		{step.Migrate, true, "", "enpb"},
		{step.Migrate, true, noted, "enpb"},
		{step.Restore, false, "", "enpb"},
		{step.Restore, true, "", ""},
		{step.Restore, true, noted, "enpb"},
	} {
		for _, vlan := range []string{"", ".100"} {
			w := newWorld(t, lan, "enpb")
			if c.here {
				w = newWorld(t, lan, "enpb", "nica")
			}
			out := w.must(c.op, domain(uuidA, c.setting, direct(mac1, "nica"+vlan, "vepa")))
			if c.want == "" {
				require.Empty(t, out, "%+v", c)
				continue
			}
			require.Contains(t, out, "<source dev='"+c.want+vlan+"'", "%+v", c)
		}
	}
	// At its start, and once it runs, it is the device that it says.
	w := newWorld(t, lan+"vlans=['5']\n", "enpb", "nica")
	w.must(step.Prepare, domain(uuidA, "", direct(mac1, "nica.100", "vepa")))
	require.True(t, w.has("nica.100"), "whose VLANs no uplink bounds")
	w.must(step.Reconnect, domain(uuidA, "", direct(mac1, "nica.100", "vepa")))
	require.False(t, w.has("enpb.100"))
}

// A VLAN of a bridge's NIC is libvirt's, which knows it from 11 on or refuses it itself.
func TestPlainVLANOfABridgeComesAlong(t *testing.T) {
	for _, op := range []step.Op{step.Migrate, step.Restore} {
		w := newWorld(t, "")
		withBridges(w.kernel)
		for _, vlan := range []string{"<vlan><tag id='10'/></vlan>", trunkVLAN, "<vlan trunk='yes'><tag id='10'/></vlan>"} {
			require.Empty(t, w.must(op, domain(uuidA, "", bridged(mac1, "br0", "", vlan))))
			require.Empty(t, w.must(op, domain(uuidA, "", bridged(mac1, "nosuch", "", vlan))), "and is none of ours to refuse")
		}
	}
}

// Whatever a domain that comes from elsewhere is like: but for the names of devices and what
// is noted for the next host, its XML is what it was.
func FuzzRemap(f *testing.F) {
	for _, nic := range []string{
		direct(mac1, "nica", "vepa"), direct(mac1, "nica.100", "bridge"), bridged(mac1, "br0", "", trunkVLAN), owned(mac1, "ldt1"),
		"<interface type='hostdev'><source><address type='pci' domain='0' bus='3' slot='16' function='1'/></source><vlan><tag id='5'/></vlan></interface>",
		onSwitch(mac1, ""), "<interface type='network'><source network='n'/></interface>",
	} {
		f.Add("", nic)
		f.Add("uplink='storage' vlan='7'", nic)
		f.Add("own='hook' dev='nica'", nic)
	}
	names := regexp.MustCompile(`(<source\b[^>]*?\b(?:dev|bridge)\s*=\s*)('[^']*'|"[^"]*")`)
	f.Fuzz(func(t *testing.T, settings, nic string) {
		doc := domain(uuidA, "<ld:nic mac='"+mac1+"' "+settings+"/>", nic)
		d, err := xmlfilter.Parse([]byte(doc))
		if err != nil || len(d.NICs) == 0 {
			return
		}
		for _, op := range []step.Op{step.Migrate, step.Restore} {
			w := newWorld(t, twoUplinks, "enpb", "br0")
			out, err := w.run(op, doc)
			if err != nil || out == "" {
				continue
			}
			bare := func(doc string) string {
				_, devices, _ := strings.Cut(doc, "</metadata>")
				return names.ReplaceAllString(devices, "$1")
			}
			if bare(doc) != bare(out) {
				t.Fatalf("%s\nbecame\n%s", doc, out)
			}
		}
	})
}
