//go:build integration

package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The hook alone, so that no point is left out.
func TestHookKilledEverywhere(t *testing.T) {
	ctx := deadline(t, 3*time.Minute)
	s := newSite(ctx, t, "a", conf)
	newLAN(ctx, t, plug{s, "nica"}, plug{s, "nicb"})
	require.NoError(t, s.InstallHook(ctx, program(t, "killhook")))
	d := tiny("g", direct(1, "storage", "bridge"), direct(2, "nica", "vepa"), direct(3, "nicb", "passthrough"))
	d.UUID = uuid
	d.Metadata = "<ld:nics xmlns:ld='urn:libvirt-direct:1'>" +
		"<ld:nic mac='" + mac(2) + "' own='hook' allmulticast='yes'/>" +
		"<ld:nic mac='" + mac(3) + "' own='hook'/></ld:nics>"
	xml := s.run(d.XML(), program(t, "libvirt-direct"), "rewrite")
	// The altname goes with the rewriting; here it is wanted.
	points := s.killEverywhere(replaceOnce(t, xml, "<source dev='nica' mode='bridge'/>", "<source dev='storage' mode='bridge'/>"), false)
	t.Logf("%d points", points)
	require.Greater(t, points, 35)
}

// The same under libvirtd, at some of the points.
func TestHookKilledUnderLibvirt(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	s := newSite(ctx, t, "a", conf)
	newLAN(ctx, t, plug{s, "nica"})
	require.NoError(t, s.InstallHook(ctx, program(t, "killhook")))
	s.up()
	before := s.snapshot()
	assisted := direct(1, "storage", "bridge")
	d := tiny("g", assisted, direct(2, "nica", "vepa"))
	d.Metadata = "<ld:nics xmlns:ld='urn:libvirt-direct:1'>" +
		"<ld:nic mac='" + mac(1) + "' allmulticast='yes'/>" +
		"<ld:nic mac='" + mac(2) + "' own='hook'/></ld:nics>"
	xml := s.run(d.XML(), program(t, "libvirt-direct"), "rewrite")
	s.defineXML("g", replaceOnce(t, xml, "<source dev='nica' mode='bridge'/>", "<source dev='storage' mode='bridge'/>"))
	for _, op := range []string{"prepare", "start"} {
		tried := 0
		for n := 1; ; n += 2 {
			s.dieAt(op, n)
			_, err := s.Virsh(ctx, "start", "g")
			if err == nil {
				break
			}
			tried++
			require.ErrorContains(t, err, "Hook script execution failed", "point %d of %s", n, op)
			require.ErrorContains(t, err, "signal 9")
			s.sameAfterKill(before, op, n, "what libvirt does")
		}
		s.stop("g")
		s.unchanged(before)
		require.Positive(t, tried, op)
	}
	for n := 1; n <= 4; n++ {
		s.start("g")
		s.dieAt("stopped", n)
		s.stop("g") // libvirt takes no notice; release comes after it
		s.live()
		s.sameAfterKill(before, "stopped", n, "release")
	}
	for n, killed := 1, true; killed; n += 2 {
		s.start("g")
		s.dieAt("release", n)
		s.stop("g")
		s.live()
		killed = len(s.journals()) > 0
		s.gc()
		s.sameAfterKill(before, "release", n, "gc")
	}
}
