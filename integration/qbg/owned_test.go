//go:build vm

package qbg

import (
	"slices"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

const (
	ownedInstance = "5c3a3a0e-3f5f-4d8b-9d0e-0c4f5e6a7b81"
	ownedMAC      = "52:54:00:0a:0b:0c"
	hookPath      = "/etc/libvirt/hooks/qemu"
)

// ownedVSI is what the switch is to hear of the hook-owned NIC.
var ownedVSI = vdp.VSI{
	ID: must(vdp.ParseUUID(ownedInstance)), Manager: vdp.ManagerID{9}, TypeID: 77, TypeVersion: 3,
	FilterFormat: vdp.FilterMACVID,
	Filters:      []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 0x0a, 0x0b, 0x0c}, VID: 100}},
}

func ownedDomain(name string, more ...string) host.Domain {
	return host.Domain{
		Name: name, MemoryMiB: 32,
		Interfaces: append([]string{host.DirectNIC(ownedMAC, nic+".100", "vepa", `
      <virtualport type='802.1Qbg'>
        <parameters managerid='9' typeid='77' typeidversion='3' instanceid='`+ownedInstance+`'/>
      </virtualport>`)}, more...),
		Metadata: "<ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='" + ownedMAC + "' own='hook'/></ld:nics>",
	}
}

// noHook is there from libvirtd's start, so that it looks for hooks at all; it does
// nothing, for the domains that are to be unmodified libvirt's alone.
func (h *fixture) noHook() {
	h.T.Helper()
	h.MustWrite(hookPath, 0o755, "#!/bin/sh\n")
}

// defineOwned defines the hook-owned domains: "o", and "f", whose start fails in libvirt
// when the hook has associated its VSI.
func (h *fixture) defineOwned() {
	h.T.Helper()
	h.Configure("deadline = '1m'\n")
	require.NoError(h.T, h.Define(h.Ctx, ownedDomain("o").XML()))
	require.NoError(h.T, h.Define(h.Ctx, ownedDomain("f",
		"<interface type='ethernet'><mac address='52:54:00:0a:0b:0d'/><target dev='missing' managed='no'/></interface>").XML()))
	for _, name := range []string{"o", "f"} {
		h.MustRun(program(h.T, "libvirt-direct"), "rewrite", "--domain", name)
	}
}

// domain does something with a domain without virsh, each run of which takes seconds in
// the machine.
func (h *fixture) domain(name string, do func(*libvirt.Libvirt, libvirt.Domain) error) error {
	h.T.Helper()
	l, err := h.Connect(h.Ctx)
	require.NoError(h.T, err)
	defer l.Disconnect()
	d, err := l.DomainLookupByName(name)
	require.NoError(h.T, err)
	return do(l, d)
}

func (h *fixture) start(name string) error {
	h.T.Helper()
	return h.domain(name, (*libvirt.Libvirt).DomainCreate)
}

// ownedNIC is the life of a VSI that the hook associates itself, through whichever
// station runs, on every way out. The points are those at the station where the hook is
// killed.
func ownedNIC(h *fixture, br *bridge, points ...string) {
	t := h.T
	require.NoError(t, h.InstallHook(h.Ctx, program(t, "qemu-hook")))
	defer h.noHook()
	br.do(func(b *vdptest.Bridge) [][]byte { b.Answer, b.Log = nil, nil; return nil })
	before := h.MustSnapshot()
	gone := func(when string) {
		t.Helper()
		require.Zero(t, br.modeOf(ownedVSI.ID), when)
		require.Empty(t, before.Diff(h.MustSnapshot()), when)
		require.Empty(t, h.Journals(), when)
	}

	begin := time.Now()
	require.NoError(t, h.start("o"))
	t.Logf("hook-owned: a start takes %v", time.Since(begin))
	require.Equal(t, vdp.Associate, br.modeOf(ownedVSI.ID))
	require.Contains(t, h.MustRun(program(t, "libvirt-direct"), "status"), ownedInstance)
	require.NoError(t, h.domain("o", (*libvirt.Libvirt).DomainDestroy))
	gone("destroyed")
	asked := br.logOf(ownedVSI.ID)
	require.Equal(t, []vdp.Mode{vdp.Associate, vdp.DeAssociate}, modes(asked))
	for _, r := range asked {
		require.Equal(t, ownedVSI, r.Message.VSI)
	}

	br.do(func(b *vdptest.Bridge) [][]byte { b.Log = nil; return nil })
	require.ErrorContains(t, h.start("f"), "specified dev doesn't exist")
	gone("a start that failed in libvirt")
	require.Equal(t, []vdp.Mode{vdp.Associate, vdp.DeAssociate}, modes(br.logOf(ownedVSI.ID)))

	br.do(func(b *vdptest.Bridge) [][]byte {
		b.Answer = func(m vdp.Message) vdptest.Reply {
			if m.Mode == vdp.DeAssociate {
				return vdptest.Reply{}
			}
			return vdptest.Reply{Status: vdp.ReasonNoResources}
		}
		return nil
	})
	_, err := h.Virsh(h.Ctx, "start", "o")
	require.ErrorContains(t, err, "insufficient resources")
	t.Log(err)
	gone("refused")
	br.do(func(b *vdptest.Bridge) [][]byte { b.Answer = nil; return nil })

	killed(h, br, points, gone)
}

// killed kills the hook: under libvirt, which then has it undo what it did, and without,
// so that only gc is left to do it.
func killed(h *fixture, br *bridge, points []string, gone func(string)) {
	t := h.T
	require.NoError(t, h.InstallHook(h.Ctx, program(t, "killhook")))
	defer h.MustRun("rm", "-f", "/run/killhook")
	die := func(where string) {
		t.Helper()
		h.MustWrite("/run/killhook", 0o600, where)
	}
	die("prepare 2 vsi")
	require.Error(t, h.start("o"))
	gone("killed under libvirt")

	h.MustWrite("/run/o.xml", 0o600, h.MustVirsh("dumpxml", "--inactive", "o"))
	hook := func(op string) error {
		_, err := h.Run(h.Ctx, "sh", "-c", hookPath+" o "+op+" begin - </run/o.xml")
		return err
	}
	held := 0
	operations := []string{"prepare", "start", "stopped", "release"}
	for _, point := range points {
		op, _, _ := strings.Cut(point, " ")
		for _, earlier := range operations[:slices.Index(operations, op)] {
			require.NoError(t, hook(earlier))
		}
		die(point + " vsi")
		require.Error(t, hook(op), point)
		h.MustRun("rm", "/run/killhook")
		if br.modeOf(ownedVSI.ID) != 0 {
			held++
		}
		h.MustRun(program(t, "libvirt-direct"), "gc")
		gone("gc after " + point)
	}
	t.Logf("killed at %d points, at %d of them with a VSI at the switch; gc has taken it back", len(points), held)
	require.Positive(t, held)
}
