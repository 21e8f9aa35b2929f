package hooks

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// onCard puts a bridge br0 on a card with virtual functions, by way of what is between.
func onCard(w *world, between string) (pf *link.Link) {
	withBridges(w.kernel)
	pf = w.kernel.Add(link.Link{Name: "ens1f0", MAC: "02:00:00:00:00:f0", Up: true, MTU: 1500})
	w.kernel.AddVFs("ens1f0", 2)
	switch between {
	case "":
		w.kernel.Join("ens1f0", "br0")
	case "VLAN":
		w.kernel.Add(link.Link{Name: "ens1f0.5", Kind: "vlan", VLANID: 5, Parent: pf.Index}).Master = 100
	case "bond":
		bond := w.kernel.Add(link.Link{Name: "bond0", Kind: "bond"})
		pf.Master, bond.Master = bond.Index, 100
	}
	return pf
}

func TestCardsBelowTheBridgeKnowTheGuest(t *testing.T) {
	doc := domain(uuidA, vfWords(mac1, "fdb='pf'"), bridged(mac1, "br0", "vnet0"))
	for _, between := range []string{"", "VLAN", "bond"} {
		w := newWorld(t, "")
		pf := onCard(w, between)
		before := w.dump()
		w.must(step.Prepare, doc)
		require.Empty(t, w.kernel.SelfMACs[pf.Index], "until the guest runs")
		w.must(step.Start, doc)
		require.Equal(t, []string{mac1}, w.kernel.SelfMACs[pf.Index], between)
		w.kernel.SelfMACs[pf.Index] = nil // the driver was loaded anew
		w.must(step.Reconnect, doc)
		require.Equal(t, []string{mac1}, w.kernel.SelfMACs[pf.Index], between)
		w.must(step.Stopped, doc)
		w.must(step.Release, doc)
		require.Equal(t, before, w.dump())
	}
}

// An entry that was there stays, and one that guests share goes with the last of them.
func TestForwardingEntriesHaveOwners(t *testing.T) {
	w := newWorld(t, "")
	pf := onCard(w, "")
	a, b := domain(uuidA, vfWords(mac1, "fdb='pf'"), bridged(mac1, "br0", "vnet0")), domain(uuidB, vfWords(mac1, "fdb='pf'"), bridged(mac1, "br0", "vnet0"))
	for _, doc := range []string{a, b} {
		w.must(step.Prepare, doc)
		w.must(step.Start, doc)
	}
	w.must(step.Stopped, a)
	require.Equal(t, []string{mac1}, w.kernel.SelfMACs[pf.Index], "it is the other guest's, too")
	w.must(step.Stopped, b)
	require.Empty(t, w.kernel.SelfMACs[pf.Index])

	w.kernel.SelfMACs[pf.Index] = []string{mac1} // somebody's
	w.must(step.Prepare, a)
	w.must(step.Start, a)
	w.must(step.Reconnect, a)
	w.must(step.Stopped, a)
	require.Equal(t, []string{mac1}, w.kernel.SelfMACs[pf.Index])
}

func TestFullForwardingTable(t *testing.T) {
	w := newWorld(t, "")
	pf := onCard(w, "")
	w.kernel.SelfFull = true
	doc := domain(uuidA, vfWords(mac1, "fdb='pf'"), bridged(mac1, "br0", "vnet0"))
	w.must(step.Prepare, doc)
	_, err := w.run(step.Start, doc)
	require.ErrorIs(t, err, link.ErrTableFull)
	require.ErrorContains(t, err, `domain "vm a", NIC `+mac1+`: ens1f0: `)
	require.ErrorContains(t, err, "leave fdb out")
	w.must(step.Stopped, doc)
	w.must(step.Release, doc)
	require.Empty(t, w.kernel.SelfMACs[pf.Index])
	require.Empty(t, w.journals())
}

// Who says it: the NIC goes before its profile, that before an uplink; a guest without
// settings is left alone, and a NIC that is in no bridge refused.
func TestWhoAsksForForwardingEntries(t *testing.T) {
	const card, bridge = "[uplink.lan]\ndevice='ens1f0'\nfdb='pf'\n", "[uplink.lan]\ndevice='br0'\nfdb='pf'\n"
	for _, c := range []struct {
		config, settings string
		want             bool
	}{
		{"", "isolated='yes'", false},
		{"", "fdb='no'", false},
		{"[profile.p]\nfdb='pf'\n", "profile='p'", true},
		{"[profile.p]\nfdb='pf'\n", "profile='p' fdb='no'", false},
		{card, "isolated='yes'", true},
		{bridge, "isolated='yes'", true},
		{bridge, "uplink='lan'", true},
		{bridge, "fdb='no'", false},
		{bridge, "", false},
	} {
		w := newWorld(t, c.config)
		pf := onCard(w, "")
		settings := ""
		if c.settings != "" {
			settings = vfWords(mac1, c.settings)
		}
		doc := domain(uuidA, settings, bridged(mac1, "br0", "vnet0"))
		w.must(step.Prepare, doc)
		w.must(step.Start, doc)
		require.Equal(t, c.want, len(w.kernel.SelfMACs[pf.Index]) == 1, "%+v", c)
	}
	w := newWorld(t, "", "nica")
	_, err := w.run(step.Prepare, domain(uuidA, vfWords(mac1, "fdb='pf'"), direct(mac1, "nica", "bridge")))
	require.ErrorIs(t, err, step.ErrUnsuitable)
}

func TestCardBelowOpenVSwitch(t *testing.T) {
	w := newWorld(t, "")
	pf := onCard(w, "none")
	w.withSwitch("ovsbr0")
	w.kernel.Add(link.Link{Name: "ovsbr0", Kind: "openvswitch", MTU: 1500})
	w.ovs.Others = []string{"ens1f0"}
	w.ovs.ByName["vnet0"] = ovs.Port{Name: "vnet0", Bridge: "ovsbr0"}
	doc := domain(uuidA, vfWords(mac1, "fdb='pf'"), onSwitch(mac1, "<target dev='vnet0'/>"))
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	require.Equal(t, []string{mac1}, w.kernel.SelfMACs[pf.Index])
	w.must(step.Stopped, doc)
	require.Empty(t, w.kernel.SelfMACs[pf.Index])
}

// While the guest runs its bridge gets another card: the one before is to forget it.
func TestBridgeGetsAnotherCard(t *testing.T) {
	w := newWorld(t, "")
	pf := onCard(w, "")
	doc := domain(uuidA, vfWords(mac1, "fdb='pf'"), bridged(mac1, "br0", "vnet0"))
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	pf2 := w.kernel.Add(link.Link{Name: "ens9f0", MAC: "02:00:00:00:00:f9", Up: true, MTU: 1500})
	w.kernel.AddVFs("ens9f0", 2)
	w.kernel.Links[pf.Index].Master = 0
	w.kernel.Join("ens9f0", "br0")
	w.must(step.Reconnect, doc)
	require.Equal(t, []string{mac1}, w.kernel.SelfMACs[pf2.Index])
	require.Empty(t, w.kernel.SelfMACs[pf.Index], "the old card has it still: its VFs reach nobody by it")
}

// The setting is changeable at reconnect, off as well.
func TestForwardingEntryIsWantedNoMore(t *testing.T) {
	w := newWorld(t, "")
	pf := onCard(w, "")
	on, off := domain(uuidA, vfWords(mac1, "fdb='pf'"), bridged(mac1, "br0", "vnet0")), domain(uuidA, vfWords(mac1, "fdb='no'"), bridged(mac1, "br0", "vnet0"))
	w.must(step.Prepare, on)
	w.must(step.Start, on)
	w.must(step.Reconnect, off)
	if len(w.kernel.SelfMACs[pf.Index]) > 0 {
		t.Error("it is still there")
	}
	w.must(step.Stopped, off)
	require.Empty(t, w.kernel.SelfMACs[pf.Index])
}

// The card has another index by now, and another device has that one.
func TestForwardingEntryOfADriverThatWasLoadedAnew(t *testing.T) {
	w := newWorld(t, "")
	pf := onCard(w, "")
	doc := domain(uuidA, vfWords(mac1, "fdb='pf'"), bridged(mac1, "br0", "vnet0"))
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	old := *pf
	delete(w.kernel.Links, pf.Index)
	delete(w.kernel.SelfMACs, pf.Index)
	fresh := old
	fresh.Index = 777
	w.kernel.Links[777] = &fresh
	// another device gets the old index, with such an entry of somebody's own
	w.kernel.Links[old.Index] = &link.Link{Index: old.Index, Name: "other0", MAC: "02:00:00:00:00:77"}
	w.kernel.SelfMACs[old.Index] = []string{mac1}
	w.must(step.Stopped, doc)
	require.Equal(t, []string{mac1}, w.kernel.SelfMACs[old.Index], "somebody's on another device")
}

// Open vSwitch can be slow: nobody else is to wait for its answer.
func TestSwitchIsAskedWithoutTheClaimsLock(t *testing.T) {
	w := newWorld(t, "")
	onCard(w, "none")
	w.withSwitch("ovsbr0")
	w.kernel.Add(link.Link{Name: "ovsbr0", Kind: "openvswitch", MTU: 1500})
	w.ovs.Others = []string{"ens1f0"}
	w.ovs.ByName["vnet0"] = ovs.Port{Name: "vnet0", Bridge: "ovsbr0"}
	doc := domain(uuidA, vfWords(mac1, "fdb='pf'"), onSwitch(mac1, "<target dev='vnet0'/>"))
	held := []string{}
	w.ovs.Gate = func(p hooktest.Point) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		unlock, err := w.hook.Journal.Lock(ctx, "claims")
		if err != nil {
			held = append(held, p.Op)
			return nil
		}
		unlock()
		return nil
	}
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	require.Empty(t, held)
}

// What one uplink wants makes nobody else depend on Open vSwitch.
func TestGuestsThatNeedNoForwardingEntryWhileOVSIsDown(t *testing.T) {
	for _, c := range []string{"", "[uplink.lan]\ndevice='br0'\nfdb='pf'\n"} {
		w := newWorld(t, c, "nica")
		withBridges(w.kernel)
		w.withSwitch("ovsbr0")
		w.kernel.Add(link.Link{Name: "ovsbr0", Kind: "openvswitch", MTU: 1500})
		w.ovs.ByName["vnet0"] = ovs.Port{Name: "vnet0", Bridge: "ovsbr0"}
		doc := domain(uuidA, vfWords(mac1, "isolated='yes'")+vfWords(mac2, "own='hook' dev='nica' mode='bridge'"),
			onSwitch(mac1, "<target dev='vnet0'/>")+owned(mac2, "ldt2"))
		w.must(step.Prepare, doc)
		w.must(step.Start, doc)
		l, _ := w.kernel.ByName(t.Context(), "ldt2")
		w.kernel.Links[l.Index].Up = false // somebody has taken it down
		w.ovs.Gate = func(hooktest.Point) error { return ovs.ErrUnreachable }
		_, err := w.run(step.Migrate, doc)
		if err != nil {
			t.Errorf("config %q: migrate: %v", c, err)
		}
		w.must(step.Reconnect, doc)
		if l, _ = w.kernel.ByName(t.Context(), "ldt2"); !l.Up {
			t.Errorf("config %q: ldt2 was not taken up again: %s", c, w.log.String())
		}
	}
}
