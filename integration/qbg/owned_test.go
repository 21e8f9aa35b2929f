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
func (s *site) noHook() {
	s.t.Helper()
	require.NoError(s.t, s.WriteFile(s.ctx, hookPath, 0o755, []byte("#!/bin/sh\n")))
}

// defineOwned defines the hook-owned domains: "o", and "f", whose start fails in libvirt
// when the hook has associated its VSI.
func (s *site) defineOwned() {
	s.t.Helper()
	require.NoError(s.t, s.WriteFile(s.ctx, "/etc/libvirt-direct/config.toml", 0o644, []byte("deadline = '1m'\n")))
	require.NoError(s.t, s.Define(s.ctx, ownedDomain("o").XML()))
	require.NoError(s.t, s.Define(s.ctx, ownedDomain("f",
		"<interface type='ethernet'><mac address='52:54:00:0a:0b:0d'/><target dev='missing' managed='no'/></interface>").XML()))
	for _, name := range []string{"o", "f"} {
		s.run(program(s.t, "libvirt-direct"), "rewrite", "--domain", name)
	}
}

// domain does something with a domain without virsh, each run of which takes seconds in
// the machine.
func (s *site) domain(name string, do func(*libvirt.Libvirt, libvirt.Domain) error) error {
	s.t.Helper()
	l, err := s.Connect(s.ctx)
	require.NoError(s.t, err)
	defer l.Disconnect()
	d, err := l.DomainLookupByName(name)
	require.NoError(s.t, err)
	return do(l, d)
}

func (s *site) start(name string) error {
	s.t.Helper()
	return s.domain(name, (*libvirt.Libvirt).DomainCreate)
}

func (s *site) snapshot() host.Snapshot {
	s.t.Helper()
	snap, err := s.Snapshot(s.ctx)
	require.NoError(s.t, err)
	return snap
}

func (s *site) journals() string {
	s.t.Helper()
	return strings.TrimSpace(s.run("sh", "-c", "ls /run/libvirt-direct/domains 2>/dev/null || true"))
}

// ownedNIC is the life of a VSI that the hook associates itself, through whichever
// station runs, on every way out. The points are those at the station where the hook is
// killed.
func ownedNIC(s *site, br *bridge, points ...string) {
	t := s.t
	require.NoError(t, s.InstallHook(s.ctx, program(t, "qemu-hook")))
	defer s.noHook()
	br.do(func(b *vdptest.Bridge) [][]byte { b.Answer, b.Log = nil, nil; return nil })
	before := s.snapshot()
	gone := func(when string) {
		t.Helper()
		require.Zero(t, br.modeOf(ownedVSI.ID), when)
		require.Empty(t, before.Diff(s.snapshot()), when)
		require.Empty(t, s.journals(), when)
	}

	begin := time.Now()
	require.NoError(t, s.start("o"))
	t.Logf("hook-owned: a start takes %v", time.Since(begin))
	require.Equal(t, vdp.Associate, br.modeOf(ownedVSI.ID))
	require.Contains(t, s.run(program(t, "libvirt-direct"), "status"), ownedInstance)
	require.NoError(t, s.domain("o", (*libvirt.Libvirt).DomainDestroy))
	gone("destroyed")
	asked := br.logOf(ownedVSI.ID)
	require.Equal(t, []vdp.Mode{vdp.Associate, vdp.DeAssociate}, modes(asked))
	for _, r := range asked {
		require.Equal(t, ownedVSI, r.Message.VSI)
	}

	br.do(func(b *vdptest.Bridge) [][]byte { b.Log = nil; return nil })
	require.ErrorContains(t, s.start("f"), "specified dev doesn't exist")
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
	_, err := s.Virsh(s.ctx, "start", "o")
	require.ErrorContains(t, err, "insufficient resources")
	t.Log(err)
	gone("refused")
	br.do(func(b *vdptest.Bridge) [][]byte { b.Answer = nil; return nil })

	killed(s, br, points, gone)
}

// killed kills the hook: under libvirt, which then has it undo what it did, and without,
// so that only gc is left to do it.
func killed(s *site, br *bridge, points []string, gone func(string)) {
	t := s.t
	require.NoError(t, s.InstallHook(s.ctx, program(t, "killhook")))
	defer s.run("rm", "-f", "/run/killhook")
	die := func(where string) {
		t.Helper()
		require.NoError(t, s.WriteFile(s.ctx, "/run/killhook", 0o600, []byte(where)))
	}
	die("prepare 2 vsi")
	require.Error(t, s.start("o"))
	gone("killed under libvirt")

	require.NoError(t, s.WriteFile(s.ctx, "/run/o.xml", 0o600, []byte(s.virsh("dumpxml", "--inactive", "o"))))
	hook := func(op string) error {
		_, err := s.Run(s.ctx, "sh", "-c", hookPath+" o "+op+" begin - </run/o.xml")
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
		s.run("rm", "/run/killhook")
		if br.modeOf(ownedVSI.ID) != 0 {
			held++
		}
		s.run(program(t, "libvirt-direct"), "gc")
		gone("gc after " + point)
	}
	t.Logf("killed at %d points, at %d of them with a VSI at the switch; gc has taken it back", len(points), held)
	require.Positive(t, held)
}
