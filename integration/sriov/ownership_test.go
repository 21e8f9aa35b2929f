//go:build integration

package sriov

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/internal/link"
)

// The guests of these tests are plain: neither metadata nor configuration mentions their
// NICs. The hook may keep them from taking each other's virtual functions, and must not leave
// a virtual function in a worse state than libvirt alone does.

// A vfState is a virtual function as the kernel shows it.
type vfState struct {
	MAC              string // as the PF shows it: given by the PF, or chosen by the VF
	VLAN, QoS        int
	SpoofChk, Trust  bool
	MinRate, MaxRate int
	LinkState        string
	Driver, Netdev   string
	Own              string // the network device's MAC
	Up               bool
	Macvtap          string // the MAC of the guest that stands on it
}

// A card reads the virtual functions of eth0.
type card struct {
	*link.Conn
	pf link.Link
}

func openCard(t *testing.T) card {
	t.Helper()
	c, err := link.Open()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	pf, err := c.ByName(t.Context(), "eth0")
	require.NoError(t, err)
	return card{c, pf}
}

func (c card) read(ctx context.Context, vf int) (vfState, error) {
	seen, err := c.VF(ctx, c.pf, vf)
	if err != nil {
		return vfState{}, err
	}
	s := vfState{
		MAC: *seen.MAC, VLAN: seen.VLAN.ID, QoS: seen.VLAN.QoS, SpoofChk: *seen.SpoofChk, Trust: *seen.Trust,
		MinRate: *seen.MinRate, MaxRate: *seen.MaxRate, LinkState: *seen.LinkState,
	}
	uses, err := c.VFUses(ctx, c.pf.Name)
	if err != nil {
		return s, err
	}
	i := slices.IndexFunc(uses, func(u link.VFUse) bool { return u.Number == vf })
	s.Driver, s.Netdev = uses[i].Driver, uses[i].Netdev
	dev, err := c.ByName(ctx, s.Netdev)
	if err != nil {
		return s, err
	}
	s.Own, s.Up = dev.MAC, dev.Up
	if s.MAC == "00:00:00:00:00:00" { // given none; the driver tells the PF its own, seconds after it is up
		s.MAC = s.Own
	}
	uppers, err := c.Uppers(ctx, s.Netdev)
	if err != nil || len(uppers) == 0 {
		return s, err
	}
	macvtap, err := c.ByName(ctx, uppers[0])
	if errors.Is(err, link.ErrNotFound) { // gone since
		return s, nil
	}
	s.Macvtap = macvtap.MAC
	return s, err
}

// look is the state of a VF now.
func (c card) look(t *testing.T, vf int) vfState {
	t.Helper()
	s, err := c.read(t.Context(), vf)
	require.NoError(t, err)
	return s
}

// has waits until a VF is with the guest of that MAC.
func (c card) has(t *testing.T, vf int, mac string) vfState {
	t.Helper()
	var s vfState
	require.Eventually(t, func() bool {
		var err error
		s, err = c.read(t.Context(), vf)
		return err == nil && s.MAC == mac && s.Own == mac && s.Macvtap == mac && s.Up
	}, time.Minute, 100*time.Millisecond)
	return s
}

// during returns the states in which a VF is seen while something is done, and after.
func (c card) during(t *testing.T, vf int, do func()) []vfState {
	t.Helper()
	states := []vfState{c.look(t, vf)}
	over, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		every := time.NewTicker(20 * time.Millisecond)
		defer every.Stop()
		var err error
		for last := false; err == nil && !last; {
			select {
			case <-every.C:
			case <-over:
				last = true
			}
			var s vfState
			if s, err = c.read(context.Background(), vf); err == nil && s != states[len(states)-1] {
				states = append(states, s)
			}
		}
		stopped <- err
	}()
	do()
	close(over)
	require.NoError(t, <-stopped)
	return states
}

// asLibvirtLeaves is how libvirt 9.0 leaves a VF whose device was down: up, as the guest had
// it.
func asLibvirtLeaves(before vfState) vfState {
	before.Up = true
	return before
}

// requireNoWorse requires each attribute of a VF to be as it was, or as libvirt alone leaves
// it.
func requireNoWorse(t *testing.T, before, alone, now vfState) {
	t.Helper()
	b, a, n := reflect.ValueOf(before), reflect.ValueOf(alone), reflect.ValueOf(now)
	for i := range n.NumField() {
		if is := n.Field(i).Interface(); is != b.Field(i).Interface() && is != a.Field(i).Interface() {
			t.Errorf("%s is %v; it was %v, and libvirt alone leaves %v", n.Type().Field(i).Name, is, b.Field(i), a.Field(i))
		}
	}
}

// requireNothingHeld requires that neither the hook's journals nor the values that libvirt
// saves of a VF are left.
func requireNothingHeld(t *testing.T) {
	t.Helper()
	require.Empty(t, sh(t, "ls /run/libvirt-direct/domains 2>/dev/null; ls /run/libvirt/qemu | grep eth0; true"))
}

// withoutHook shows libvirt alone, with a hook that does nothing: the tests share one
// libvirtd, which only looks for a hook when it starts.
func withoutHook(t *testing.T) {
	t.Helper()
	require.NoError(t, os.MkdirAll("/etc/libvirt/hooks", 0o755))
	require.NoError(t, os.WriteFile("/etc/libvirt/hooks/qemu", []byte("#!/bin/sh\nexit 0\n"), 0o755))
	t.Cleanup(func() { os.Remove("/etc/libvirt/hooks/qemu") })
}

// recordHook returns a file to which a line is added after each run of the hook. A shell
// expands the line and has the hook's arguments.
func recordHook(t *testing.T, line string) (file string) {
	t.Helper()
	const dir = "/etc/libvirt/hooks/qemu.d"
	file = filepath.Join(t.TempDir(), "operations")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(dir+"/record", fmt.Appendf(nil, "#!/bin/sh\necho %s >>%s\n", line, file), 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	return file
}

// plain is a domain with a macvtap on a VF and a VLAN, both in libvirt's own XML alone.
func plain(name, mac, netdev, vlan string) host.Domain {
	return tiny(name, host.DirectNIC(mac, netdev, "passthrough", "<vlan><tag id='"+vlan+"'/></vlan>"), "")
}

// libvirt 9.0 saves a VF's values and sets the second guest's before the kernel tells it that
// the VF is in use. A start that fails earlier, as one that a hook refuses, is worse: libvirt
// puts back what it has saved for the first guest, which runs.
func TestPlainGuestsNameOneVF(t *testing.T) {
	withoutHook(t)
	d := libvirtd(t)
	vfs(t, "eth0", 2)
	for vf, name := range []string{"libvirt alone", "with the hook"} {
		t.Run(name, func(t *testing.T) {
			if vf == 1 {
				installHook(t, "qemu", "")
			}
			c := openCard(t)
			_, netdev := device(t, "eth0", vf)
			first, second := d.define(t, plain("first", macP, netdev, "42")), d.define(t, plain("second", macX, netdev, "43"))
			before := c.look(t, vf)
			d.start(t, first)
			running := c.has(t, vf, macP)
			require.Equal(t, 42, running.VLAN)
			var operations string
			if vf == 0 {
				operations = recordHook(t, "$1 $2: $(ip link show eth0 | grep 'vf 0 ')")
			}
			var err error
			states := c.during(t, vf, func() { err = d.DomainCreate(second) })
			d.destroy(t, first)
			after := c.look(t, vf)
			for _, s := range append(states, after) {
				t.Logf("%+v", s)
			}
			if vf == 0 {
				require.ErrorContains(t, err, "error creating macvtap interface")
				text, err := os.ReadFile(operations)
				require.NoError(t, err)
				require.Regexp(t, "second stopped: .* vlan 43,", string(text), "the first guest has the second one's VLAN for a while")
				require.Equal(t, running, states[len(states)-1])
				running.Macvtap = ""
				require.Equal(t, running, after, "the first guest's VLAN and MAC stay after its end")
				return
			}
			require.ErrorContains(t, err, "in use by another guest")
			for _, s := range states {
				require.Equal(t, running, s, "the first guest keeps what it has")
			}
			requireNoWorse(t, before, asLibvirtLeaves(before), after)
			requireNothingHeld(t)
		})
	}
}

// No hook runs when a NIC is unplugged. What the hook knows of that guest is then out of
// date, and another guest may have the VF when the first one ends.
func TestPlainGuestUnplugged(t *testing.T) {
	installHook(t, "qemu", "")
	d := libvirtd(t)
	vfs(t, "eth0", 1)
	c := openCard(t)
	_, netdev := device(t, "eth0", 0)
	resets := plain("first", macP, netdev, "42")
	resets.OnReboot = "restart"
	first, second := d.define(t, resets), d.define(t, plain("second", macX, netdev, "43"))
	before := c.look(t, 0)
	d.start(t, first)
	require.NoError(t, d.DomainDetachDeviceAlias(first, "net0", uint32(libvirt.DomainAffectLive)))
	// The firmware does not answer the request, but a reset completes it. Sometimes QEMU
	// reports that only at the next reset.
	require.Eventually(t, func() bool {
		if d.DomainReset(first, 0) != nil {
			return false
		}
		s, err := c.read(t.Context(), 0)
		return err == nil && s.Own == before.Own && s.VLAN == before.VLAN
	}, time.Minute, time.Second)
	d.start(t, second)
	running := c.has(t, 0, macX)
	require.Equal(t, 43, running.VLAN)
	for _, s := range c.during(t, 0, func() { d.destroy(t, first) }) {
		require.Equal(t, running, s, "the second guest keeps what it has")
	}
	d.destroy(t, second)
	requireNoWorse(t, before, asLibvirtLeaves(before), c.look(t, 0))
	requireNothingHeld(t)
}

// The hook is installed while a guest runs, and sees it first when libvirtd starts again.
// What the VF has then is the guest's, and nothing to put back.
func TestPlainGuestOlderThanTheHook(t *testing.T) {
	installHook(t, "qemu", "")
	d := libvirtd(t)
	sh(t, "mv /etc/libvirt/hooks/qemu /run/qemu-hook")
	vfs(t, "eth0", 1)
	c := openCard(t)
	_, netdev := device(t, "eth0", 0)
	older := d.define(t, plain("older", macP, netdev, "42"))
	before := c.look(t, 0)
	d.start(t, older)
	running := c.has(t, 0, macP)
	require.Equal(t, 42, running.VLAN)
	sh(t, "mv /run/qemu-hook /etc/libvirt/hooks/qemu")
	operations := recordHook(t, "$2")
	d.restart(t)
	require.Eventually(t, func() bool {
		text, _ := os.ReadFile(operations)
		return string(text) == "reconnect\n"
	}, time.Minute, 20*time.Millisecond)
	require.Equal(t, running, c.look(t, 0))
	d.destroy(t, older)
	requireNoWorse(t, before, asLibvirtLeaves(before), c.look(t, 0))
	requireNothingHeld(t)
}

// An administrator has given the VF a MAC, which its driver has taken, and a VLAN with a
// priority. libvirt 9.0 has to bind the driver again to give it another MAC, leaves its device
// down after that, and forgets the priority.
func TestPlainGuestOnAnAdministratorsVF(t *testing.T) {
	withoutHook(t)
	d := libvirtd(t)
	vfs(t, "eth0", 2)
	for vf, name := range []string{"libvirt alone", "with the hook"} {
		t.Run(name, func(t *testing.T) {
			if vf == 1 {
				installHook(t, "qemu", "")
			}
			c := openCard(t)
			address, netdev := device(t, "eth0", vf)
			sh(t, `ip link set eth0 vf %[1]d mac 02:aa:00:00:00:01 && ip link set eth0 vf %[1]d vlan 7 qos 5 && ip link set eth0 vf %[1]d spoofchk off &&
				cd /sys/bus/pci/drivers/igbvf && echo %[2]s >unbind && echo %[2]s >bind && ip link set %[3]s up`, vf, address, netdev)
			before := c.look(t, vf)
			require.Equal(t, 5, before.QoS)
			require.Equal(t, before.MAC, before.Own)
			guest := d.define(t, plain("guest", macP, netdev, "42"))
			d.start(t, guest)
			require.Equal(t, 42, c.has(t, vf, macP).VLAN)
			d.destroy(t, guest)
			after := c.look(t, vf)
			t.Logf("%+v", after)
			alone := before
			alone.QoS, alone.Up = 0, false
			if vf == 0 {
				require.Equal(t, alone, after)
				return
			}
			requireNoWorse(t, before, alone, after)
			requireNothingHeld(t)
		})
	}
}
