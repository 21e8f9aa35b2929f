package hooktest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/ovs"
)

// SwitchContract are the rows of Open vSwitch.
func SwitchContract() Contract[SwitchHost] {
	const mine, other = "11111111-2222-4333-8444-555555555555", "66666666-2222-4333-8444-555555555555"
	row := func(method, name string, do func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch)) Row[SwitchHost] {
		return Row[SwitchHost]{method, name, func(t *testing.T, h SwitchHost) {
			s := h.Switch()
			defer s.Close()
			do(t, t.Context(), h, s)
		}}
	}
	shown := func(t *testing.T, h SwitchHost, name string) ovs.Port {
		t.Helper()
		p, ok := h.Shown(name)
		require.True(t, ok, name)
		return p
	}
	absent := func(t *testing.T, h SwitchHost, name string) {
		t.Helper()
		_, ok := h.Shown(name)
		require.False(t, ok, name)
	}
	seven := 7
	full := ovs.Port{
		Name: "t0", Bridge: "br0", Owner: mine, IDs: map[string]string{"iface-id": "a b\"c", "attached-mac": macA},
		VLAN: &ovs.VLAN{Mode: "native-untagged", Tag: &seven, Trunks: []int{7, 8, 9}}, MTU: 1400, Protected: true,
		IngressRate: 10000, IngressBurst: 800, QoS: &ovs.QoS{Type: "linux-noop", MaxRate: 5_000_000}, Mirror: "sink",
	}
	return Contract[SwitchHost]{
		row("Attach", "makes the port, once or twice", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			h.Tap("t0")
			h.Tap("sink")
			require.NoError(t, s.Attach(ctx, ovs.Port{Name: "sink", Bridge: "br0", Owner: other}))
			for range 2 {
				require.NoError(t, s.Attach(ctx, full))
				require.Equal(t, full, shown(t, h, "t0"))
			}
			// With less, the rest goes, but for what the switch has no empty value for.
			less := ovs.Port{Name: "t0", Bridge: "br0", Owner: mine, IDs: map[string]string{"iface-id": "x"}}
			require.NoError(t, s.Attach(ctx, less))
			less.MTU, less.IngressRate, less.IngressBurst = full.MTU, full.IngressRate, full.IngressBurst
			require.Equal(t, less, shown(t, h, "t0"))
		}),
		row("Bridges", "lists the ports of each bridge with their VLANs", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			h.Tap("t0")
			require.NoError(t, s.Attach(ctx, ovs.Port{Name: "t0", Bridge: "br0", Owner: mine, VLAN: &ovs.VLAN{Tag: &seven}}))
			bridges, err := s.Bridges(ctx)
			require.NoError(t, err)
			require.Equal(t, []ovs.Bridge{{Name: "br0", Devices: []ovs.Device{{Name: "br0"}, {Name: "t0", Tag: 7}}}}, bridges)
			_, err = h.Away().Bridges(ctx)
			require.ErrorIs(t, err, ovs.ErrUnreachable)
		}),
		row("Attach", "leaves somebody else's port alone", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			h.Tap("t0")
			h.Tap("t1")
			h.Port("t0", 5, nil)
			require.NoError(t, s.Attach(ctx, ovs.Port{Name: "t1", Bridge: "br0", Owner: other}))
			for _, name := range []string{"t0", "t1"} {
				was := shown(t, h, name)
				for _, bridge := range []string{"br0", "nobridge"} {
					require.ErrorIs(t, s.Attach(ctx, ovs.Port{Name: name, Bridge: bridge, Owner: mine}), ovs.ErrTaken)
				}
				require.Equal(t, was, shown(t, h, name))
			}
		}),
		row("Attach", "to no bridge, with no VLAN and to no mirror", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			h.Tap("t0")
			for _, c := range []struct {
				p    ovs.Port
				want error
			}{
				{ovs.Port{Bridge: "nobridge"}, ovs.ErrNoBridge}, {ovs.Port{Bridge: "br0", Mirror: "nowhere"}, ovs.ErrNoPort},
				{ovs.Port{Bridge: "br0", VLAN: &ovs.VLAN{Trunks: []int{5000}}}, ovs.ErrRefused},
			} {
				c.p.Name, c.p.Owner = "t0", mine
				require.ErrorIs(t, s.Attach(ctx, c.p), c.want)
				absent(t, h, "t0")
			}
		}),
		row("Attach", "of no device leaves a port, which can be detached", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			require.ErrorIs(t, s.Attach(ctx, ovs.Port{Name: "t0", Bridge: "br0", Owner: mine}), ovs.ErrInterface)
			require.Equal(t, mine, shown(t, h, "t0").Owner)
			was, err := s.Detach(ctx, "t0", mine)
			require.NoError(t, err)
			require.True(t, was)
		}),
		row("Amend", "sets what is said and leaves the rest", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			h.Tap("t0")
			h.Port("t0", 5, map[string]string{"iface-id": "x", "vm-id": "y"})
			five := 5
			want := ovs.Port{Name: "t0", Bridge: "br0", Owner: mine, IDs: map[string]string{"iface-id": "lsp", "vm-id": "y"},
				VLAN: &ovs.VLAN{Tag: &five}, IngressRate: 100, QoS: &ovs.QoS{Type: "linux-noop"}}
			p := ovs.Port{Name: "t0", Owner: mine, IDs: map[string]string{"iface-id": "lsp"}, IngressRate: 100, QoS: &ovs.QoS{Type: "linux-noop"}}
			require.NoError(t, s.Amend(ctx, p))
			require.Equal(t, want, shown(t, h, "t0"))
			p.IDs, p.IngressRate, p.QoS = nil, 0, nil
			p.VLAN, p.Protected, p.MTU = &ovs.VLAN{Mode: "dot1q-tunnel", Tag: &seven}, true, 1400
			require.NoError(t, s.Amend(ctx, p))
			want.VLAN, want.Protected, want.MTU, want.QoS = p.VLAN, true, 1400, nil
			require.Equal(t, want, shown(t, h, "t0"))
			p.VLAN, p.Protected, p.Owner = nil, false, other
			require.NoError(t, s.Amend(ctx, p))
			want.Owner = other
			require.Equal(t, want, shown(t, h, "t0"))
		}),
		row("Amend", "of no port, and to no mirror", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			require.ErrorIs(t, s.Amend(ctx, ovs.Port{Name: "t0", Owner: mine}), ovs.ErrNoPort)
			h.Tap("t0")
			h.Port("t0", 5, nil)
			was := shown(t, h, "t0")
			require.ErrorIs(t, s.Amend(ctx, ovs.Port{Name: "t0", Owner: mine, Mirror: "nowhere"}), ovs.ErrNoPort)
			require.Equal(t, was, shown(t, h, "t0"))
		}),
		row("Installed", "waits for OVN, and for another logical port anew", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			not := func(what string) {
				t.Helper()
				brief, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				defer cancel()
				require.ErrorIs(t, s.Installed(brief, "t0"), ovs.ErrNotInstalled, what)
			}
			not("no port")
			h.Tap("t0")
			p := ovs.Port{Name: "t0", Bridge: "br0", Owner: mine, IDs: map[string]string{"iface-id": "x"}}
			require.NoError(t, s.Attach(ctx, p))
			not("not bound")
			h.Bind("t0")
			require.NoError(t, s.Installed(ctx, "t0"))
			require.NoError(t, s.Amend(ctx, p))
			require.NoError(t, s.Installed(ctx, "t0"), "the same logical port")
			p.IDs = map[string]string{"iface-id": "y"}
			require.NoError(t, s.Amend(ctx, p))
			not("another logical port")
		}),
		row("Detach", "removes the owner's port and what belongs to it", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			h.Tap("t0")
			h.Tap("sink")
			require.NoError(t, s.Attach(ctx, ovs.Port{Name: "sink", Bridge: "br0", Owner: other}))
			require.NoError(t, s.Attach(ctx, full))
			for _, c := range []struct {
				name, owner string
				was         bool
			}{{"t0", other, false}, {"t0", "", false}, {"t0", mine, true}, {"t0", mine, false}, {"nothing", mine, false}, {"nothing", "", false}} {
				was, err := s.Detach(ctx, c.name, c.owner)
				require.NoError(t, err)
				require.Equal(t, c.was, was, c)
				if c.name == "t0" && c.owner != mine {
					require.Equal(t, full, shown(t, h, "t0"))
				}
			}
			absent(t, h, "t0")
			require.Equal(t, other, shown(t, h, "sink").Owner)
		}),
		row("List", "has the ports with an owner", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			owned, err := s.List(ctx)
			require.NoError(t, err)
			require.Empty(t, owned)
			for _, name := range []string{"t0", "t1", "t2"} {
				h.Tap(name)
			}
			h.Port("t0", 5, nil)
			require.NoError(t, s.Attach(ctx, ovs.Port{Name: "t1", Bridge: "br0", Owner: mine}))
			require.NoError(t, s.Attach(ctx, ovs.Port{Name: "t2", Bridge: "br0", Owner: other}))
			owned, err = s.List(ctx)
			require.NoError(t, err)
			require.ElementsMatch(t, []ovs.Owned{{Name: "t1", Owner: mine}, {Name: "t2", Owner: other}}, owned)
		}),
		row("Close", "can be gone on after", func(t *testing.T, ctx context.Context, h SwitchHost, s step.Switch) {
			h.Tap("t0")
			s.Close()
			require.NoError(t, s.Attach(ctx, ovs.Port{Name: "t0", Bridge: "br0", Owner: mine}))
			s.Close()
			s.Close()
			owned, err := s.List(ctx)
			require.NoError(t, err)
			require.Len(t, owned, 1)
		}),
		row("List", "and the others of a switch that does not run", func(t *testing.T, ctx context.Context, h SwitchHost, _ step.Switch) {
			s := h.Away()
			defer s.Close()
			_, listed := s.List(ctx)
			_, detached := s.Detach(ctx, "t0", mine)
			for what, err := range map[string]error{
				"List": listed, "Detach": detached, "Attach": s.Attach(ctx, full), "Amend": s.Amend(ctx, full), "Installed": s.Installed(ctx, "t0"),
			} {
				require.ErrorIs(t, err, ovs.ErrUnreachable, what)
			}
		}),
	}
}
