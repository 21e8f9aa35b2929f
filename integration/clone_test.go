//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// cloneOf is a definition as virt-clone makes it of another: with a name, a UUID and MACs of its
// own, the rest as it was. What libvirt has named is left out, and the hook's names are not.
func (h *fixture) cloneOf(name, clone, uuid string) string {
	h.T.Helper()
	xml := h.MustVirsh("dumpxml", "--inactive", name)
	from, rest, _ := strings.Cut(xml, "<uuid>")
	_, rest, _ = strings.Cut(rest, "</uuid>")
	head, devices, found := strings.Cut(from+"<uuid>"+uuid+"</uuid>"+rest, "<devices>")
	require.True(h.T, found)
	return strings.Replace(head, "<name>"+name+"<", "<name>"+clone+"<", 1) + "<devices>" + strings.ReplaceAll(devices, "52:54:00:55:00:", "52:54:00:55:99:")
}

// opened are the macvtaps' nodes that a domain's QEMU has open, and the ports of its other NICs.
func (h *fixture) opened(name string) (nodes []string, ports []string) {
	h.T.Helper()
	fds, err := filepath.Glob(h.Path("/proc/" + h.qemu(name) + "/fd/*"))
	require.NoError(h.T, err)
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, "/dev/tap") {
			nodes = append(nodes, target)
		}
	}
	for line := range strings.Lines(h.MustVirsh("domiflist", name)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "bridge" {
			ports = append(ports, f[0])
		}
	}
	return nodes, ports
}

// A clone of a guest with a hook-owned NIC and an isolated one does not start, whether its
// original runs or not; once repaired it runs beside it, on a device of its own and isolated.
func TestCloneRunsBesideItsOriginal(t *testing.T) {
	ctx := hosttest.Deadline(t, 3*time.Minute)
	h := newFixture(ctx, t, "a", "")
	newLAN(ctx, t, plug{h, "nica"}, plug{h, "nicb"})
	require.NoError(t, h.Bridge(ctx, "br0", host.Port{Name: "nicb"}))
	h.MustStartLibvirtd()
	before := h.MustSnapshot()
	ld := program(t, "libvirt-direct")

	web1 := tiny("web1", direct(1, "nica", "bridge"), bridged(2, "br0", ""))
	web1.Metadata = "<ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='" + mac(1) + "' own='hook'/><ld:nic mac='" + mac(2) + "' isolated='yes'/></ld:nics>"
	h.MustDefine(web1)
	h.MustRun(ld, "rewrite", "--domain", "web1")
	h.MustDefineXML("web2", h.cloneOf("web1", "web2", uuid))
	clone := h.MustVirsh("dumpxml", "--inactive", "web2")
	copied := tiny("web3", "<interface type='ethernet'><target dev='"+targetOf(clone)+"' managed='no'/><model type='virtio'/><rom enabled='no'/></interface>")
	h.MustDefine(copied)

	for _, refused := range []map[string]string{
		{"web2": "settings in <metadata> belong to no NIC", "web3": "the hook makes " + targetOf(clone)},
		{"web2": targetOf(clone) + ` was made for domain "web1"; run: libvirt-direct rewrite --domain web2`, "web3": targetOf(clone) + ` was made for domain "web1"`},
	} {
		running := h.MustSnapshot()
		for name, want := range refused {
			_, err := h.Virsh(ctx, "start", name)
			require.ErrorContains(t, err, want)
			require.Equal(t, running, h.MustSnapshot())
			checked, err := h.Run(ctx, ld, "check")
			require.Error(t, err, "a fault is found")
			require.Regexp(t, "FAULT +domain "+name+" +it does not start: domain \"", checked)
			require.Contains(t, checked, want)
		}
		if len(h.macvtaps()) == 0 {
			h.start("web1")
		}
	}
	require.Contains(t, h.MustRun(ld, "rewrite", "--domain", "web2", "--dry-run"), "nothing was done (--dry-run)")
	require.Equal(t, clone, h.MustVirsh("dumpxml", "--inactive", "web2"))
	said := h.MustRun(ld, "rewrite", "--domain", "web2")
	require.Contains(t, said, `NIC 52:54:00:55:99:02: it gets the settings of `+mac(2)+`, which domain "web1" has at the same place`)
	require.Contains(t, h.MustRun(ld, "rewrite", "--domain", "web2"), ": nothing to change\n")
	h.start("web2")

	nodes, ports := map[string]bool{}, []string{}
	for _, name := range []string{"web1", "web2"} {
		has, in := h.opened(name)
		require.Len(t, has, 1, "%s has one macvtap", name)
		nodes[has[0]] = true
		ports = append(ports, in...)
	}
	require.Len(t, nodes, 2, "each has its own")
	require.Len(t, ports, 2)
	for _, port := range ports {
		require.Equal(t, "1\n", h.MustRun("cat", "/sys/class/net/"+port+"/brport/isolated"))
	}

	h.stop("web2")
	h.MustRun(ld, "rewrite", "--domain", "web2", "--undo")
	undone := h.MustVirsh("dumpxml", "--inactive", "web2")
	require.NotContains(t, undone, "dev='ldt")
	require.Contains(t, undone, "<source dev='nica' mode='bridge'/>")
	h.stop("web1")
	h.RequireUnchanged(before)
}

// targetOf is the hook-owned device that a definition names.
func targetOf(xml string) string {
	_, rest, _ := strings.Cut(xml, "<target dev='ldt")
	name, _, _ := strings.Cut(rest, "'")
	return "ldt" + name
}
