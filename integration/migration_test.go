//go:build integration

package integration

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// confB is of a host whose NIC is enpb; a's calls it nica.
const confB = `[uplink.storage]
device = "enpb"
also = ["nica"]
`

// twoHosts are hosts on one lan, with a wire between them for migration.
func twoHosts(t *testing.T, d time.Duration) (a, b *fixture, l *lan) {
	ctx := hosttest.Deadline(t, d)
	a, b = newFixture(ctx, t, "a", conf), newFixture(ctx, t, "b", confB)
	l = newLAN(ctx, t, plug{a, "nica"}, plug{b, "enpb"})
	require.NoError(t, host.Wire(ctx, a.Peer, "mgmt", b.Peer, "mgmt"))
	require.NoError(t, a.SetAddress(ctx, "mgmt", "10.99.0.1/24"))
	require.NoError(t, b.SetAddress(ctx, "mgmt", "10.99.0.2/24"))
	a.MustStartLibvirtd()
	b.MustStartLibvirtd()
	return a, b, l
}

// Guests move to a host whose NIC has another name, and back.
func TestMigration(t *testing.T) {
	a, b, l := twoHosts(t, 3*time.Minute)
	for _, test := range []struct{ mode, source, words string }{
		{"vepa", "nica", ""},
		{"bridge", "storage", "allmulticast='yes'"},
		{"private", "storage", ""},
		{"passthrough", "nica", ""},
		{"bridge", "nica", "own='hook' allmulticast='yes'"},
		{"passthrough", "storage", "own='hook'"},
	} {
		t.Run(fmt.Sprint(test.mode, " ", test.source, " ", test.words), func(t *testing.T) {
			a, b, l := a.in(t), b.in(t), l.in(t)
			beforeA, beforeB := a.MustSnapshot(), b.MustSnapshot()
			g := newLinux(t, "g", 1, direct(1, test.source, test.mode), test.words)
			if test.words == "" {
				a.MustDefine(g.Domain)
			} else {
				a.rewrite(g.Domain)
			}
			a.start("g")
			g.talks(l)
			running := a.macvtaps()

			move := func(from, to *fixture, addr string) {
				begin := time.Now()
				require.NoError(t, from.Migrate(from.Ctx, "g", addr))
				require.NoError(t, from.WaitState(from.Ctx, "g", libvirt.DomainShutoff))
				require.NoError(t, to.WaitState(to.Ctx, "g", libvirt.DomainRunning))
				t.Logf("moved to %s in %v", to.Name(), time.Since(begin).Round(time.Millisecond))
				g.talks(l)
				require.Len(t, to.macvtaps(), 1)
			}
			move(a, b, "10.99.0.2")
			a.RequireUnchanged(beforeA)
			for _, m := range b.macvtaps() {
				require.Equal(t, "enpb", m["parent"])
				require.Equal(t, mac(1), m["mac"])
				for _, was := range running {
					require.Equal(t, was["mode"], m["mode"])
					require.Equal(t, was["allmulti"], m["allmulti"])
				}
			}
			move(b, a, "10.99.0.1")
			b.RequireUnchanged(beforeB)
			for _, m := range a.macvtaps() {
				require.Equal(t, "nica", m["parent"])
			}
			a.stop("g")
			a.RequireUnchanged(beforeA)
		})
	}
}

// What cannot be mapped cancels the migration, with a line that says what to add, and
// the guest goes on where it was.
func TestMigrationThatCannotBeMapped(t *testing.T) {
	a, b, l := twoHosts(t, time.Minute)
	b.Configure("[uplink.storage]\ndevice = \"enpb\"\n") // without also
	beforeB := b.MustSnapshot()
	g := newLinux(t, "g", 1, direct(1, "nica", "bridge"), "")
	a.MustDefine(g.Domain)
	a.start("g")
	err := a.Migrate(a.Ctx, "g", "10.99.0.2")
	require.ErrorContains(t, err, `libvirt-direct: migrate: domain "g", NIC `+mac(1)+`: no such device on this host: "nica"; `+
		`say what it is here: [uplink.NAME] device = "…", also = ["nica"] in /etc/libvirt-direct/config.toml`)
	b.RequireUnchanged(beforeB)
	g.talks(l)
}

// An image saved on one host is restored on the other.
func TestSaveHereRestoreThere(t *testing.T) {
	a, b, l := twoHosts(t, time.Minute)
	beforeA, beforeB := a.MustSnapshot(), b.MustSnapshot()
	assisted := newLinux(t, "assisted", 1, direct(1, "nica", "vepa"), "")
	owned := newLinux(t, "owned", 2, direct(2, "nica", "bridge"), "own='hook'")
	a.MustDefine(assisted.Domain)
	a.rewrite(owned.Domain)
	images := t.TempDir()
	for _, g := range []*linux{assisted, owned} {
		a.start(g.Name)
	}
	for _, g := range []*linux{assisted, owned} {
		g.talks(l)
		a.MustVirsh("save", g.Name, filepath.Join(images, g.Name))
		require.NoError(t, a.WaitState(a.Ctx, g.Name, libvirt.DomainShutoff))
	}
	a.RequireUnchanged(beforeA)
	for _, g := range []*linux{assisted, owned} {
		b.MustVirsh("restore", filepath.Join(images, g.Name))
	}
	for _, m := range b.macvtaps() {
		require.Equal(t, "enpb", m["parent"])
	}
	for _, g := range []*linux{assisted, owned} {
		g.talks(l)
		b.stop(g.Name)
	}
	b.RequireUnchanged(beforeB)
}
