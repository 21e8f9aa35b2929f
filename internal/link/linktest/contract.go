// Package linktest says what package link's answers on the use of network devices are,
// as a table that runs against the kernel, and against whatever is to stand in for it.
package linktest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

// Kernel is what the table is about: *link.Conn, or a fake one.
type Kernel interface {
	ByName(ctx context.Context, name string) (link.Link, error)
	AddMacvtap(ctx context.Context, m link.Macvtap) error
	Delete(ctx context.Context, index int) error

	Uses(ctx context.Context, name string, elsewhere *link.Elsewhere) iter.Seq[link.Use]
	Elsewhere(ctx context.Context) *link.Elsewhere
	UppersEverywhere(ctx context.Context, name string) ([]link.Use, error)
	Lower(ctx context.Context, name, mode string, elsewhere *link.Elsewhere) ([]link.Obstacle, error)
}

var _ Kernel = (*link.Conn)(nil)

// Host is a host of its own without devices, and how a topology is made on it.
type Host interface {
	Kernel() Kernel
	// Card makes an Ethernet device that is up and has a carrier.
	Card(name string)
	// Add makes a device of a kind that `ip link` knows; lower is "" for one that stands
	// on nothing. Options are `ip link`'s.
	Add(kind, name, lower string, options ...string)
	// Join makes a device a port of a bridge, bond and the like.
	Join(port, master string)
	Up(name string)
	Address(name, prefix string)
	// Route takes `ip route add`'s arguments.
	Route(args ...string)
	// XDP attaches a program that passes all frames.
	XDP(name string)
	// Container makes another network namespace and returns a name for it.
	Container() string
	// Move moves a device into a container.
	Move(name, container string)
	// AddIn makes a device in a container that stands on one of the host.
	AddIn(container, kind, name, lower string, options ...string)
	// UpIn sets a container's device up.
	UpIn(container, name string)
}

// Row is a topology and what is to be said of one of its devices.
type Row struct {
	Name   string
	Build  func(h Host)
	Device string // "nica" if empty
	// Uses are all the uses, as "kind: evidence"; "…" at the end stands for anything.
	Uses []string
	// Shared and Whole are the errnos with which the kernel refuses a macvtap in mode
	// bridge, and in mode passthrough; 0 where it makes one.
	Shared, Whole syscall.Errno
	// Instead is the device to use in place of this one, also where the kernel refuses nothing.
	Instead string
}

// upper reports whether a use is one of those that UppersEverywhere lists.
func upper(u link.Use) bool {
	return slices.Contains([]link.UseKind{link.UseMaster, link.UseUpper, link.UseElsewhere, link.UseUnknown}, u.Kind)
}

// Run builds each row's topology on a host of its own, asks for the device's uses, and
// makes the macvtaps.
func Run(t *testing.T, newHost func(t *testing.T) Host, rows []Row) {
	for _, row := range rows {
		t.Run(row.Name, func(t *testing.T) { row.run(t, newHost(t)) })
	}
}

func (row Row) run(t *testing.T, h Host) {
	ctx, k := t.Context(), h.Kernel()
	h.Card("nica")
	if row.Build != nil {
		row.Build(h)
	}
	name := row.Device
	if name == "" {
		name = "nica"
	}
	elsewhere := k.Elsewhere(ctx)
	require.Empty(t, elsewhere.Unknown)
	uses := slices.Collect(k.Uses(ctx, name, elsewhere))
	require.Len(t, uses, len(row.Uses), "%v", uses)
	for i, want := range row.Uses {
		have := string(uses[i].Kind) + ": " + uses[i].Evidence
		if start, open := strings.CutSuffix(want, "…"); open {
			require.True(t, strings.HasPrefix(have, start), have)
		} else {
			require.Equal(t, want, have)
		}
	}
	first, used := link.FirstUse(k.Uses(ctx, name, elsewhere))
	require.Equal(t, len(uses) > 0, used)
	if used {
		require.Equal(t, uses[0], first)
	}
	everywhere, err := k.UppersEverywhere(ctx, name)
	require.NoError(t, err)
	require.ElementsMatch(t, slices.DeleteFunc(slices.Clone(uses), func(u link.Use) bool { return !upper(u) }), everywhere)

	lower, err := k.ByName(ctx, name)
	require.NoError(t, err)
	for mode, want := range map[string]syscall.Errno{"bridge": row.Shared, "passthrough": row.Whole} {
		obstacles, err := k.Lower(ctx, name, mode, elsewhere)
		require.NoError(t, err)
		var says syscall.Errno
		said := map[string]bool{}
		for _, o := range obstacles {
			require.NotEmpty(t, o.Evidence)
			require.False(t, said[o.Evidence], "said twice: %v", obstacles)
			said[o.Evidence] = true
			if o.Errno != 0 {
				require.Zero(t, says, "one answer of the kernel's: %v", obstacles)
				says = o.Errno
			}
			if o.Errno != 0 || mode != "passthrough" {
				require.Equal(t, row.Instead, o.Instead)
			}
		}
		if mode != "passthrough" {
			require.Equal(t, row.Instead != "" || want != 0, len(obstacles) > 0, "%v", obstacles)
		}
		if mode == "passthrough" {
			for _, u := range uses {
				require.True(t, said[u.Evidence], "%s is at the expense of: %v", mode, u)
			}
		}
		index, err := link.FreeIndex()
		require.NoError(t, err)
		err = k.AddMacvtap(ctx, link.Macvtap{Name: "probe", Index: index, Lower: lower.Index, Mode: mode, MAC: "52:54:00:00:00:01"})
		answer := fmt.Sprintf("mode %s: the kernel says %v, and Lower %v", mode, err, obstacles)
		var errno syscall.Errno
		errors.As(err, &errno)
		require.Equal(t, err != nil, errno != 0, answer)
		require.Equal(t, want, errno, answer)
		require.Equal(t, want, says, answer)
		if err == nil {
			require.NoError(t, k.Delete(ctx, index))
		}
	}
}

// Basic are rows of what every kernel has that can run guests with direct NICs: veth,
// bridge, macvlan and tun.
func Basic() []Row {
	const busy, invalid = unix.EBUSY, unix.EINVAL
	return []Row{
		{Name: "nobody uses it"},
		{
			Name:  "the other end of a veth is in a container",
			Build: func(h Host) { h.Add("veth", "vetha", "", "peer", "name", "vethb"); h.Move("vethb", h.Container()) }, Device: "vetha",
		},
		{
			Name:  "port of a bridge",
			Build: func(h Host) { h.Add("bridge", "br0", ""); h.Join("nica", "br0") },
			Uses:  []string{"master: it is a port of bridge br0"}, Shared: busy, Whole: busy, Instead: "br0",
		},
		{
			Name: "a bridge itself", Device: "br0",
			Build: func(h Host) { h.Add("bridge", "br0", ""); h.Join("nica", "br0") },
		},
		{
			Name: "macvtaps in shared modes",
			Build: func(h Host) {
				h.Add("macvtap", "mt0", "nica", "mode", "bridge")
				h.Add("macvtap", "mt1", "nica", "mode", "vepa")
			},
			Uses: []string{"upper: mt0 stands on it", "upper: mt1 stands on it"}, Whole: invalid,
		},
		{
			Name:  "a macvtap in mode passthrough",
			Build: func(h Host) { h.Add("macvtap", "mt0", "nica", "mode", "passthru") },
			Uses:  []string{"upper: mt0 stands on it"}, Shared: invalid, Whole: invalid,
		},
		{
			Name: "a macvlan itself", Device: "mv0",
			Build: func(h Host) { h.Add("macvlan", "mv0", "nica", "mode", "bridge") },
			Whole: invalid,
		},
		{
			Name: "a macvlan in mode passthrough itself", Device: "mv0",
			Build:  func(h Host) { h.Add("macvlan", "mv0", "nica", "mode", "passthru") },
			Shared: invalid, Whole: invalid,
		},
		{
			Name: "a tunnel of IP packets", Device: "tun0",
			Build:  func(h Host) { h.Add("tun", "tun0", "") },
			Shared: invalid, Whole: invalid,
		},
		{Name: "the loopback device", Device: "lo", Shared: invalid, Whole: invalid},
		{
			Name:  "a macvlan moved to a container",
			Build: func(h Host) { h.Add("macvlan", "mv0", "nica", "mode", "bridge"); h.Move("mv0", h.Container()) },
			Uses:  []string{"elsewhere: macvlan mv0 (bridge) stands on it in the network namespace of process …"}, Whole: invalid,
		},
		{
			Name: "a macvlan made in a container, and up",
			Build: func(h Host) {
				c := h.Container()
				h.AddIn(c, "macvlan", "mv0", "nica", "mode", "private")
				h.UpIn(c, "mv0")
			},
			Uses: []string{"elsewhere: macvlan mv0 (private) stands on it in the network namespace of process …"}, Whole: invalid,
		},
		{
			Name:  "a macvtap in mode passthrough in a container",
			Build: func(h Host) { h.AddIn(h.Container(), "macvtap", "mt0", "nica", "mode", "passthru") },
			Uses:  []string{"elsewhere: macvtap mt0 (passthrough) stands on it in the network namespace of process …"}, Shared: invalid, Whole: invalid,
		},
		{
			Name: "one here and one there",
			Build: func(h Host) {
				h.Add("macvtap", "mt0", "nica", "mode", "bridge")
				h.AddIn(h.Container(), "macvlan", "mv0", "nica", "mode", "bridge")
			},
			Uses: []string{"upper: mt0 stands on it", "elsewhere: macvlan mv0 (bridge) stands on it…"}, Whole: invalid,
		},
		{
			Name: "addresses",
			Build: func(h Host) {
				for _, a := range []string{"192.0.2.7/24", "2001:db8::7/64", "fe80::7/64"} {
					h.Address("nica", a)
				}
			},
			Uses: []string{"address: it has address 192.0.2.7/24", "address: it has address 2001:db8::7/64", "address: it has address fe80::7/64"},
		},
		{
			Name: "routes without an address",
			Build: func(h Host) {
				h.Route("198.51.100.0/24", "dev", "nica", "table", "300")
				h.Route("default", "dev", "nica")
				h.Route("2001:db8:1::/48", "via", "fe80::1", "dev", "nica")
			},
			Uses: []string{
				"route: route 198.51.100.0/24 in table 300 goes through it", "route: route default goes through it",
				"route: route 2001:db8:1::/48 via fe80::1 goes through it",
			},
		},
		{
			Name: "one of a route's next hops",
			Build: func(h Host) {
				h.Card("nicb")
				h.Address("nicb", "192.0.2.7/24")
				h.Route("198.51.100.0/24", "nexthop", "via", "192.0.2.1", "dev", "nicb", "nexthop", "via", "203.0.113.1", "dev", "nica", "onlink")
			},
			Uses: []string{"route: route 198.51.100.0/24 via 203.0.113.1 goes through it"},
		},
		{
			Name:  "an XDP program",
			Build: func(h Host) { h.XDP("nica") },
			Uses:  []string{"xdp: XDP program …"},
		},
	}
}

func bond(h Host) {
	h.Add("bond", "bond0", "", "mode", "active-backup")
	h.Join("nica", "bond0")
}

// Modules are rows of what some kernels have as modules, and others not. Besides `ip link`'s kinds
// they ask Add for an "openvswitch" datapath.
func Modules() []Row {
	const busy = unix.EBUSY
	return []Row{
		{
			Name:  "a VLAN",
			Build: func(h Host) { h.Add("vlan", "nica.5", "nica", "id", "5") },
			Uses:  []string{"upper: nica.5 stands on it"},
		},
		{
			Name:  "a VLAN moved to a container",
			Build: func(h Host) { h.Add("vlan", "nica.5", "nica", "id", "5"); h.Move("nica.5", h.Container()) },
			Uses:  []string{"elsewhere: vlan nica.5 stands on it in the network namespace of process …"},
		},
		{
			Name: "a VLAN itself, with a macvlan in a container", Device: "nica.5",
			Build: func(h Host) {
				h.Add("vlan", "nica.5", "nica", "id", "5")
				h.AddIn(h.Container(), "macvlan", "mv0", "nica.5", "mode", "bridge")
			},
			Uses: []string{"elsewhere: macvlan mv0 (bridge) stands on it in the network namespace of process …"}, Whole: unix.EINVAL,
		},
		{
			Name:  "port of a bond",
			Build: func(h Host) { h.Add("bond", "bond0", "", "mode", "active-backup"); h.Join("nica", "bond0") },
			Uses:  []string{"master: it is a port of bond bond0"}, Shared: busy, Whole: busy, Instead: "bond0",
		},
		{
			Name: "a bond itself", Device: "bond0",
			Build: func(h Host) { h.Add("bond", "bond0", "", "mode", "active-backup"); h.Join("nica", "bond0") },
		},
		{
			Name:  "port of a team",
			Build: func(h Host) { h.Add("team", "team0", ""); h.Join("nica", "team0") },
			Uses:  []string{"master: it is a port of team team0"}, Shared: busy, Whole: busy, Instead: "team0",
		},
		{
			Name:  "port of Open vSwitch",
			Build: func(h Host) { h.Add("openvswitch", "dp0", ""); h.Join("nica", "dp0") },
			Uses:  []string{"master: it is a port of Open vSwitch"}, Shared: busy, Whole: busy,
		},
		{
			Name:  "port of a VRF",
			Build: func(h Host) { h.Add("vrf", "vrf0", "", "table", "10"); h.Join("nica", "vrf0") },
			Uses:  []string{"master: it is a port of vrf vrf0"},
		},
		{
			Name: "a VRF itself", Device: "vrf0",
			Build:  func(h Host) { h.Add("vrf", "vrf0", "", "table", "10") },
			Shared: unix.EINVAL, Whole: unix.EINVAL,
		},
		{
			Name:  "an ipvlan",
			Build: func(h Host) { h.Add("ipvlan", "ipv0", "nica", "mode", "l2") },
			Uses:  []string{"upper: ipv0 stands on it"}, Shared: busy, Whole: busy,
		},
		{
			Name:  "an ipvtap",
			Build: func(h Host) { h.Add("ipvtap", "ipt0", "nica", "mode", "l2") },
			Uses:  []string{"upper: ipt0 stands on it"}, Shared: busy, Whole: busy,
		},
		{
			Name: "an ipvlan in a container, and up",
			Build: func(h Host) {
				c := h.Container()
				h.AddIn(c, "ipvlan", "ipv0", "nica", "mode", "l2")
				h.UpIn(c, "ipv0")
			},
			Uses: []string{"elsewhere: ipvlan ipv0 stands on it in the network namespace of process …"}, Shared: busy, Whole: busy,
		},
		{
			Name: "an ipvlan itself", Device: "ipv0",
			Build:  func(h Host) { h.Add("ipvlan", "ipv0", "nica", "mode", "l2") },
			Shared: unix.EINVAL, Whole: unix.EINVAL,
		},
		{
			Name:  "a MACsec device",
			Build: func(h Host) { h.Add("macsec", "ms0", "nica") },
			Uses:  []string{"upper: ms0 stands on it"}, Shared: busy, Whole: busy, Instead: "ms0",
		},
		{
			Name:  "port of a bond that is a port of a bridge",
			Build: func(h Host) { h.Add("bridge", "br0", ""); bond(h); h.Join("bond0", "br0") },
			Uses:  []string{"master: it is a port of bond bond0"}, Shared: busy, Whole: busy, Instead: "br0",
		},
		{
			Name:  "port of a bond that is a port of Open vSwitch",
			Build: func(h Host) { h.Add("openvswitch", "dp0", ""); bond(h); h.Join("bond0", "dp0") },
			Uses:  []string{"master: it is a port of bond bond0"}, Shared: busy, Whole: busy,
		},
		{
			Name:  "port of a bond that is a port of a VRF",
			Build: func(h Host) { h.Add("vrf", "vrf0", "", "table", "10"); bond(h); h.Join("bond0", "vrf0") },
			Uses:  []string{"master: it is a port of bond bond0"}, Shared: busy, Whole: busy, Instead: "bond0",
		},
		{
			Name: "a VLAN of a bond's port itself", Device: "nica.5",
			Build:   func(h Host) { bond(h); h.Add("vlan", "nica.5", "nica", "id", "5") },
			Instead: "bond0",
		},
		{
			Name: "a VLAN that was there before the bond", Device: "nica.5",
			Build:   func(h Host) { h.Add("vlan", "nica.5", "nica", "id", "5"); bond(h) },
			Instead: "bond0",
		},
		{
			Name: "a VLAN of a bond itself", Device: "bond0.5",
			Build: func(h Host) { bond(h); h.Add("vlan", "bond0.5", "bond0", "id", "5") },
		},
		{
			Name: "a VLAN of a bridge's port itself", Device: "nica.5",
			Build: func(h Host) {
				h.Add("bridge", "br0", "")
				h.Join("nica", "br0")
				h.Add("vlan", "nica.5", "nica", "id", "5")
			},
		},
		{
			Name:  "port of a bond of each mode: 802.3ad",
			Build: func(h Host) { h.Add("bond", "bond0", "", "mode", "802.3ad"); h.Join("nica", "bond0") },
			Uses:  []string{"master: it is a port of bond bond0"}, Shared: busy, Whole: busy, Instead: "bond0",
		},
		{
			Name:  "a VXLAN tunnel",
			Build: func(h Host) { h.Add("vxlan", "vx0", "", "id", "5", "dev", "nica", "dstport", "4789") },
			Uses:  []string{"upper: vx0 stands on it"},
		},
	}
}
