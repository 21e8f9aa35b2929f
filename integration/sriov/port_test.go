//go:build integration

package sriov

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

var gold = link.Port{VF: 1, Profile: "gold", MAC: "52:54:00:01:02:03", Instance: [16]byte{1, 2, 3}, Host: [16]byte{4, 5, 6}}

func TestPortProfileLife(t *testing.T) {
	ctx, c, pf := soft(t, "soft_vfs=2 delay_ms=300")
	start := time.Now()
	require.NoError(t, c.AssociatePort(ctx, pf, link.PortAssociate, gold))
	require.GreaterOrEqual(t, time.Since(start), 290*time.Millisecond, "it waits for the switch")
	p, err := c.Port(ctx, pf, 1)
	require.NoError(t, err)
	require.Equal(t, link.PortStatus{
		VF: 1, Profile: "gold", Instance: gold.Instance, Request: link.PortAssociate, Response: link.PortSuccess, Answered: true,
	}, p)
	require.Equal(t, "52:54:00:01:02:03", shown(t, "testnic0", 1)["address"], "the switch knows the guest's MAC")
	require.NoError(t, c.AssociatePort(ctx, pf, link.PortPreassociateRR, gold))
	require.NoError(t, c.DisassociatePort(ctx, pf, 1))
	require.Equal(t, "1", counted(t, "disassociations"))

	self := gold
	self.VF = link.SelfPort
	require.NoError(t, c.AssociatePort(ctx, pf, link.PortAssociate, self))
	p, err = c.Port(ctx, pf, link.SelfPort)
	require.NoError(t, err)
	require.Equal(t, link.PortSuccess, p.Response)
}

// Whatever goes wrong, the switch is told that the guest is not there.
func TestPortProfileFailuresDisassociate(t *testing.T) {
	ctx, c, pf := soft(t, "soft_vfs=2 delay_ms=10")
	for _, tt := range []struct {
		name, parameter string
		value, usual    any
		is              error
		words           string
		disassociated   string
	}{
		{"refused", "response", 0x102, 0x100, link.ErrPortRefused, "the switch does not know the profile, or not for this port (0x102)", "1"},
		{"no room", "response", 0x104, 0x100, link.ErrPortRefused, "the switch lacks resources for the profile (0x104)", "1"},
		{"for ever", "response", 0x101, 0x100, link.ErrPortSilent, "the switch has not answered", "1"},
		{"EINVAL", "port_errno", 22, 0, unix.EINVAL, "refused by the driver: invalid argument", "1"},
		{"EOPNOTSUPP", "refuse", "port", "-", unix.EOPNOTSUPP, "operation not supported", "0"},
		{"busy for ever", "busy", 1 << 30, 0, unix.EBUSY, "until the deadline", "0"},
	} {
		answer(t, "disassociations", 0)
		answer(t, tt.parameter, tt.value)
		short, cancel := context.WithTimeout(ctx, 400*time.Millisecond)
		err := c.AssociatePort(short, pf, link.PortAssociate, gold)
		cancel()
		require.ErrorIs(t, err, tt.is, tt.name)
		require.Contains(t, err.Error(), tt.words, tt.name)
		require.Contains(t, err.Error(), `VF 1 of testnic0 (driver testnic) associate with port profile "gold": `)
		require.Equal(t, tt.disassociated, counted(t, "disassociations"), tt.name)
		answer(t, tt.parameter, tt.usual)
		t.Log(err)
	}
	answer(t, "busy", 7)
	require.NoError(t, c.AssociatePort(ctx, pf, link.PortAssociate, gold), "busy seven times")
}
