//go:build integration

package sriov

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/hooktest/realhost"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
)

// contractCard is igb's, with two VFs.
type contractCard struct {
	t *testing.T
	c *link.Conn
}

func (h contractCard) Kernel() step.Kernel { return h.c }

func (h contractCard) PF() (netdev, address string) {
	h.t.Helper()
	return "eth0", sh(h.t, "basename $(readlink -f /sys/class/net/eth0/device)")
}

func (h contractCard) Unbind(number int) {
	h.t.Helper()
	sh(h.t, "cd /sys/class/net/eth0/device/virtfn%d && basename $(readlink -f .) >driver/unbind", number)
}

// profiled is testnic's PF without hardware.
type profiled struct {
	t  *testing.T
	c  *link.Conn
	pf link.Link
}

func (h profiled) Kernel() step.Kernel { return h.c }

func (h profiled) PF() string { return h.pf.Name }

func (h profiled) Profile(vf int) string {
	h.t.Helper()
	p, err := h.c.Port(h.t.Context(), h.pf, vf)
	if err != nil || p.Request == link.PortDisassociate {
		return ""
	}
	return p.Profile
}

// What hooktest's fake kernel says of VLANs, VFs and port profiles, the kernel says too.
func TestContractOfTheFakeKernel(t *testing.T) {
	hooktest.VLANContract().Run(t, realhost.NewNetns)
	t.Run("port profiles", func(t *testing.T) {
		ctx, c, pf := soft(t, "soft_vfs=2 delay_ms=1")
		hooktest.PortContract().Run(t, func(t *testing.T) hooktest.PortHost {
			for n := range 2 {
				require.NoError(t, c.DisassociatePort(ctx, pf, n))
			}
			return profiled{t, c, pf}
		})
	})
	vfs(t, "eth0", 2)
	c, err := link.Open()
	require.NoError(t, err)
	defer c.Close()
	pf, err := c.ByName(t.Context(), "eth0")
	require.NoError(t, err)
	found, err := c.VF(t.Context(), pf, 1)
	require.NoError(t, err)
	// Making VFs anew for each row would take minutes: each puts its own back.
	hooktest.VFContract().Run(t, func(t *testing.T) hooktest.CardHost {
		t.Cleanup(func() {
			_, err := c.SetVF(context.WithoutCancel(t.Context()), pf, 1, found.VFSettings)
			require.NoError(t, err)
			sh(t, "cd /sys/class/net/eth0/device/virtfn1 && if [ -e driver ]; then ip link set $(ls net) down; else basename $(readlink -f .) >/sys/bus/pci/drivers/igbvf/bind; fi")
		})
		return contractCard{t, c}
	})
}
