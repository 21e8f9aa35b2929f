package hooks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// Who is who: a device changes hands behind the hook's back, or looks as if it had.

const vlan42 = "<vlan><tag id='42'/></vlan>"

// starts lets libvirt start a domain that has a VF.
func (w *world) starts(doc string, vf, index int, mac string, vlan int) {
	w.t.Helper()
	w.must(step.Prepare, doc)
	w.vfRuns(vf, index, mac, vlan)
	w.must(step.Start, doc)
}

// ends lets libvirt end a domain that has a VF, index being its macvtap.
func (w *world) ends(doc string, vf, index int) {
	w.t.Helper()
	w.must(step.Stopped, doc)
	w.vfEnds(vf, index)
	w.must(step.Release, doc)
}

// refused lets libvirt start a domain that is refused VF 0, which a guest has, and undo
// that as libvirt before 11 does: nothing is to change.
func (w *world) refused(doc string) {
	w.t.Helper()
	running := w.all()
	_, err := w.run(step.Prepare, doc)
	require.ErrorIs(w.t, err, step.ErrInUse)
	w.ends(doc, 0, 0)
	require.Equal(w.t, running, w.all())
}

// A guest that QEMU and libvirtd were killed under, and that is starting again, is on its way.
func TestStartedIsOfThisLife(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, vfWords(mac1, "trust='yes'"), direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, vfWords(mac2, "trust='no'"), direct(mac2, "vf0", "passthrough", vlan42))
	w.starts(a, 0, 90, mac1, 42)
	w.vfEnds(0, 90) // libvirtd and QEMU killed: no stopped, no release
	w.must(step.Prepare, a)
	_, err := w.run(step.Prepare, b) // A is on its way
	require.ErrorIs(t, err, step.ErrInUse, "B takes the VF from A, which is starting")
}

// The same where its last life could not be undone.
func TestStartedIsOfThisLifeBehindADebt(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, vfWords(mac1, "trust='yes'"), direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, vfWords(mac2, "trust='no'"), direct(mac2, "vf0", "passthrough", vlan42))
	w.starts(a, 0, 90, mac1, 42)
	w.must(step.Stopped, a)
	w.vfEnds(0, 90)
	w.kernel.Driver.Refuse = []string{link.AttrTrust}
	_, err := w.run(step.Release, a)
	require.Error(t, err)
	w.kernel.Driver.Refuse = nil
	w.must(step.Prepare, a)
	_, err = w.run(step.Prepare, b)
	require.ErrorIs(t, err, step.ErrInUse, "B takes the VF from A, which is starting")
}

// Somebody else has had the VF since a reservation ended: its claim is drawn again.
func TestEndedReservationIsDrawnAnew(t *testing.T) {
	w := newVFWorld(t)
	now := time.Hour
	w.hook.Journal.Clock = func() time.Duration { return now }
	before := w.kernel.DumpVFs()
	in := domain(uuidA, "", direct(mac1, "fast", "passthrough"))
	out := w.must(step.Migrate, in)
	require.Contains(t, out, "dev='vf0'")
	now += 10 * time.Minute
	b := domain(uuidB, vfWords(mac2, "trust='yes'"), direct(mac2, "vf0", "passthrough", vlan42))
	w.starts(b, 0, 91, mac2, 42)
	w.vfEnds(0, 91) // unplugged from B, which runs on
	w.must(step.Prepare, out)
	require.False(t, *w.kernel.Function(0).Trust, "A has B's trust")
	w.vfRuns(0, 90, mac1, 0)
	w.must(step.Start, out)
	w.must(step.Stopped, b)
	w.must(step.Release, b)
	w.ends(out, 0, 90)
	require.Equal(t, before, w.kernel.DumpVFs())
}

// A pool hands out a VF that was unplugged from a guest which had settings.
func TestPoolPassesOnNobodysSettings(t *testing.T) {
	w := newVFWorld(t)
	b := domain(uuidB, vfWords(mac2, "trust='yes' spoofchk='no'"), direct(mac2, "vf0", "passthrough", vlan42))
	w.starts(b, 0, 91, mac2, 42)
	w.vfEnds(0, 91) // unplugged
	pool := "<ld:network xmlns:ld='urn:libvirt-direct:1' maxrate='100'/>"
	require.NoError(t, w.runNetwork(step.PortCreated, portXML(uuidA, mac1, plugVF0, "", pool)))
	require.False(t, *w.kernel.Function(0).Trust, "A runs with B's trust")
}

// A guest has been given such a VF behind the hook's back, and libvirtd restarts.
func TestReconnectPassesOnNobodysSettings(t *testing.T) {
	w := newVFWorld(t)
	b := domain(uuidB, vfWords(mac2, "trust='yes' spoofchk='no'"), direct(mac2, "vf0", "passthrough", vlan42))
	a := domain(uuidA, vfWords(mac1, "maxrate='100'"), direct(mac1, "vf0", "passthrough", vlan42))
	w.starts(b, 0, 91, mac2, 42)
	w.vfEnds(0, 91)        // unplugged from B
	no, yes := false, true // an administrator cleans up by hand
	w.kernel.Function(0).Trust, w.kernel.Function(0).SpoofChk = &no, &yes
	w.vfRuns(0, 90, mac1, 42) // hot-plugged into A: no hook
	w.must(step.Reconnect, a)
	require.False(t, *w.kernel.Function(0).Trust, "B's trust is set on A's VF")
}

// What a domain owes for a VF is no claim to what another guest has by now.
func TestOwnLeftoverInOtherHandsIsRefused(t *testing.T) {
	w := newVFWorld(t)
	m := domain(uuidA, vfWords(mac1, "trust='yes'"), direct(mac1, "vf0", "passthrough", vlan42))
	p := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	w.starts(m, 0, 90, mac1, 42)
	w.vfEnds(0, 90)           // unplugged
	w.vfRuns(0, 91, mac2, 42) // hot-plugged into B
	w.must(step.Stopped, m)
	w.must(step.Release, m)
	running := w.all()
	_, err := w.run(step.Prepare, p)
	require.ErrorIs(t, err, step.ErrInUse, "the kernel shows vf0 in B's hands")
	require.Equal(t, running, w.all())
}

// Nor is it chosen before those that are free.
func TestOwnLeftoverInOtherHandsIsNotChosen(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, vfWords(mac1, "own='hook' uplink='fast' mode='passthrough'"), owned(mac1, "ldt1"))
	w.must(step.Prepare, a)
	w.must(step.Start, a)
	l, err := w.kernel.ByName(t.Context(), "ldt1")
	require.NoError(t, err)
	require.NoError(t, w.kernel.Delete(t.Context(), l.Index)) // detached by hand
	w.vfRuns(0, 91, mac2, 42)                                 // and hot-plugged into B
	w.must(step.Stopped, a)
	w.must(step.Release, a)
	_, err = w.run(step.Prepare, a)
	require.NoError(t, err, "three VFs are free")
}

// With trustGuestRxFilters a guest may change its MAC: it is known by its device.
func TestGuestThatChangedItsMACIsPutBack(t *testing.T) {
	w := newVFWorld(t)
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", "<interface type='direct' trustGuestRxFilters='yes'><mac address='"+mac1+"'/><source dev='vf0' mode='passthrough'/><target dev='macvtap90'/>"+vlan42+"</interface>")
	w.starts(a, 0, 90, mac1, 42)
	require.NoError(t, w.kernel.SetMAC(context.Background(), 90, "52:54:00:66:66:66"))
	w.ends(a, 0, 90)
	require.Equal(t, before, w.kernel.DumpVFs())
}

// A clone that kept its original's MAC is not its original.
func TestCloneWithTheSameMACLeavesTheOriginal(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac1, "vf0", "passthrough", vlan42))
	w.starts(a, 0, 90, mac1, 42)
	w.refused(b)
}

// Something of the host stands on the guest's VF as well.
func TestRefusedStartBesideAVLANOfTheHost(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough", vlan42))
	w.starts(a, 0, 90, mac1, 42)
	l, _ := w.kernel.ByName(t.Context(), "vf0")
	w.kernel.Add(link.Link{Name: "aaa.7", Kind: "vlan", VLANID: 7, Parent: l.Index, Up: true})
	w.refused(b)
}

// A hostdev NIC was unplugged, and its VF given to another guest with the same VLAN.
func TestHostdevInOtherHandsIsLeft(t *testing.T) {
	w := newVFWorld(t)
	vf := w.kernel.Function(1)
	a := domain(uuidA, vfWords(mac1, "qos='3'"), hostdev(mac1, "1", vlan42))
	own := *vf.MAC
	w.must(step.Prepare, a)
	vf.Give(mac1, 42)
	w.kernel.VFs[1].Netdev = ""
	w.must(step.Start, a)
	vf.Give(own, 0)   // unplugged: libvirt puts back
	vf.Give(mac2, 42) // hot-plugged into B
	running := w.kernel.DumpVFs()
	w.must(step.Stopped, a)
	w.must(step.Release, a)
	require.Equal(t, running, w.kernel.DumpVFs())
}

// A start that wants the name of a running guest's device is refused before it claims anything.
func TestRefusedStartHoldsNoDevice(t *testing.T) {
	w := newWorld(t, "", "nica", "nicb")
	before := w.dump()
	a := domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt0"))
	b := domain(uuidB, "<ld:nic mac='"+mac2+"' own='hook' dev='nicb'/>", owned(mac2, "ldt0"))
	w.must(step.Prepare, a)
	w.must(step.Start, a)
	running := w.dump()
	_, err := w.run(step.Prepare, b)
	require.ErrorIs(t, err, step.ErrInUse)
	require.Equal(t, running, w.dump())
	require.Equal(t, []string{uuidA}, w.journals())
	w.must(step.Stopped, a)
	w.must(step.Release, a)
	require.Equal(t, before, w.dump(), "A's end leaves its own device")
	w.must(step.Prepare, b)
}

// The device of a running guest was removed, and another guest's has its name now. A start that
// takes it is killed behind its claim, or is overtaken by the other's end.
func TestLostDevicesNameIsAnothers(t *testing.T) {
	for _, killed := range []bool{true, false} {
		w := newWorld(t, "", "nica", "nicb")
		before := w.dump()
		a := domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt0"))
		b := domain(uuidB, "<ld:nic mac='"+mac2+"' own='hook' dev='nicb'/>", owned(mac2, "ldt0"))
		w.must(step.Prepare, a)
		w.must(step.Start, a)
		lost, err := w.kernel.ByName(t.Context(), "ldt0")
		require.NoError(t, err)
		require.NoError(t, w.kernel.Delete(t.Context(), lost.Index))
		done := false
		w.kernel.Gate = func(hooktest.Point) error {
			if len(w.journals()) == 2 && !done { // B has claimed
				done = true
				if killed {
					panic("SIGKILL")
				}
				w.must(step.Stopped, a)
				w.must(step.Release, a)
			}
			return nil
		}
		func() {
			defer func() { _ = recover() }()
			w.must(step.Prepare, b)
		}()
		w.kernel.Gate = nil
		require.True(t, done)
		require.Equal(t, !killed, w.has("ldt0"))
		w.must(step.Stopped, a)
		w.must(step.Release, a)
		require.Equal(t, !killed, w.has("ldt0"), "A's end leaves B's device")
		w.must(step.Release, b)
		require.Equal(t, before, w.dump())
	}
}

// The PF's network device is elsewhere when the guest ends.
func TestPFInAContainerLeavesTheDebt(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, vfWords(mac1, "trust='yes'"), direct(mac1, "vf0", "passthrough", vlan42))
	w.starts(a, 0, 90, mac1, 42)
	w.must(step.Stopped, a)
	w.vfEnds(0, 90)
	pf, _ := w.kernel.ByName(t.Context(), "ens1f0")
	l := w.kernel.Links[pf.Index]
	delete(w.kernel.Links, pf.Index) // ip link set ens1f0 netns x
	w.must(step.Release, a)
	w.kernel.Links[pf.Index] = l
	require.NotEmpty(t, w.journals(), "the debt is forgotten, and the VF keeps trust: "+w.kernel.Function(0).String())
}

// An instance's identifier looks like that of a domain.
func TestHintsOfAVSIAreNotStale(t *testing.T) {
	w := newWorld(t, "", "nica")
	w.must(step.Prepare, ownedVSI(t, w))
	dir, err := journal.Open(w.journal)
	require.NoError(t, err)
	stale, err := dir.StaleHints()
	require.NoError(t, err)
	require.Empty(t, stale)
	w.gc(false, uuidA)
}

// A VF that is bound to vfio-pci for guests, and so managed='no'.
func TestHostdevThatTheHostHasBound(t *testing.T) {
	w := newVFWorld(t)
	w.kernel.VFs[1].Netdev, w.kernel.VFs[1].Driver = "", "vfio-pci"
	doc := domain(uuidA, vfWords(mac1, "trust='yes'"), strings.Replace(hostdev(mac1, "1", ""), "managed='yes'", "managed='no'", 1))
	w.must(step.Prepare, doc)
}

// libvirt asks for a restore before it looks whether the domain runs.
func TestClaimIsNeverMadeAReservation(t *testing.T) {
	w := newVFWorld(t)
	now := time.Hour
	w.hook.Journal.Clock = func() time.Duration { return now }
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough"))
	w.must(step.Prepare, a)
	// libvirt calls restore before it looks whether the domain is active
	r := domain(uuidA, vfWords(mac1, "uplink='fast'"), direct(mac1, "vf0", "passthrough"))
	w.must(step.Restore, r)
	w.must(step.Start, a)
	j, err := w.hook.Journal.Load(uuidA)
	require.NoError(t, err)
	for _, e := range j.Entries {
		require.Zero(t, e.Expires, "A's claim has become a reservation, which ends")
	}
}

// An alternative name that udev has given goes with nobody.
func TestPlainGuestOnAnAltName(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"config": func(w *world) {
			w.hook.Config = func() (*config.Config, error) { return nil, errors.New("config.toml:7: unknown key") }
		},
		"journal": func(w *world) { require.NoError(w.t, os.WriteFile(w.journal, nil, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newPlainWorld(t)
			l, err := w.kernel.ByName(t.Context(), "nica")
			require.NoError(t, err)
			require.NoError(t, w.kernel.AddAltName(t.Context(), l.Index, "enp0s31f6"))
			spoil(w)
			w.must(step.Prepare, domain(uuidA, "", direct(mac1, "enp0s31f6", "bridge")))
		})
	}
}

// What is wrong with us keeps no pool from handing out a device.
func TestPlainPoolOnABrokenHost(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"no kernel": func(w *world) {
			w.hook.Kernel = func() (step.Kernel, func(), error) { return nil, nil, errors.New("no netlink socket") }
		},
		"journal is no directory": func(w *world) { require.NoError(w.t, os.WriteFile(w.journal, nil, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			spoil(w)
			require.NoError(t, w.runNetwork(step.PortCreated, portXML(uuidB, mac2, plugVF0, "", "")))
		})
	}
}

// By its network device and by its PCI address it is the same VF.
func TestTwoNICsOnOneVF(t *testing.T) {
	w := newVFWorld(t)
	doc := domain(uuidA, vfWords(mac1, "trust='yes'")+vfWords(mac2, "maxrate='100'"), direct(mac1, "vf0", "passthrough")+hostdev(mac2, "0", ""))
	_, err := w.run(step.Prepare, doc)
	require.ErrorIs(t, err, step.ErrUnsuitable)
	require.Empty(t, w.journals())
}

// A journal that cannot be read can be that of a guest which is starting: its VF is given
// to nobody, and put back by nobody, until it can be.
func TestUnreadableJournalKeepsItsVF(t *testing.T) {
	w := newVFWorld(t)
	before := w.kernel.DumpVFs()
	a := domain(uuidA, vfWords(mac1, "trust='yes'"), direct(mac1, "vf0", "passthrough"))
	b := domain(uuidB, vfWords(mac2, "spoofchk='no'"), direct(mac2, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 0)
	w.vfEnds(0, 90)           // unplugged,
	w.must(step.Prepare, b)   // and another's by now
	w.vfRuns(0, 91, mac2, 42) // who is starting
	file := filepath.Join(w.journal, "domains", uuidB+".json")
	journal, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte("{"), 0o600))
	starting := w.kernel.DumpVFs()

	w.must(step.Stopped, a)
	w.must(step.Release, a)
	_, err = w.run(step.Prepare, a)
	require.ErrorIs(t, err, step.ErrInUse)
	require.ErrorContains(t, err, "journal cannot be read")
	require.Equal(t, starting, w.kernel.DumpVFs())

	require.NoError(t, os.WriteFile(file, journal, 0o600))
	w.must(step.Start, b)
	w.ends(b, 0, 91)
	w.must(step.Release, a)
	require.Empty(t, w.journals())
	require.Equal(t, before, w.kernel.DumpVFs())
}

// A plain guest that moved away had the whole of a device, and libvirt does not say its
// macvtap's name any more: what libvirt has saved is its own, and libvirt's to use.
func TestMovedGuestsFileIsItsOwn(t *testing.T) {
	w := newWorld(t, "", "nica")
	lower, err := w.kernel.ByName(t.Context(), "nica")
	require.NoError(t, err)
	nic := func(more string) string {
		return domain(uuidA, "", "<interface type='direct'><mac address='"+mac1+"'/><source dev='nica' mode='passthrough'/>"+more+"</interface>")
	}
	w.must(step.Prepare, nic(""))
	file := filepath.Join(w.libvirt, "qemu/nica")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(`{"mac":"`+lower.MAC+`"}`), 0o600))
	require.NoError(t, w.kernel.AddMacvtap(t.Context(), link.Macvtap{Name: "macvtap0", Index: 90, Lower: lower.Index, Mode: "passthrough", MAC: mac1}))
	require.NoError(t, w.kernel.SetMAC(t.Context(), 90, mac1))
	w.must(step.Start, nic("<target dev='macvtap0'/><alias name='net0'/>"))
	w.must(step.Stopped, nic("<alias name='net0'/>"))
	require.FileExists(t, file)
	require.Empty(t, w.journals())

	// One that has not come as far as its macvtap is another one, of the same MAC.
	w.must(step.Stopped, nic(""))
	require.NoFileExists(t, file)
}
