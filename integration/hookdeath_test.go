//go:build integration

package integration

import (
	"testing"
	"time"

	"libvirt-direct/integration/host/hosttest"

	"github.com/stretchr/testify/require"
)

// The hook alone, so that no point is left out.
func TestHookKilledEverywhere(t *testing.T) {
	ctx := hosttest.Deadline(t, 3*time.Minute)
	h := newFixture(ctx, t, "a", conf)
	newLAN(ctx, t, plug{h, "nica"}, plug{h, "nicb"})
	require.NoError(t, h.InstallHook(ctx, program(t, "killhook")))
	d := tiny("g", direct(1, "storage", "bridge"), direct(2, "nica", "vepa"), direct(3, "nicb", "passthrough"))
	d.UUID = uuid
	d.Metadata = "<ld:nics xmlns:ld='urn:libvirt-direct:1'>" +
		"<ld:nic mac='" + mac(2) + "' own='hook' allmulticast='yes'/>" +
		"<ld:nic mac='" + mac(3) + "' own='hook'/></ld:nics>"
	xml := h.MustPipe(d.XML(), program(t, "libvirt-direct"), "rewrite")
	// The altname goes with the rewriting; here it is wanted.
	points := h.killEverywhere(replaceOnce(t, xml, "<source dev='nica' mode='bridge'/>", "<source dev='storage' mode='bridge'/>"), false)
	t.Logf("%d points", points)
	require.Greater(t, points, 30)
}

// The same under libvirtd, at some of the points.
func TestHookKilledUnderLibvirt(t *testing.T) {
	ctx := hosttest.Deadline(t, 2*time.Minute)
	h := newFixture(ctx, t, "a", conf)
	newLAN(ctx, t, plug{h, "nica"})
	require.NoError(t, h.InstallHook(ctx, program(t, "killhook")))
	h.MustStartLibvirtd()
	before := h.MustSnapshot()
	assisted := direct(1, "storage", "bridge")
	d := tiny("g", assisted, direct(2, "nica", "vepa"))
	d.Metadata = "<ld:nics xmlns:ld='urn:libvirt-direct:1'>" +
		"<ld:nic mac='" + mac(1) + "' allmulticast='yes'/>" +
		"<ld:nic mac='" + mac(2) + "' own='hook'/></ld:nics>"
	xml := h.MustPipe(d.XML(), program(t, "libvirt-direct"), "rewrite")
	h.MustDefineXML("g", replaceOnce(t, xml, "<source dev='nica' mode='bridge'/>", "<source dev='storage' mode='bridge'/>"))
	for _, op := range []string{"prepare", "start"} {
		tried := 0
		for n := 1; ; n += 2 {
			h.dieAt(op, n)
			_, err := h.Virsh(ctx, "start", "g")
			if err == nil {
				break
			}
			tried++
			require.ErrorContains(t, err, "Hook script execution failed", "point %d of %s", n, op)
			require.ErrorContains(t, err, "signal 9")
			h.sameAfterKill(before, op, n, "what libvirt does")
		}
		h.stop("g")
		h.RequireUnchanged(before)
		require.Positive(t, tried, op)
	}
	for n := 1; n <= 4; n++ {
		h.start("g")
		h.dieAt("stopped", n)
		h.stop("g") // libvirt takes no notice; release comes after it
		h.live()
		h.sameAfterKill(before, "stopped", n, "release")
	}
	for n, killed := 1, true; killed; n += 2 {
		h.start("g")
		h.dieAt("release", n)
		h.stop("g")
		h.live()
		killed = len(h.Journals()) > 0
		h.gc()
		h.sameAfterKill(before, "release", n, "gc")
	}
}
