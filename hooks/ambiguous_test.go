package hooks

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
)

// Two cards have the permanent address by which an uplink finds its device, as a synthetic
// NIC and the virtual function behind it have.
func TestAmbiguousUplink(t *testing.T) {
	const card = "3c:fd:fe:00:11:22"
	ambiguous := func(t *testing.T, limits string) *world {
		w := newWorld(t, "[uplink.lan]\nmac = \""+card+"\"\n"+limits, "nica", "nicb", "nicc")
		for _, name := range []string{"nica", "nicb"} {
			l, err := w.kernel.ByName(t.Context(), name)
			require.NoError(t, err)
			w.kernel.Links[l.Index].PermMAC = card
		}
		return w
	}
	const limited, enforced = "vlans = [\"100\"]\n", "vlans = [\"100\"]\nenforce = true\n"
	ld := func(attrs string) string { return "<ld:nic mac='" + mac1 + "' " + attrs + "/>" }
	for name, c := range map[string]struct {
		limits, doc string
		want        error // nil: it starts
	}{
		"by the uplink":              {"", domain(uuidA, ld("uplink='lan'"), direct(mac1, "nica", "bridge")), plan.ErrNoDevice},
		"hook-owned":                 {"", domain(uuidA, ld("own='hook' uplink='lan'"), owned(mac1, "ldt1")), plan.ErrNoDevice},
		"by the uplink's name":       {"", domain(uuidA, "", direct(mac1, "lan", "bridge")), plan.ErrNoDevice},
		"another device":             {enforced, domain(uuidA, ld("allmulticast='yes'"), direct(mac1, "nicc", "bridge")), nil},
		"one of them, no limits":     {"", domain(uuidA, ld("allmulticast='yes'"), direct(mac1, "nicb", "bridge")), nil},
		"one of them, limits":        {limited, domain(uuidA, ld("allmulticast='yes'"), direct(mac1, "nicb", "bridge")), plan.ErrNoDevice},
		"a VLAN of one of them":      {limited, domain(uuidA, ld("vlan='100'"), direct(mac1, "nica.100", "bridge")), plan.ErrNoDevice},
		"plain, limits":              {limited, domain(uuidA, "", direct(mac1, "nica", "bridge")), nil},
		"plain, enforced":            {enforced, domain(uuidA, "", direct(mac1, "nica", "bridge")), plan.ErrNotAllowed},
		"plain, enforced, other":     {enforced, domain(uuidA, "", direct(mac1, "nicb", "bridge")), plan.ErrNotAllowed},
		"plain, enforced, elsewhere": {enforced, domain(uuidA, "", direct(mac1, "nicc", "bridge")), nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := ambiguous(t, c.limits)
			before := w.dump()
			_, err := w.run(step.Prepare, c.doc)
			if c.want == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, c.want)
			if c.want == plan.ErrNoDevice {
				require.ErrorIs(t, err, link.ErrAmbiguous)
				require.Contains(t, err.Error(), "nica, nicb")
				require.Contains(t, err.Error(), "[uplink.lan]")
			}
			require.NotContains(t, err.Error(), "\n")
			require.Equal(t, before, w.dump())
		})
	}
}

// A section that is faulty besides holds for each device that it could mean.
func TestAmbiguousFaultyUplink(t *testing.T) {
	w := newWorld(t, "[uplink.lan]\nmac = \"3c:fd:fe:00:11:22\"\nvlan = [\"100\"]\n", "nica", "nicb", "nicc")
	for _, name := range []string{"nica", "nicb"} {
		l, err := w.kernel.ByName(t.Context(), name)
		require.NoError(t, err)
		w.kernel.Links[l.Index].PermMAC = "3c:fd:fe:00:11:22"
	}
	for _, name := range []string{"nica", "nicb"} {
		_, err := w.run(step.Prepare, domain(uuidA, "<ld:nic mac='"+mac1+"' allmulticast='yes'/>", direct(mac1, name, "bridge")))
		require.ErrorContains(t, err, "uplink.lan.vlan", name)
	}
	w.must(step.Prepare, domain(uuidA, "<ld:nic mac='"+mac1+"' allmulticast='yes'/>", direct(mac1, "nicc", "bridge")))
}

// Two uplinks are one device, each found in its own way. Both limit who is on it, whichever is
// named or comes first.
func TestTwoUplinksAreOneDevice(t *testing.T) {
	ld := func(attrs string) string { return "<ld:nic mac='" + mac1 + "' " + attrs + "/>" }
	for _, order := range []string{"[uplink.a]\ndevice = \"%[1]s\"\n[uplink.b]\nmac = \"%[2]s\"\nvlans = [\"100\"]\n", "[uplink.b]\ndevice = \"%[1]s\"\n[uplink.a]\nmac = \"%[2]s\"\nvlans = [\"100\"]\n"} {
		for name, c := range map[string]struct {
			device, doc string
			allowed     bool
		}{
			"by device":           {"nica", domain(uuidA, ld("vlan='200'"), direct(mac1, "nica.200", "bridge")), false},
			"by device, allowed":  {"nica", domain(uuidA, ld("vlan='100'"), direct(mac1, "nica.100", "bridge")), true},
			"by the limited":      {"nica", domain(uuidA, ld("own='hook' uplink='b' mode='bridge' vlan='200'"), owned(mac1, "ldt1")), false},
			"by the other":        {"nica", domain(uuidA, ld("own='hook' uplink='a' mode='bridge' vlan='200'"), owned(mac1, "ldt1")), false},
			"by one, allowed":     {"nica", domain(uuidA, ld("own='hook' uplink='a' mode='bridge' vlan='100'"), owned(mac1, "ldt1")), true},
			"plain":               {"nica", domain(uuidA, "", direct(mac1, "nica.200", "bridge")), false},
			"bridge":              {"br0", domain(uuidA, ld("vlan='200'"), bridged(mac1, "br0", "vnet0")), false},
			"Open vSwitch":        {"ovsbr0", domain(uuidA, ld("isolated='yes'"), onSwitch(mac1, "<vlan><tag id='200'/></vlan>")), false},
			"Open vSwitch, trunk": {"ovsbr0", domain(uuidA, ld("isolated='yes'"), onSwitch(mac1)), false},
		} {
			t.Run(name, func(t *testing.T) {
				const card = "3c:fd:fe:00:11:22"
				w := newWorld(t, fmt.Sprintf(order, c.device, card), "nica", "nicb", "ovsbr0")
				withBridges(w.kernel)
				w.withSwitch("ovsbr0")
				l, err := w.kernel.ByName(t.Context(), c.device)
				require.NoError(t, err)
				w.kernel.Links[l.Index].PermMAC = card
				_, err = w.run(step.Prepare, c.doc)
				if err == nil && strings.Contains(name, "ridge") {
					_, err = w.run(step.Start, c.doc)
				}
				if c.allowed {
					require.NoError(t, err)
					return
				}
				require.ErrorIs(t, err, plan.ErrNotAllowed)
			})
		}
	}
}
