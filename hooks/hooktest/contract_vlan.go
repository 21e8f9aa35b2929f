package hooktest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

// VLANContract are the rows of what not every kernel has: VLAN devices, and
// VLANs of bridges' ports.
func VLANContract() Contract[KernelHost] {
	row := func(method, name string, do func(a ask, h KernelHost)) Row[KernelHost] {
		return Row[KernelHost]{method, name, func(t *testing.T, h KernelHost) {
			h.Card("nica")
			do(asking(t, h.Kernel()), h)
		}}
	}
	vlan := func(a ask, name, parent string, id int) link.Link {
		a.Helper()
		a.no(a.k.AddVLAN(a.ctx, link.VLAN{Name: name, Parent: a.link(parent).Index, ID: id}))
		return a.link(name)
	}
	return Contract[KernelHost]{
		row("AddVLAN", "has its parent's MTU and MAC, and is down", func(a ask, _ KernelHost) {
			parent := a.link("nica")
			index, err := link.FreeIndex()
			a.no(err)
			a.no(a.k.AddVLAN(a.ctx, link.VLAN{Name: "nica.5", Index: index, Parent: parent.Index, ID: 5}))
			require.Equal(a, link.Link{
				Index: index, Name: "nica.5", Kind: "vlan", MAC: parent.MAC, MTU: parent.MTU, Parent: parent.Index, VLANID: 5,
			}, a.link("nica.5"))
		}),
		row("AddVLAN", "where name, index or VLAN is taken", func(a ask, _ KernelHost) {
			parent := a.link("nica").Index
			was := vlan(a, "nica.5", "nica", 5)
			for _, v := range []link.VLAN{{Name: "nica.5", ID: 6}, {Name: "nica.6", Index: was.Index, ID: 6}, {Name: "other", ID: 5}} {
				v.Parent = parent
				require.ErrorIs(a, a.k.AddVLAN(a.ctx, v), link.ErrExists, "%+v", v)
			}
			require.Equal(a, was, a.link("nica.5"))
			a.missing("nica.6")
			a.missing("other")
		}),
		row("AddVLAN", "on nothing", func(a ask, _ KernelHost) {
			require.ErrorIs(a, a.k.AddVLAN(a.ctx, link.VLAN{Name: "nica.5", Parent: noIndex, ID: 5}), link.ErrNotFound)
		}),
		row("AddVLAN", "that is none", func(a ask, _ KernelHost) {
			require.Error(a, a.k.AddVLAN(a.ctx, link.VLAN{Name: "nica.5", Parent: a.link("nica").Index, ID: 4095}))
			a.missing("nica.5")
		}),
		row("SetUp", "of a VLAN needs its parent up, and goes with it", func(a ask, _ KernelHost) {
			parent, v := a.link("nica"), vlan(a, "nica.5", "nica", 5)
			a.no(a.k.SetUp(a.ctx, v.Index, true))
			a.no(a.k.SetUp(a.ctx, parent.Index, false))
			require.False(a, a.link("nica.5").Up)
			require.ErrorIs(a, a.k.SetUp(a.ctx, v.Index, true), unix.ENETDOWN)
			a.no(a.k.SetUp(a.ctx, parent.Index, true))
			require.True(a, a.link("nica.5").Up)
		}),
		row("SetMTU", "of a VLAN is at most its parent's", func(a ask, _ KernelHost) {
			parent, v := a.link("nica"), vlan(a, "nica.5", "nica", 5)
			require.ErrorIs(a, a.k.SetMTU(a.ctx, v.Index, 1501), unix.ERANGE)
			a.no(a.k.SetMTU(a.ctx, parent.Index, 1400))
			require.Equal(a, 1400, a.link("nica.5").MTU)
			a.no(a.k.SetMTU(a.ctx, parent.Index, 1500))
			require.Equal(a, 1400, a.link("nica.5").MTU)
		}),
		row("Lower", "of a macvtap that takes the device from its VLANs", func(a ask, _ KernelHost) {
			vlan(a, "nica.5", "nica", 5)
			obstacles, err := a.k.Lower(a.ctx, "nica", "passthrough", nil)
			a.no(err)
			require.Len(a, obstacles, 1)
			require.Zero(a, obstacles[0].Errno, "the kernel makes it")
			require.Equal(a, "nica.5 stands on it", obstacles[0].Evidence)
			a.macvtap("tap0", "nica", "passthrough", macA)
			obstacles, err = a.k.Lower(a.ctx, "nica.5", "bridge", nil)
			a.no(err)
			require.Empty(a, obstacles)
		}),
		row("UppersEverywhere", "sees a VLAN and a macvtap that have been moved", func(a ask, h KernelHost) {
			vlan(a, "nica.5", "nica", 5)
			vlan(a, "nica.6", "nica", 6)
			a.macvtap("tap0", "nica", "bridge", macA)
			away := h.Container()
			h.Move("nica.5", away)
			h.Move("tap0", away)
			a.missing("nica.5")
			uppers, err := a.k.Uppers(a.ctx, "nica")
			a.no(err)
			require.Equal(a, []string{"nica.6"}, uppers)
			uses, err := a.k.UppersEverywhere(a.ctx, "nica")
			a.no(err)
			require.Len(a, uses, 3)
			require.Equal(a, "upper: nica.6 stands on it", texts(uses)[0])
			var seen []string
			for _, text := range texts(uses)[1:] {
				what, _, _ := strings.Cut(text, " in ")
				seen = append(seen, what)
			}
			require.ElementsMatch(a, []string{"elsewhere: vlan nica.5 stands on it", "elsewhere: macvtap tap0 (bridge) stands on it"}, seen)
			// The VLAN's number is still taken, and with the device they go, wherever they are.
			require.ErrorIs(a, a.k.AddVLAN(a.ctx, link.VLAN{Name: "again", Parent: a.link("nica").Index, ID: 5}), link.ErrExists)
			a.no(a.k.Delete(a.ctx, a.link("nica").Index))
			require.Empty(a, h.In(away))
			a.missing("nica.6")
		}),
		row("SetPortVLANs", "are these and no others", func(a ask, h KernelHost) {
			h.Bridge("br0")
			h.Join("nica", "br0")
			require.Equal(a, []link.PortVLAN{{ID: 1, PVID: true, Untagged: true}}, h.PortVLANs("nica"), "as the kernel has it")
			for _, want := range [][]link.PortVLAN{
				{{ID: 10, PVID: true, Untagged: true}}, {{ID: 10, PVID: true}, {ID: 20}, {ID: 21}, {ID: 22}}, {{ID: 20}, {ID: 22, Untagged: true}}, nil,
			} {
				a.no(a.k.SetPortVLANs(a.ctx, a.link("nica").Index, want))
				require.ElementsMatch(a, want, h.PortVLANs("nica"))
			}
			a.no(a.k.SetPortVLANs(a.ctx, a.link("nica").Index, []link.PortVLAN{{ID: 7}, {ID: 5, PVID: true}}))
			require.Equal(a, []link.PortVLAN{{ID: 5, PVID: true}, {ID: 7}}, h.PortVLANs("nica"))
		}),
		row("SetPortVLANs", "of what is no port", func(a ask, _ KernelHost) {
			require.Error(a, a.k.SetPortVLANs(a.ctx, a.link("nica").Index, []link.PortVLAN{{ID: 10}}))
			require.ErrorIs(a, a.k.SetPortVLANs(a.ctx, noIndex, []link.PortVLAN{{ID: 10}}), link.ErrNotFound)
		}),
	}
}
