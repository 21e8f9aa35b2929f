//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"libvirt-direct/integration/host/hosttest"

	"github.com/stretchr/testify/require"
)

// A peer's first packet to an IPv6 neighbour is a multicast that the guest has asked
// its NIC for, but nobody the macvtap.
func TestAllMulticastQueuesMTU(t *testing.T) {
	ctx := hosttest.Deadline(t, time.Minute)
	h := newFixture(ctx, t, "a", conf)
	l := newLAN(ctx, t, plug{h, "nica"})
	h.MustStartLibvirtd()
	before := h.MustSnapshot()
	deaf := newLinux(t, "deaf", 1, direct(1, "storage", "bridge"), "")
	hears := newLinux(t, "hears", 2, direct(2, "storage", "bridge"), "allmulticast='yes'")
	owned := newLinux(t, "owned", 3, direct(3, "storage", "bridge", "<driver queues='2'/>", "<mtu size='1400'/>"),
		"own='hook' allmulticast='yes'")
	h.MustDefine(deaf.Domain)
	h.MustDefine(hears.Domain)
	h.rewrite(owned.Domain)
	for _, g := range []*linux{deaf, hears, owned} {
		h.start(g.Name)
	}

	var tap string
	for name, m := range h.macvtaps() {
		switch m["mac"] {
		case mac(1):
			require.Equal(t, "0", m["allmulti"])
		case mac(2):
			require.Equal(t, "1", m["allmulti"])
			require.Equal(t, "1500", m["mtu"])
		case mac(3):
			tap = m["tap"]
			require.Equal(t, "1", m["allmulti"])
			require.Equal(t, "1400", m["mtu"])
			require.Contains(t, m["alias"], "libvirt-direct ")
			queues, err := filepath.Glob(h.Path("/sys/class/net/" + name + "/queues/tx-*"))
			require.NoError(t, err)
			require.Len(t, queues, 2)
		}
	}
	require.NotEmpty(t, tap)
	fds, err := filepath.Glob(h.Path("/proc/" + h.qemu("owned") + "/fd/*"))
	require.NoError(t, err)
	opened := 0
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == tap {
			opened++
		}
	}
	require.Equal(t, 2, opened, "QEMU has a descriptor for each queue of %s", tap)
	cmdline, err := h.Run(ctx, "cat", "/proc/"+h.qemu("owned")+"/cmdline")
	require.NoError(t, err)
	require.Contains(t, strings.ReplaceAll(cmdline, "\x00", " "), `"host_mtu":1400`)

	for _, g := range []*linux{deaf, hears, owned} {
		g.talks(l)
	}
	require.NoError(t, l.ping("-6", addr6(2)))
	require.NoError(t, l.ping("-6", addr6(3)))
	require.Error(t, l.ping("-6", addr6(1)), "IPv6 without allmulticast: is the word still needed?")
	for _, g := range []*linux{deaf, hears, owned} {
		h.stop(g.Name)
	}
	h.RequireUnchanged(before)
}
