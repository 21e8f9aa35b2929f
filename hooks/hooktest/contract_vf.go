package hooktest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/link"
)

// VFContract are the rows of a card with virtual functions: of what igb, the card of the
// test machine, and the fake do alike. MinRate is what igb refuses.
func VFContract() Contract[CardHost] {
	row := func(method, name string, do func(a ask, h CardHost)) Row[CardHost] {
		return Row[CardHost]{method, name, func(t *testing.T, h CardHost) { do(asking(t, h.Kernel()), h) }}
	}
	on, off, rate := true, false, 100
	mac := func(s string) *string { return &s }
	return Contract[CardHost]{
		row("ByPCI", "finds the network devices of PF and VF", func(a ask, h CardHost) {
			netdev, address := h.PF()
			l, err := a.k.ByPCI(a.ctx, address)
			a.no(err)
			require.Equal(a, a.link(netdev), l)
			use := a.uses(h)[1]
			l, err = a.k.ByPCI(a.ctx, use.Device)
			a.no(err)
			require.Equal(a, a.link(use.Netdev), l)
			h.Unbind(1)
			_, err = a.k.ByPCI(a.ctx, use.Device)
			require.ErrorIs(a, err, link.ErrNotFound, "without its driver it has none")
			a.missing(use.Netdev)
		}),
		row("ByPermanentMAC", "finds a card", func(a ask, h CardHost) {
			netdev, _ := h.PF()
			l := a.link(netdev)
			require.NotEmpty(a, l.PermMAC)
			found, err := a.k.ByPermanentMAC(a.ctx, l.PermMAC)
			a.no(err)
			require.Equal(a, l, found)
		}),
		row("Delete", "of what a driver has made", func(a ask, h CardHost) {
			netdev, _ := h.PF()
			require.ErrorIs(a, a.k.Delete(a.ctx, a.link(netdev).Index), link.ErrNotSupported)
			require.ErrorIs(a, a.k.Delete(a.ctx, a.link(a.uses(h)[0].Netdev).Index), link.ErrNotSupported)
		}),
		row("IsVF", "is a VF and not its PF", func(a ask, h CardHost) {
			netdev, _ := h.PF()
			require.False(a, a.k.IsVF(a.ctx, netdev))
			require.True(a, a.k.IsVF(a.ctx, a.uses(h)[1].Netdev))
		}),
		row("VFOf", "and VFAt say the same place, and PF leads back", func(a ask, h CardHost) {
			netdev, address := h.PF()
			for n, use := range a.uses(h) {
				of, err := a.k.VFOf(a.ctx, use.Netdev)
				a.no(err)
				require.Equal(a, use.VFPlace, of)
				require.Equal(a, link.VFPlace{PF: address, Number: n, Device: use.Device}, of)
				at, err := a.k.VFAt(a.ctx, use.Device)
				a.no(err)
				require.Equal(a, of, at)
				pf, err := a.k.PF(a.ctx, of)
				a.no(err)
				require.Equal(a, a.link(netdev), pf)
			}
			_, err := a.k.VFOf(a.ctx, netdev)
			require.ErrorIs(a, err, link.ErrNoVF)
			_, err = a.k.VFAt(a.ctx, address)
			require.ErrorIs(a, err, link.ErrNoVF)
		}),
		row("VFAt", "of a VF without a driver", func(a ask, h CardHost) {
			use := a.uses(h)[1]
			h.Unbind(1)
			at, err := a.k.VFAt(a.ctx, use.Device)
			a.no(err)
			require.Equal(a, use.VFPlace, at)
		}),
		row("VFUses", "and VFUseAt and VFUsed follow the driver and what stands on it", func(a ask, h CardHost) {
			was := a.uses(h)
			require.Len(a, was, 2)
			for _, use := range was {
				require.NotEmpty(a, use.Driver)
				at, err := a.k.VFUseAt(a.ctx, use.VFPlace)
				a.no(err)
				require.Equal(a, use, at)
				require.Empty(a, texts(slices.Collect(a.k.VFUsed(a.ctx, use, nil))))
			}
			tap := a.macvtap("tap0", was[0].Netdev, "passthrough", macA)
			require.Equal(a, []string{"upper: tap0 stands on it"}, texts(slices.Collect(a.k.VFUsed(a.ctx, was[0], nil))))
			a.no(a.k.Delete(a.ctx, tap.Index))
			h.Unbind(1)
			use, err := a.k.VFUseAt(a.ctx, was[1].VFPlace)
			a.no(err)
			require.Equal(a, link.VFUse{VFPlace: was[1].VFPlace, NUMA: was[1].NUMA}, use)
			require.Equal(a, []link.VFUse{was[0], use}, a.uses(h))
			require.Equal(a, []string{"unbound: it is bound to no driver"}, texts(slices.Collect(a.k.VFUsed(a.ctx, use, nil))))
		}),
		row("VFUseAt", "of another VF's place", func(a ask, h CardHost) {
			use := a.uses(h)[0]
			use.Number = 1
			_, err := a.k.VFUseAt(a.ctx, use.VFPlace)
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("VF", "by number, and of none", func(a ask, h CardHost) {
			pf := a.pf(h)
			vf, err := a.k.VF(a.ctx, pf, 1)
			a.no(err)
			require.Equal(a, 1, vf.Number)
			require.NotNil(a, vf.MAC)
			require.Equal(a, &link.VFVLAN{Proto: link.Dot1Q}, vf.VLAN)
			for _, n := range []int{-1, 2} {
				_, err = a.k.VF(a.ctx, pf, n)
				require.ErrorIs(a, err, link.ErrNoVF)
			}
		}),
		row("Spoofers", "are who is not held to its own address", func(a ask, h CardHost) {
			pf := a.pf(h)
			spoofers := func() (why []string) {
				vfs, err := a.k.Spoofers(a.ctx, pf)
				a.no(err)
				for _, vf := range vfs {
					require.Equal(a, 1, vf.Number)
					why = append(why, vf.Spoofs())
				}
				return why
			}
			require.Empty(a, spoofers())
			for _, c := range []struct {
				want link.VFSettings
				why  string
			}{
				{link.VFSettings{SpoofChk: &off}, "spoof check is off"},
				{link.VFSettings{Trust: &on}, "spoof check is off, trust is on"},
				{link.VFSettings{SpoofChk: &on}, "trust is on"},
			} {
				_, err := a.k.SetVF(a.ctx, pf, 1, c.want)
				a.no(err)
				require.Equal(a, []string{c.why}, spoofers())
			}
		}),
		row("SetVF", "and RestoreVF write what is wanted, and nothing else", func(a ask, h CardHost) {
			pf := a.pf(h)
			other, err := a.k.VF(a.ctx, pf, 0)
			a.no(err)
			want := link.VFSettings{MAC: mac(macA), VLAN: &link.VFVLAN{ID: 42, QoS: 3, Proto: link.Dot1Q}, Trust: &on, SpoofChk: &off, MaxRate: &rate}
			was := a.vf(pf, 1)
			for range 2 {
				warnings, err := a.k.SetVF(a.ctx, pf, 1, want)
				a.no(err)
				require.Empty(a, warnings)
				require.Equal(a, want.Override(was), a.vf(pf, 1))
			}
			require.Equal(a, other.VFSettings, a.vf(pf, 0))
			a.no(a.k.RestoreVF(a.ctx, pf, 1, func(now link.VFSettings) link.VFSettings {
				require.Empty(a, now.Differ(want), "it is told what is there")
				return was.Only(func(attr string) bool { return attr != link.AttrTrust })
			}))
			require.Equal(a, link.VFSettings{Trust: &on}.Override(was), a.vf(pf, 1))
		}),
		row("SetVF", "puts all back where one attribute is refused", func(a ask, h CardHost) {
			pf := a.pf(h)
			was := a.vf(pf, 1)
			want := link.VFSettings{VLAN: &link.VFVLAN{ID: 42, Proto: link.Dot1Q}, Trust: &on, MinRate: &rate}
			_, err := a.k.SetVF(a.ctx, pf, 1, want)
			require.ErrorIs(a, err, link.ErrVFRefused)
			var which *link.VFError
			require.True(a, errors.As(err, &which))
			require.Equal(a, link.AttrMinRate, which.Attr)
			require.Equal(a, 1, which.VF)
			require.Equal(a, was, a.vf(pf, 1))

			warnings, err := a.k.SetVF(a.ctx, pf, 1, want, link.AttrMinRate)
			a.no(err)
			require.Len(a, warnings, 1)
			require.ErrorIs(a, warnings[0], link.ErrVFRefused)
			require.Equal(a, []string{link.AttrMinRate}, a.vf(pf, 1).Differ(want))
		}),
		row("SetVF", "of none, and to what none is", func(a ask, h CardHost) {
			pf := a.pf(h)
			_, err := a.k.SetVF(a.ctx, pf, 2, link.VFSettings{Trust: &on})
			require.ErrorIs(a, err, link.ErrNoVF)
			was := a.vf(pf, 1)
			for _, bad := range []link.VFSettings{
				{VLAN: &link.VFVLAN{ID: 4095, Proto: link.Dot1Q}}, {MAC: mac("03:00:00:00:00:01")}, {MAC: mac("none")}, {VLAN: &link.VFVLAN{QoS: 1, Proto: link.Dot1Q}},
			} {
				bad.Trust = &on
				_, err := a.k.SetVF(a.ctx, pf, 1, bad)
				require.Error(a, err)
				require.NotErrorIs(a, err, link.ErrVFRefused, "nobody is asked")
				require.Error(a, a.k.RestoreVF(a.ctx, pf, 1, func(link.VFSettings) link.VFSettings { return bad }))
			}
			require.Equal(a, was, a.vf(pf, 1))
		}),
		row("RestoreVF", "gives back each attribute for itself", func(a ask, h CardHost) {
			pf := a.pf(h)
			err := a.k.RestoreVF(a.ctx, pf, 1, func(link.VFSettings) link.VFSettings {
				return link.VFSettings{Trust: &on, MinRate: &rate, VLAN: &link.VFVLAN{ID: 42, Proto: link.Dot1Q}}
			})
			require.ErrorIs(a, err, link.ErrVFRefused)
			now := a.vf(pf, 1)
			require.True(a, *now.Trust)
			require.Equal(a, 42, now.VLAN.ID)
			require.Zero(a, *now.MinRate)
		}),
		row("SetMAC", "of a VF shows on its PF, which can fix it", func(a ask, h CardHost) {
			pf := a.pf(h)
			dev := a.link(a.uses(h)[1].Netdev)
			a.no(a.k.SetUp(a.ctx, dev.Index, true))
			a.no(a.k.SetMAC(a.ctx, dev.Index, macA))
			a.shows(pf, 1, macA)
			_, err := a.k.SetVF(a.ctx, pf, 1, link.VFSettings{MAC: mac(macB)})
			a.no(err)
			require.ErrorIs(a, a.k.SetMAC(a.ctx, dev.Index, macC), link.ErrMACFixed)
			require.Equal(a, macB, *a.vf(pf, 1).MAC)
			_, err = a.k.SetVF(a.ctx, pf, 1, link.VFSettings{Trust: &on})
			a.no(err)
			a.no(a.k.SetMAC(a.ctx, dev.Index, macC))
			a.shows(pf, 1, macC)
		}),
		row("AddMacvtap", "in mode passthrough gives a VF its MAC, and its own back", func(a ask, h CardHost) {
			pf := a.pf(h)
			dev := a.link(a.uses(h)[1].Netdev)
			a.no(a.k.SetUp(a.ctx, dev.Index, true))
			// What the PF has said before is overwritten by the VF's own driver, which may.
			_, err := a.k.SetVF(a.ctx, pf, 1, link.VFSettings{Trust: &on, MAC: mac(macB)})
			a.no(err)
			own := a.link(dev.Name).MAC
			tap := a.macvtap("tap0", dev.Name, "passthrough", macA)
			a.no(a.k.SetMAC(a.ctx, tap.Index, macA))
			a.shows(pf, 1, macA)
			a.no(a.k.Delete(a.ctx, tap.Index))
			require.Equal(a, own, a.link(dev.Name).MAC)
			a.shows(pf, 1, own)
		}),
	}
}

// PortContract are the rows of a driver that has 802.1Qbh port profiles: of what testnic
// and the fake do alike.
func PortContract() Contract[PortHost] {
	row := func(method, name string, do func(a ask, h PortHost)) Row[PortHost] {
		return Row[PortHost]{method, name, func(t *testing.T, h PortHost) { do(asking(t, h.Kernel()), h) }}
	}
	return Contract[PortHost]{
		row("AssociatePort", "until DisassociatePort", func(a ask, h PortHost) {
			dev := a.link(h.PF())
			a.no(a.k.AssociatePort(a.ctx, dev, link.PortAssociate, link.Port{VF: 1, Profile: "gold", Instance: [16]byte{1}}))
			require.Equal(a, "gold", h.Profile(1))
			require.Empty(a, h.Profile(0))
			a.no(a.k.AssociatePort(a.ctx, dev, link.PortAssociate, link.Port{VF: 1, Profile: "silver", Instance: [16]byte{1}}))
			require.Equal(a, "silver", h.Profile(1))
			for range 2 {
				a.no(a.k.DisassociatePort(a.ctx, dev, 1))
				require.Empty(a, h.Profile(1))
			}
		}),
		row("AssociatePort", "of what is no VF or no profile", func(a ask, h PortHost) {
			dev := a.link(h.PF())
			err := a.k.AssociatePort(a.ctx, dev, link.PortAssociate, link.Port{VF: 2, Profile: "gold"})
			require.ErrorIs(a, err, link.ErrPortRefused)
			var which *link.PortError
			require.True(a, errors.As(err, &which))
			require.Equal(a, 2, which.VF)
			for _, profile := range []string{"", "a profile whose name is of forty octets.."} {
				require.Error(a, a.k.AssociatePort(a.ctx, dev, link.PortAssociate, link.Port{VF: 1, Profile: profile}))
				require.Empty(a, h.Profile(1))
			}
		}),
		row("DisassociatePort", "of what is no VF", func(a ask, h PortHost) {
			require.ErrorIs(a, a.k.DisassociatePort(a.ctx, a.link(h.PF()), 2), link.ErrPortRefused)
		}),
	}
}

// uses are the card's VFs.
func (a ask) uses(h CardHost) []link.VFUse {
	a.Helper()
	netdev, _ := h.PF()
	uses, err := a.k.VFUses(a.ctx, netdev)
	a.no(err)
	return uses
}

func (a ask) pf(h CardHost) link.Link {
	a.Helper()
	netdev, _ := h.PF()
	return a.link(netdev)
}

func (a ask) vf(pf link.Link, number int) link.VFSettings {
	a.Helper()
	vf, err := a.k.VF(a.ctx, pf, number)
	a.no(err)
	return vf.VFSettings
}

// shows waits until a PF shows a VF's MAC, of which the VF's driver tells it by mailbox.
func (a ask) shows(pf link.Link, number int, mac string) {
	a.Helper()
	require.Eventually(a, func() bool { return *a.vf(pf, number).MAC == mac }, 10*time.Second, 10*time.Millisecond, "%s", mac)
}
