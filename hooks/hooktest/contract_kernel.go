package hooktest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

const (
	macA = "52:54:00:00:0a:01"
	macB = "52:54:00:00:0a:02"
	macC = "52:54:00:00:0a:03"
	// noIndex and noName are nobody's.
	noIndex = 1<<30 + 7
	noName  = "nobody"
)

// KernelContract are the rows of what every kernel has that can run guests with direct
// NICs: Ethernet devices, macvtaps, taps and bridges.
func KernelContract() Contract[KernelHost] {
	row := func(method, name string, do func(a ask, h KernelHost)) Row[KernelHost] {
		return Row[KernelHost]{method, name, func(t *testing.T, h KernelHost) {
			h.Card("nica")
			do(asking(t, h.Kernel()), h)
		}}
	}
	rows := Contract[KernelHost]{
		row("ByName", "knows a device by its name and its altnames", func(a ask, _ KernelHost) {
			l := a.link("nica")
			a.no(a.k.AddAltName(a.ctx, l.Index, "storage"))
			a.no(a.k.AddAltName(a.ctx, l.Index, "a-name-that-is-longer-than-fifteen"))
			for _, name := range []string{"storage", "a-name-that-is-longer-than-fifteen"} {
				found := a.link(name)
				require.Equal(a, l.Index, found.Index)
				require.Equal(a, "nica", found.Name)
				require.True(a, found.Called(name))
			}
			require.True(a, l.Up)
			require.Equal(a, 1500, l.MTU)
		}),
		row("ByName", "of nobody", func(a ask, _ KernelHost) {
			for _, name := range []string{noName, "a-name-that-is-longer-than-fifteen"} {
				_, err := a.k.ByName(a.ctx, name)
				require.ErrorIs(a, err, link.ErrNotFound)
			}
		}),
		row("ByName", "when the time is up", func(a ask, _ KernelHost) {
			over, cancel := context.WithCancel(a.ctx)
			cancel()
			_, err := a.k.ByName(over, "nica")
			require.ErrorIs(a, err, context.DeadlineExceeded)
		}),
		row("ByIndex", "finds what ByName finds", func(a ask, _ KernelHost) {
			l := a.link("nica")
			same, err := a.k.ByIndex(a.ctx, l.Index)
			a.no(err)
			require.Equal(a, l, same)
		}),
		row("ByIndex", "of nobody", func(a ask, _ KernelHost) {
			_, err := a.k.ByIndex(a.ctx, noIndex)
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("ByIndex", "of no index", func(a ask, _ KernelHost) {
			_, err := a.k.ByIndex(a.ctx, 0)
			require.Error(a, err)
			require.NotErrorIs(a, err, link.ErrNotFound)
		}),
		row("ByPCI", "of a function that is not there", func(a ask, _ KernelHost) {
			_, err := a.k.ByPCI(a.ctx, "0000:ff:1f.7")
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("ByPermanentMAC", "is not by the address that a device has now", func(a ask, _ KernelHost) {
			_, err := a.k.ByPermanentMAC(a.ctx, a.link("nica").MAC)
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("All", "lists each device as ByName has it", func(a ask, h KernelHost) {
			h.Bridge("br0")
			a.macvtap("tap0", "nica", "bridge", macA)
			all, err := a.k.All(a.ctx)
			a.no(err)
			for _, name := range []string{"nica", "br0", "tap0"} {
				require.Contains(a, all, a.link(name))
			}
		}),
		row("Uppers", "lists what stands on a device here", func(a ask, h KernelHost) {
			uppers, err := a.k.Uppers(a.ctx, "nica")
			a.no(err)
			require.Empty(a, uppers)
			a.macvtap("tap1", "nica", "bridge", macB)
			a.macvtap("tap0", "nica", "bridge", macA)
			uppers, err = a.k.Uppers(a.ctx, "nica")
			a.no(err)
			require.Equal(a, []string{"tap0", "tap1"}, uppers)
			h.Move("tap0", h.Container())
			uppers, err = a.k.Uppers(a.ctx, "nica")
			a.no(err)
			require.Equal(a, []string{"tap1"}, uppers)
		}),
		row("Uppers", "lists the bridge whose port it is", func(a ask, h KernelHost) {
			h.Bridge("br0")
			h.Join("nica", "br0")
			uppers, err := a.k.Uppers(a.ctx, "nica")
			a.no(err)
			require.Equal(a, []string{"br0"}, uppers)
		}),
		row("Uppers", "of nobody, and by an altname", func(a ask, _ KernelHost) {
			a.no(a.k.AddAltName(a.ctx, a.link("nica").Index, "storage"))
			for _, name := range []string{noName, "storage"} {
				_, err := a.k.Uppers(a.ctx, name)
				require.ErrorIs(a, err, link.ErrNotFound, name)
			}
		}),
		row("UppersEverywhere", "lists what stands here and elsewhere", func(a ask, h KernelHost) {
			uses, err := a.k.UppersEverywhere(a.ctx, "nica")
			a.no(err)
			require.Empty(a, uses)
			a.macvtap("tap0", "nica", "bridge", macA)
			a.macvtap("tap1", "nica", "vepa", macB)
			h.Move("tap1", h.Container())
			uses, err = a.k.UppersEverywhere(a.ctx, "nica")
			a.no(err)
			require.Len(a, uses, 2)
			require.Equal(a, link.Use{Kind: link.UseUpper, Evidence: "tap0 stands on it", Device: "tap0"}, uses[0])
			require.Equal(a, link.UseElsewhere, uses[1].Kind)
			require.True(a, strings.HasPrefix(uses[1].Evidence, "macvtap tap1 (vepa) stands on it in "), uses[1].Evidence)
		}),
		row("UppersEverywhere", "lists the bridge whose port it is", func(a ask, h KernelHost) {
			h.Bridge("br0")
			h.Join("nica", "br0")
			uses, err := a.k.UppersEverywhere(a.ctx, "nica")
			a.no(err)
			require.Equal(a, []link.Use{{Kind: link.UseMaster, Evidence: "it is a port of bridge br0", Device: "br0"}}, uses)
		}),
		row("UppersEverywhere", "of nobody", func(a ask, _ KernelHost) {
			_, err := a.k.UppersEverywhere(a.ctx, noName)
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("Lower", "foretells what AddMacvtap answers", func(a ask, h KernelHost) {
			h.Card("nicb")
			h.Card("nicc")
			h.Card("port")
			h.Bridge("br0")
			h.Join("port", "br0")
			a.macvtap("shared", "nicb", "bridge", macA)
			a.macvtap("whole", "nicc", "passthrough", macB)
			for _, c := range []struct {
				lower, mode string
				errno       unix.Errno
				evidence    string
			}{
				{"nica", "bridge", 0, ""}, {"nica", "passthrough", 0, ""},
				{"nicb", "vepa", 0, ""}, {"nicb", "passthrough", unix.EINVAL, "shared stands on it"},
				{"nicc", "bridge", unix.EINVAL, "whole stands on it"}, {"nicc", "passthrough", unix.EINVAL, "whole stands on it"},
				{"port", "private", unix.EBUSY, "it is a port of bridge br0"}, {"port", "passthrough", unix.EBUSY, "it is a port of bridge br0"},
				{"whole", "bridge", unix.EINVAL, "it is a macvtap in mode passthrough, which has its own lower device alone"},
			} {
				what := c.mode + " on " + c.lower
				obstacles, err := a.k.Lower(a.ctx, c.lower, c.mode, nil)
				a.no(err)
				err = a.k.AddMacvtap(a.ctx, link.Macvtap{Name: "probe", Lower: a.link(c.lower).Index, Mode: c.mode, MAC: macC})
				if c.errno == 0 {
					require.Empty(a, obstacles, what)
					require.NoError(a, err, what)
					a.no(a.k.Delete(a.ctx, a.link("probe").Index))
					continue
				}
				require.ErrorIs(a, err, c.errno, what)
				require.Equal(a, c.errno == unix.EBUSY, errors.Is(err, link.ErrBusy), what)
				require.NotEmpty(a, obstacles, what)
				require.Equal(a, c.errno, obstacles[0].Errno, what)
				require.Equal(a, c.evidence, obstacles[0].Evidence, what)
			}
		}),
		row("Lower", "names the bridge to use instead of its port", func(a ask, h KernelHost) {
			h.Bridge("br0")
			h.Join("nica", "br0")
			obstacles, err := a.k.Lower(a.ctx, "nica", "bridge", nil)
			a.no(err)
			require.Len(a, obstacles, 1)
			require.Equal(a, "br0", obstacles[0].Instead)
		}),
		row("Lower", "of nobody, and in no mode", func(a ask, _ KernelHost) {
			_, err := a.k.Lower(a.ctx, noName, "bridge", nil)
			require.ErrorIs(a, err, link.ErrNotFound)
			_, err = a.k.Lower(a.ctx, "nica", "public", nil)
			require.Error(a, err)
		}),
		row("IsVF", "is not what has no PF", func(a ask, _ KernelHost) {
			require.False(a, a.k.IsVF(a.ctx, "nica"))
			require.False(a, a.k.IsVF(a.ctx, noName))
		}),
		row("TapNode", "is named after the index", func(a ask, _ KernelHost) {
			index, err := link.FreeIndex()
			a.no(err)
			a.no(a.k.AddMacvtap(a.ctx, link.Macvtap{Name: "tap0", Index: index, Lower: a.link("nica").Index, Mode: "bridge", MAC: macA}))
			l := a.link("tap0")
			require.Equal(a, index, l.Index)
			node, err := a.k.TapNode(a.ctx, l)
			a.no(err)
			require.Equal(a, fmt.Sprintf("/dev/tap%d", index), node)
			a.no(a.k.Delete(a.ctx, index))
			_, err = a.k.TapNode(a.ctx, l)
			require.ErrorIs(a, err, fs.ErrNotExist)
		}),
		row("AddMacvtap", "makes it as it is asked for, down", func(a ask, _ KernelHost) {
			lower := a.link("nica")
			index, err := link.FreeIndex()
			a.no(err)
			for _, mode := range []string{"vepa", "bridge", "private"} {
				a.no(a.k.AddMacvtap(a.ctx, link.Macvtap{Name: "tap0", Index: index, Lower: lower.Index, Mode: mode, MAC: macA, MTU: 1400, Queues: 4}))
				l := a.link("tap0")
				require.Equal(a, link.Link{
					Index: index, Name: "tap0", Kind: "macvtap", MAC: macA, MTU: 1400, Parent: lower.Index, Mode: mode,
				}, l)
				a.no(a.k.Delete(a.ctx, index))
			}
			require.Equal(a, lower, a.link("nica"))
		}),
		row("AddMacvtap", "has the lower device's MTU, and at most that", func(a ask, _ KernelHost) {
			lower := a.link("nica")
			require.Equal(a, 1500, a.macvtap("tap0", "nica", "bridge", macA).MTU)
			err := a.k.AddMacvtap(a.ctx, link.Macvtap{Name: "tap1", Lower: lower.Index, Mode: "bridge", MAC: macB, MTU: 1501})
			require.ErrorIs(a, err, unix.EINVAL)
			a.missing("tap1")
		}),
		row("AddMacvtap", "gives the lower device its MAC in mode passthrough, and back", func(a ask, _ KernelHost) {
			own := a.link("nica").MAC
			tap := a.macvtap("tap0", "nica", "passthrough", macA)
			require.Equal(a, own, tap.MAC, "at first it has the lower device's")
			require.Equal(a, own, a.link("nica").MAC)
			a.no(a.k.SetMAC(a.ctx, tap.Index, macA))
			a.no(a.k.SetMAC(a.ctx, tap.Index, macB))
			require.Equal(a, macB, a.link("tap0").MAC)
			require.Equal(a, macB, a.link("nica").MAC)
			a.no(a.k.Delete(a.ctx, tap.Index))
			require.Equal(a, own, a.link("nica").MAC)
		}),
		row("AddMacvtap", "stands on the device below another macvtap", func(a ask, _ KernelHost) {
			a.macvtap("tap0", "nica", "bridge", macA)
			require.Equal(a, a.link("nica").Index, a.macvtap("tap1", "tap0", "bridge", macB).Parent)
			uppers, err := a.k.Uppers(a.ctx, "tap0")
			a.no(err)
			require.Empty(a, uppers)
		}),
		row("AddMacvtap", "where name or index is taken", func(a ask, _ KernelHost) {
			lower := a.link("nica")
			a.no(a.k.AddAltName(a.ctx, lower.Index, "storage"))
			for _, m := range []link.Macvtap{{Name: "nica"}, {Name: "storage"}, {Name: "tap0", Index: lower.Index}} {
				m.Lower, m.Mode, m.MAC = lower.Index, "bridge", macA
				require.ErrorIs(a, a.k.AddMacvtap(a.ctx, m), link.ErrExists, "%+v", m)
			}
			a.missing("tap0")
			require.Equal(a, []string{"storage"}, a.link("nica").AltNames)
		}),
		row("AddMacvtap", "on nothing", func(a ask, _ KernelHost) {
			err := a.k.AddMacvtap(a.ctx, link.Macvtap{Name: "tap0", Lower: noIndex, Mode: "bridge", MAC: macA})
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("AddMacvtap", "that no kernel makes", func(a ask, _ KernelHost) {
			for _, m := range []link.Macvtap{
				{Name: "tap0", Mode: "public", MAC: macA}, {Name: "tap0", Mode: "bridge", MAC: "52:54:00"},
				{Name: "tap0", Mode: "bridge", MAC: "03:00:00:00:00:01"}, {Name: "name-of-sixteen-", Mode: "bridge", MAC: macA},
			} {
				m.Lower = a.link("nica").Index
				require.Error(a, a.k.AddMacvtap(a.ctx, m), "%+v", m)
				a.missing(m.Name)
			}
		}),
		row("AddTap", "makes it as it is asked for, down", func(a ask, _ KernelHost) {
			index, err := link.FreeIndex()
			a.no(err)
			a.no(a.k.AddTap(a.ctx, link.Tap{Name: "tap0", Index: index, Queues: 2}))
			l := a.link("tap0")
			require.NotEmpty(a, l.MAC)
			l.MAC = ""
			require.Equal(a, link.Link{Index: index, Name: "tap0", Kind: "tun", MTU: 1500}, l)
			a.no(a.k.Delete(a.ctx, index))
			a.missing("tap0")
		}),
		row("AddTap", "where name or index is taken", func(a ask, _ KernelHost) {
			index, err := link.FreeIndex()
			a.no(err)
			a.no(a.k.AddTap(a.ctx, link.Tap{Name: "tap0", Index: index}))
			was := a.link("tap0")
			require.ErrorIs(a, a.k.AddTap(a.ctx, link.Tap{Name: "tap1", Index: index}), link.ErrExists)
			again, err := link.FreeIndex()
			a.no(err)
			require.ErrorIs(a, a.k.AddTap(a.ctx, link.Tap{Name: "tap0", Index: again}), link.ErrExists)
			require.Error(a, a.k.AddTap(a.ctx, link.Tap{Name: "nica", Index: again}))
			require.Equal(a, was, a.link("tap0"))
		}),
		row("SetMTU", "takes macvtaps along when it gets smaller", func(a ask, _ KernelHost) {
			lower, tap := a.link("nica"), a.macvtap("tap0", "nica", "bridge", macA)
			a.no(a.k.SetMTU(a.ctx, lower.Index, 1400))
			require.Equal(a, 1400, a.link("nica").MTU)
			require.Equal(a, 1400, a.link("tap0").MTU)
			a.no(a.k.SetMTU(a.ctx, lower.Index, 9000))
			require.Equal(a, 1400, a.link("tap0").MTU, "and not when it gets larger")
			a.no(a.k.SetMTU(a.ctx, tap.Index, 9000))
			require.ErrorIs(a, a.k.SetMTU(a.ctx, tap.Index, 9001), unix.EINVAL)
			require.Equal(a, 9000, a.link("tap0").MTU)
		}),
		row("SetMTU", "to what none is", func(a ask, _ KernelHost) {
			require.ErrorIs(a, a.k.SetMTU(a.ctx, a.link("nica").Index, 0), unix.EINVAL)
			require.Equal(a, 1500, a.link("nica").MTU)
		}),
		row("Delete", "takes along what stands on it", func(a ask, h KernelHost) {
			a.macvtap("tap0", "nica", "bridge", macA)
			a.macvtap("tap1", "nica", "bridge", macB)
			away := h.Container()
			h.Move("tap1", away)
			require.Equal(a, []string{"tap1"}, h.In(away))
			a.no(a.k.Delete(a.ctx, a.link("nica").Index))
			a.missing("nica")
			a.missing("tap0")
			require.Empty(a, h.In(away))
		}),
		row("Delete", "lets go a bridge's ports", func(a ask, h KernelHost) {
			h.Bridge("br0")
			h.Join("nica", "br0")
			require.Equal(a, a.link("br0").Index, a.link("nica").Master)
			a.no(a.k.Delete(a.ctx, a.link("br0").Index))
			require.Zero(a, a.link("nica").Master)
			require.Nil(a, a.link("nica").Port)
		}),
		row("SetUp", "and down", func(a ask, _ KernelHost) {
			tap := a.macvtap("tap0", "nica", "bridge", macA)
			for _, up := range []bool{true, true, false, false} {
				a.no(a.k.SetUp(a.ctx, tap.Index, up))
				require.Equal(a, up, a.link("tap0").Up)
			}
			a.no(a.k.SetUp(a.ctx, a.link("nica").Index, false))
			a.no(a.k.SetUp(a.ctx, tap.Index, true))
			require.True(a, a.link("tap0").Up, "while its lower device is down")
		}),
		row("SetUp", "has a macvtap answer for its MAC", func(a ask, h KernelHost) {
			// As while a guest migrates: until then it is on the wire's other side.
			neighbour := a.macvtap("near", "nica", "bridge", macA)
			a.no(a.k.SetUp(a.ctx, neighbour.Index, true))
			for mode, receiver := range map[string]string{"bridge": "tap0", "vepa": "", "private": ""} {
				require.Empty(a, h.Receiver("near", macB), "nobody is here")
				tap := a.macvtap("tap0", "nica", mode, macB)
				require.Empty(a, h.Receiver("near", macB, "tap0"), "%s, down", mode)
				a.no(a.k.SetUp(a.ctx, tap.Index, true))
				require.Equal(a, receiver, h.Receiver("near", macB, "tap0"), "%s, up", mode)
				a.no(a.k.SetUp(a.ctx, tap.Index, false))
				require.Empty(a, h.Receiver("near", macB, "tap0"), "%s, down again", mode)
				a.no(a.k.Delete(a.ctx, tap.Index))
			}
		}),
		row("SetUp", "of a second macvtap with the same MAC", func(a ask, _ KernelHost) {
			one, two := a.macvtap("tap0", "nica", "bridge", macA), a.macvtap("tap1", "nica", "bridge", macA)
			own := a.macvtap("tap2", "nica", "bridge", a.link("nica").MAC)
			a.no(a.k.SetUp(a.ctx, one.Index, true))
			require.ErrorIs(a, a.k.SetUp(a.ctx, two.Index, true), unix.EADDRINUSE)
			require.False(a, a.link("tap1").Up)
			require.ErrorIs(a, a.k.SetUp(a.ctx, own.Index, true), unix.EADDRINUSE, "the lower device's")
			a.no(a.k.SetUp(a.ctx, one.Index, false))
			a.no(a.k.SetUp(a.ctx, two.Index, true))
		}),
		row("SetAllMulticast", "on and off", func(a ask, _ KernelHost) {
			for _, on := range []bool{true, true, false} {
				a.no(a.k.SetAllMulticast(a.ctx, a.link("nica").Index, on))
				require.Equal(a, on, a.link("nica").AllMulti)
			}
		}),
		row("SetAlias", "to a text, and to none", func(a ask, _ KernelHost) {
			index := a.link("nica").Index
			for _, alias := range []string{"an alias", strings.Repeat("x", 255), ""} {
				a.no(a.k.SetAlias(a.ctx, index, alias))
				require.Equal(a, alias, a.link("nica").Alias)
			}
			require.Error(a, a.k.SetAlias(a.ctx, index, strings.Repeat("x", 256)))
			require.Empty(a, a.link("nica").Alias)
		}),
		row("SetMAC", "of a device and of a macvtap that shares one", func(a ask, _ KernelHost) {
			a.no(a.k.SetMAC(a.ctx, a.link("nica").Index, macA))
			require.Equal(a, macA, a.link("nica").MAC)
			tap := a.macvtap("tap0", "nica", "bridge", macB)
			a.no(a.k.SetMAC(a.ctx, tap.Index, macC))
			require.Equal(a, macC, a.link("tap0").MAC)
			require.Equal(a, macA, a.link("nica").MAC)
		}),
		row("SetMAC", "of the device below a macvtap in mode passthrough", func(a ask, _ KernelHost) {
			tap := a.macvtap("tap0", "nica", "passthrough", macA)
			a.no(a.k.SetMAC(a.ctx, tap.Index, macA))
			a.no(a.k.SetMAC(a.ctx, a.link("nica").Index, macB))
			require.Equal(a, macB, a.link("tap0").MAC, "the macvtap's too")
			a.no(a.k.Delete(a.ctx, tap.Index))
			require.Equal(a, macB, a.link("nica").MAC, "and stays")
		}),
		row("SetMAC", "of a macvtap that is up, to another's", func(a ask, _ KernelHost) {
			one, two := a.macvtap("tap0", "nica", "bridge", macA), a.macvtap("tap1", "nica", "bridge", macB)
			a.no(a.k.SetUp(a.ctx, one.Index, true))
			a.no(a.k.SetUp(a.ctx, two.Index, true))
			require.ErrorIs(a, a.k.SetMAC(a.ctx, two.Index, macA), unix.EADDRINUSE)
			require.Equal(a, macB, a.link("tap1").MAC)
			a.no(a.k.SetUp(a.ctx, one.Index, false))
			a.no(a.k.SetMAC(a.ctx, two.Index, macA))
		}),
		row("SetMAC", "to what none is", func(a ask, _ KernelHost) {
			own := a.link("nica").MAC
			require.Error(a, a.k.SetMAC(a.ctx, a.link("nica").Index, "52:54:00"))
			require.Error(a, a.k.SetMAC(a.ctx, a.link("nica").Index, "03:00:00:00:00:01"), "a group's")
			require.Equal(a, own, a.link("nica").MAC)
		}),
		row("SetName", "keeps index and altnames", func(a ask, _ KernelHost) {
			l := a.link("nica")
			a.no(a.k.SetUp(a.ctx, l.Index, false))
			a.no(a.k.AddAltName(a.ctx, l.Index, "storage"))
			a.no(a.k.SetName(a.ctx, l.Index, "nicb"))
			a.missing("nica")
			require.Equal(a, l.Index, a.link("nicb").Index)
			require.Equal(a, "nicb", a.link("storage").Name)
		}),
		row("SetName", "that is taken, or none", func(a ask, h KernelHost) {
			h.Card("nicb")
			l, other := a.link("nica"), a.link("nicb")
			a.no(a.k.SetUp(a.ctx, l.Index, false))
			a.no(a.k.AddAltName(a.ctx, other.Index, "storage"))
			for _, name := range []string{"nicb", "storage"} {
				require.ErrorIs(a, a.k.SetName(a.ctx, l.Index, name), link.ErrExists, name)
			}
			require.Error(a, a.k.SetName(a.ctx, l.Index, "name-of-sixteen-"))
			a.no(a.k.SetName(a.ctx, l.Index, "nica"))
			require.Equal(a, l.Index, a.link("nica").Index)
		}),
		row("AddAltName", "that is taken", func(a ask, h KernelHost) {
			h.Card("nicb")
			a.no(a.k.AddAltName(a.ctx, a.link("nicb").Index, "storage"))
			for _, name := range []string{"nica", "nicb", "storage"} {
				require.ErrorIs(a, a.k.AddAltName(a.ctx, a.link("nica").Index, name), link.ErrExists, name)
			}
			a.no(a.k.AddAltName(a.ctx, a.link("nica").Index, "one"))
			a.no(a.k.AddAltName(a.ctx, a.link("nica").Index, "two"))
			require.ElementsMatch(a, []string{"one", "two"}, a.link("nica").AltNames)
		}),
		row("RemoveAltName", "that is there, and that is not", func(a ask, _ KernelHost) {
			index := a.link("nica").Index
			a.no(a.k.AddAltName(a.ctx, index, "storage"))
			a.no(a.k.RemoveAltName(a.ctx, index, "storage"))
			a.missing("storage")
			require.Empty(a, a.link("nica").AltNames)
			for _, name := range []string{"storage", "nica"} {
				err := a.k.RemoveAltName(a.ctx, index, name)
				require.Error(a, err, name)
				require.NotErrorIs(a, err, link.ErrNotFound, name)
			}
		}),
		row("Silence", "keeps the host's IPv6 off", func(a ask, h KernelHost) {
			tap := a.macvtap("tap0", "nica", "bridge", macA)
			require.True(a, h.IPv6("tap0"))
			a.no(a.k.Silence(a.ctx, tap.Index))
			a.no(a.k.SetUp(a.ctx, tap.Index, true))
			require.False(a, h.IPv6("tap0"))
			require.True(a, h.IPv6("nica"))
			require.ErrorIs(a, a.k.Silence(a.ctx, noIndex), link.ErrNotFound)
		}),
		row("Presence", "of a device that is silent, and of one that is not", func(a ask, _ KernelHost) {
			tap := a.macvtap("tap0", "nica", "bridge", macA)
			a.no(a.k.SetUp(a.ctx, tap.Index, true))
			presence, err := a.k.Presence(a.ctx, tap)
			a.no(err)
			require.Equal(a, "IPv6 is on", presence)
			a.no(a.k.Silence(a.ctx, tap.Index))
			presence, err = a.k.Presence(a.ctx, tap)
			a.no(err)
			require.Empty(a, presence)
		}),
		row("SetPortFlags", "leaves what is not wanted as it is", func(a ask, h KernelHost) {
			h.Bridge("br0")
			h.Join("nica", "br0")
			index, on, off := a.link("nica").Index, true, false
			require.Equal(a, "isolated off, learning on, hairpin off, bpduguard off, flood on, mcastflood on, neighsuppress off, locked off",
				a.link("nica").Port.String())
			a.no(a.k.SetPortFlags(a.ctx, index, link.PortFlags{Isolated: &on, Learning: &off}))
			a.no(a.k.SetPortFlags(a.ctx, index, link.PortFlags{Isolated: &off, BPDUGuard: &on}))
			a.no(a.k.SetPortFlags(a.ctx, index, link.PortFlags{Flood: &off, MulticastFlood: &off}))
			a.no(a.k.SetPortFlags(a.ctx, index, link.PortFlags{NeighSuppress: &on, Locked: &on}))
			require.Equal(a, "isolated off, learning off, hairpin off, bpduguard on, flood off, mcastflood off, neighsuppress on, locked on",
				a.link("nica").Port.String())
		}),
		row("SetPortFlags", "locks a port and leaves it its addresses", func(a ask, h KernelHost) {
			h.Bridge("br0")
			h.Join("nica", "br0")
			index, on, off := a.link("nica").Index, true, false
			a.no(a.k.AddPortMAC(a.ctx, index, macA))
			for range 2 {
				a.no(a.k.SetPortFlags(a.ctx, index, link.PortFlags{Learning: &off, Locked: &on}))
				require.Equal(a, []string{macA}, h.PortMACs("nica"))
			}
			a.no(a.k.SetPortFlags(a.ctx, index, link.PortFlags{Locked: &off}))
			require.Equal(a, []string{macA}, h.PortMACs("nica"))
		}),
		row("SetPortFlags", "of what is no port", func(a ask, _ KernelHost) {
			on := true
			err := a.k.SetPortFlags(a.ctx, a.link("nica").Index, link.PortFlags{Isolated: &on})
			require.ErrorIs(a, err, link.ErrNotSupported)
			require.Nil(a, a.link("nica").Port)
		}),
		row("AddPortMAC", "once is as good as twice", func(a ask, h KernelHost) {
			h.Bridge("br0")
			h.Join("nica", "br0")
			for range 2 {
				a.no(a.k.AddPortMAC(a.ctx, a.link("nica").Index, macA))
				require.Equal(a, []string{macA}, h.PortMACs("nica"))
			}
			a.no(a.k.AddPortMAC(a.ctx, a.link("nica").Index, macB))
			require.ElementsMatch(a, []string{macA, macB}, h.PortMACs("nica"))
		}),
		row("AddSelfEntry", "enters an address once, and RemoveSelfEntry takes it out", func(a ask, _ KernelHost) {
			index := a.link("nica").Index
			entries := func() []string {
				macs, err := a.k.SelfEntries(a.ctx, index)
				a.no(err)
				return macs
			}
			require.Empty(a, entries())
			for _, mac := range []string{macA, macB} {
				a.no(a.k.AddSelfEntry(a.ctx, index, mac))
				require.ErrorIs(a, a.k.AddSelfEntry(a.ctx, index, mac), link.ErrExists)
			}
			require.ElementsMatch(a, []string{macA, macB}, entries())
			a.no(a.k.RemoveSelfEntry(a.ctx, index, macA))
			require.ErrorIs(a, a.k.RemoveSelfEntry(a.ctx, index, macA), link.ErrNotFound)
			require.Equal(a, []string{macB}, entries())
		}),
		row("SelfEntries", "of nobody are none", func(a ask, _ KernelHost) {
			macs, err := a.k.SelfEntries(a.ctx, noIndex)
			a.no(err)
			require.Empty(a, macs)
		}),
		row("AddSelfEntry", "of no address", func(a ask, _ KernelHost) {
			require.Error(a, a.k.AddSelfEntry(a.ctx, a.link("nica").Index, "52:54:00"))
			require.Error(a, a.k.RemoveSelfEntry(a.ctx, a.link("nica").Index, "52:54:00"))
		}),
		row("RemoveSelfEntry", "that is not there", func(a ask, _ KernelHost) {
			require.ErrorIs(a, a.k.RemoveSelfEntry(a.ctx, a.link("nica").Index, macA), link.ErrNotFound)
		}),
		row("AddPortMAC", "takes the address from another port", func(a ask, h KernelHost) {
			h.Card("nicb")
			h.Bridge("br0")
			for _, port := range []string{"nica", "nicb"} {
				h.Join(port, "br0")
				a.no(a.k.AddPortMAC(a.ctx, a.link(port).Index, macA))
				require.Equal(a, []string{macA}, h.PortMACs(port))
			}
			require.Empty(a, h.PortMACs("nica"))
		}),
		row("AddPortMAC", "of what is no port, or no address", func(a ask, h KernelHost) {
			require.Error(a, a.k.AddPortMAC(a.ctx, a.link("nica").Index, macA))
			h.Bridge("br0")
			h.Join("nica", "br0")
			require.Error(a, a.k.AddPortMAC(a.ctx, a.link("nica").Index, "52:54:00"))
		}),
		row("VFOf", "of what is no VF", func(a ask, _ KernelHost) {
			for _, name := range []string{"nica", noName} {
				_, err := a.k.VFOf(a.ctx, name)
				require.ErrorIs(a, err, link.ErrNotFound, name)
			}
		}),
		row("VFAt", "of a function that is not there", func(a ask, _ KernelHost) {
			_, err := a.k.VFAt(a.ctx, "0000:ff:1f.7")
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("PF", "that is not there", func(a ask, _ KernelHost) {
			_, err := a.k.PF(a.ctx, link.VFPlace{PF: "0000:ff:1f.6", Device: "0000:ff:1f.7"})
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("VFUses", "of what is no card", func(a ask, _ KernelHost) {
			for _, name := range []string{"nica", noName} {
				_, err := a.k.VFUses(a.ctx, name)
				require.ErrorIs(a, err, link.ErrNotFound, name)
			}
		}),
		row("VFUseAt", "of a VF that is not there", func(a ask, _ KernelHost) {
			_, err := a.k.VFUseAt(a.ctx, link.VFPlace{PF: "0000:ff:1f.6", Device: "0000:ff:1f.7"})
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("VFUsed", "cannot be told of a network device that is gone", func(a ask, _ KernelHost) {
			use, used := link.FirstUse(a.k.VFUsed(a.ctx, link.VFUse{Driver: "a-driver", Netdev: noName}, nil))
			require.True(a, used)
			require.Equal(a, link.UseUnknown, use.Kind)
			require.ErrorIs(a, use.Err, link.ErrNotFound)
		}),
		row("VF", "of a device without any", func(a ask, _ KernelHost) {
			_, err := a.k.VF(a.ctx, a.link("nica"), 0)
			require.ErrorIs(a, err, link.ErrNoVF)
			_, err = a.k.VF(a.ctx, link.Link{Name: noName, Index: noIndex}, 0)
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("SetVF", "of a device without any", func(a ask, _ KernelHost) {
			_, err := a.k.SetVF(a.ctx, a.link("nica"), 0, link.VFSettings{})
			require.ErrorIs(a, err, link.ErrNoVF)
			_, err = a.k.SetVF(a.ctx, link.Link{Name: noName, Index: noIndex}, 0, link.VFSettings{})
			require.ErrorIs(a, err, link.ErrNotFound)
		}),
		row("RestoreVF", "of a device without any", func(a ask, _ KernelHost) {
			err := a.k.RestoreVF(a.ctx, a.link("nica"), 0, func(now link.VFSettings) link.VFSettings {
				a.Error("there is nothing to choose")
				return now
			})
			require.ErrorIs(a, err, link.ErrNoVF)
		}),
		row("AssociatePort", "of a driver that has no port profiles", func(a ask, _ KernelHost) {
			err := a.k.AssociatePort(a.ctx, a.link("nica"), link.PortAssociate, link.Port{VF: link.SelfPort, Profile: "gold"})
			require.ErrorIs(a, err, link.ErrPortRefused)
		}),
		row("DisassociatePort", "of a driver that has no port profiles", func(a ask, _ KernelHost) {
			require.ErrorIs(a, a.k.DisassociatePort(a.ctx, a.link("nica"), link.SelfPort), link.ErrPortRefused)
		}),
	}
	// What changes a device by its index says that there is none.
	on := true
	for method, call := range map[string]func(a ask) error{
		"SetMTU":          func(a ask) error { return a.k.SetMTU(a.ctx, noIndex, 1400) },
		"Delete":          func(a ask) error { return a.k.Delete(a.ctx, noIndex) },
		"SetUp":           func(a ask) error { return a.k.SetUp(a.ctx, noIndex, true) },
		"SetAllMulticast": func(a ask) error { return a.k.SetAllMulticast(a.ctx, noIndex, true) },
		"SetAlias":        func(a ask) error { return a.k.SetAlias(a.ctx, noIndex, "an alias") },
		"SetMAC":          func(a ask) error { return a.k.SetMAC(a.ctx, noIndex, macA) },
		"SetName":         func(a ask) error { return a.k.SetName(a.ctx, noIndex, "nicb") },
		"AddAltName":      func(a ask) error { return a.k.AddAltName(a.ctx, noIndex, "storage") },
		"RemoveAltName":   func(a ask) error { return a.k.RemoveAltName(a.ctx, noIndex, "storage") },
		"SetPortFlags":    func(a ask) error { return a.k.SetPortFlags(a.ctx, noIndex, link.PortFlags{Isolated: &on}) },
		"AddSelfEntry":    func(a ask) error { return a.k.AddSelfEntry(a.ctx, noIndex, macA) },
		"RemoveSelfEntry": func(a ask) error { return a.k.RemoveSelfEntry(a.ctx, noIndex, macA) },
		"AddPortMAC":      func(a ask) error { return a.k.AddPortMAC(a.ctx, noIndex, macA) },
	} {
		rows = append(rows, row(method, "of nobody", func(a ask, _ KernelHost) { require.ErrorIs(a, call(a), link.ErrNotFound) }))
	}
	return rows
}
