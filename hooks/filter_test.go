package hooks

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
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
