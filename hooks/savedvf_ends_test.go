package hooks

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
)

func (w *world) netdevMAC(name string) string {
	l, err := w.kernel.ByName(context.Background(), name)
	require.NoError(w.t, err)
	return l.MAC
}

// The VF had the guest's MAC before (an administrator gave it: ip link set PF vf 0 mac),
// and no VLAN. libvirt undoes the refused start and takes the running guest's VLAN.
func TestSavedVFThatHadTheGuestsMAC(t *testing.T) {
	w := newVFWorld(t)
	lower, _ := w.kernel.ByName(t.Context(), "vf0")
	require.NoError(t, w.kernel.SetMAC(t.Context(), lower.Index, mac1))
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	w.refused(b)
}

// The same, and that guest's end.
func TestSavedVFThatHadTheGuestsMACEnds(t *testing.T) {
	w := newVFWorld(t)
	lower, _ := w.kernel.ByName(t.Context(), "vf0")
	require.NoError(t, w.kernel.SetMAC(t.Context(), lower.Index, mac1))
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	w.must(step.Stopped, b)
	w.ends(a, 0, 90)
	w.vfEnds(0, 0)
	w.must(step.Release, b)
	require.Equal(t, before, w.kernel.DumpVFs())
}

// whole makes libvirt's life of a guest that has all of a device that is no VF.
func (w *world) wholeRuns(dev string, index int, mac string) {
	lower, err := w.kernel.ByName(context.Background(), dev)
	require.NoError(w.t, err)
	file := filepath.Join(w.libvirt, "qemu", dev)
	require.NoError(w.t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(w.t, os.WriteFile(file, []byte(`{"mac":"`+lower.MAC+`"}`), 0o600))
	require.NoError(w.t, w.kernel.SetMAC(context.Background(), lower.Index, mac))
	require.NoError(w.t, w.kernel.AddMacvtap(context.Background(), link.Macvtap{Name: "macvtap" + string(rune('0'+index%10)), Index: index, Lower: lower.Index, Mode: "passthrough", MAC: mac}))
}

func (w *world) wholeEnds(dev string, index int) {
	if index != 0 {
		require.NoError(w.t, w.kernel.Delete(context.Background(), index))
	}
	file := filepath.Join(w.libvirt, "qemu", dev)
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	require.NoError(w.t, os.Remove(file))
	var saved step.SavedConfig
	require.NoError(w.t, json.Unmarshal(text, &saved))
	lower, err := w.kernel.ByName(context.Background(), dev)
	require.NoError(w.t, err)
	require.NoError(w.t, w.kernel.SetMAC(context.Background(), lower.Index, saved.MAC))
}

// A guest with all of a device ends while its file is hidden, and starts again.
func TestSavedWholeDeviceStartsAgainWhileHidden(t *testing.T) {
	for _, again := range []string{"A", "C"} {
		t.Run(again, func(t *testing.T) {
			w := newWorld(t, "", "nica")
			was := w.netdevMAC("nica")
			a := domain(uuidA, "", direct(mac1, "nica", "passthrough"))
			b := domain(uuidB, "", direct(mac2, "nica", "passthrough"))
			w.must(step.Prepare, a)
			w.wholeRuns("nica", 90, mac1)
			w.must(step.Start, a)
			_, _ = w.run(step.Prepare, b)
			w.must(step.Stopped, b) // the file is hidden
			w.must(step.Stopped, a)
			w.wholeEnds("nica", 90)
			w.must(step.Release, a)
			next, mac := a, mac1
			if again == "C" {
				next, mac = domain(uuidC, "", direct(mac3, "nica", "passthrough")), mac3
			}
			w.must(step.Prepare, next)
			w.wholeRuns("nica", 91, mac)
			w.must(step.Start, next)
			w.wholeEnds("nica", 0)
			w.must(step.Release, b)
			w.must(step.Stopped, next)
			w.wholeEnds("nica", 91)
			w.must(step.Release, next)
			_ = w.gc(false)
			require.Equal(t, was, w.netdevMAC("nica"), w.saved())
		})
	}
}

// The same with a VF, where A's journal is lost or could not be written.
func TestSavedVFStartsAgainWhileHiddenWithoutJournal(t *testing.T) {
	w := newVFWorld(t)
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	c := domain(uuidC, "", direct(mac3, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	require.NoError(t, os.RemoveAll(w.journal))
	w.must(step.Stopped, b)
	w.ends(a, 0, 90)
	w.starts(c, 0, 91, mac3, 0)
	w.must(step.Release, b)
	w.ends(c, 0, 91)
	_ = w.gc(false)
	require.Equal(t, before, w.kernel.DumpVFs(), w.saved())
}

// Two hidden files of one device need not be one guest's.
func TestSavedTwoGuestsFilesHidden(t *testing.T) {
	w := newVFWorld(t)
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	c := domain(uuidC, "", direct(mac3, "vf0", "passthrough", "<vlan><tag id='43'/></vlan>"))
	d := domain("d0000001-0000-4000-8000-000000000001", "", direct(mac4, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	w.must(step.Stopped, b) // and libvirt is slow, or was killed: no release yet
	w.ends(a, 0, 90)
	require.Equal(t, before, w.kernel.DumpVFs())
	w.starts(c, 0, 91, mac3, 43)
	running := w.all()
	w.refused(d)
	require.Equal(t, running, w.all())
	w.vfEnds(0, 0)
	w.must(step.Release, b)
	w.ends(c, 0, 91)
	_ = w.gc(false)
	require.Equal(t, before, w.kernel.DumpVFs(), w.saved())
}

// A guest that has changed its MAC, and whose macvtap libvirt does not name, is not
// known by it: its file is its own all the same.
func TestSavedOwnFileOfAGuestThatChangedItsMAC(t *testing.T) {
	w := newVFWorld(t)
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", "<interface type='direct' trustGuestRxFilters='yes'><mac address='"+mac1+"'/><source dev='vf0' mode='passthrough'/><alias name='net0'/>"+vlan42+"</interface>")
	w.starts(a, 0, 90, mac1, 42)
	require.NoError(t, w.kernel.SetMAC(context.Background(), 90, "52:54:00:66:66:66"))
	w.ends(a, 0, 90)
	require.Equal(t, before, w.kernel.DumpVFs(), w.saved())
}

// The same guest, known by its device, ends while another's end hides its file.
func TestSavedGuestThatChangedItsMACEndsWhileHidden(t *testing.T) {
	w := newVFWorld(t)
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", "<interface type='direct' trustGuestRxFilters='yes'><mac address='"+mac1+"'/><source dev='vf0' mode='passthrough'/><target dev='macvtap90'/>"+vlan42+"</interface>")
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	require.NoError(t, w.kernel.SetMAC(context.Background(), 90, "52:54:00:66:66:66"))
	w.must(step.Stopped, b)
	w.ends(a, 0, 90)
	w.must(step.Release, b)
	_ = w.gc(false)
	require.Equal(t, before, w.kernel.DumpVFs(), w.saved())
}

// A standby of the same MAC has left a debt somewhere: its journal says that it has run.
func TestSavedStandbyOfTheSameMACWithADebt(t *testing.T) {
	for kind, words := range map[string]string{"managed": vfWords(mac1, "trust='yes'"), "plain": ""} {
		t.Run(kind, func(t *testing.T) {
			w := newVFWorld(t)
			a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
			b1 := domain(uuidB, vfWords(mac1, "trust='yes'"), direct(mac1, "vf1", "passthrough"))
			b := domain(uuidB, words, direct(mac1, "vf0", "passthrough", vlan42))
			w.starts(b1, 1, 91, mac1, 0)
			w.must(step.Stopped, b1)
			w.vfEnds(1, 91)
			w.kernel.Driver.Refuse = []string{link.AttrTrust}
			_, err := w.run(step.Release, b1)
			require.Error(t, err)
			w.starts(a, 0, 90, mac1, 42)
			running := w.all()
			_, err = w.run(step.Prepare, b)
			require.ErrorIs(t, err, step.ErrInUse)
			_, _ = w.run(step.Stopped, b)
			w.vfEnds(0, 0)
			require.Equal(t, running, w.all())
		})
	}
}

// Where there can be no locks at all the file is given back all the same.
func TestSavedHiddenWithoutALock(t *testing.T) {
	w := newVFWorld(t)
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42, "<alias name='net0'/>"))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	require.NoError(t, os.WriteFile(w.journal, nil, 0o600)) // the folder cannot be made
	w.starts(a, 0, 90, mac1, 42)
	_, _ = w.run(step.Prepare, b)
	_, _ = w.run(step.Stopped, b)
	w.vfEnds(0, 0)
	_, _ = w.run(step.Release, b)
	_, _ = w.run(step.Stopped, a)
	w.vfEnds(0, 90)
	_, _ = w.run(step.Release, a)
	require.Equal(t, before, w.kernel.DumpVFs())
}

// virNetDevReadNetConfig looks for a file named for the VF's own device where there is
// none named for the PF (802.1Qbh, and what an older libvirt has left).
func TestSavedFileNamedForTheVF(t *testing.T) {
	w := newVFWorld(t)
	w.must(step.Prepare, domain(uuidA, "", direct(mac1, "vf0", "passthrough")))
	w.wholeRuns("vf0", 90, mac1)
	w.must(step.Start, domain(uuidA, "", direct(mac1, "vf0", "passthrough")))
	running := w.all()
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	_, _ = w.run(step.Prepare, b)
	w.must(step.Stopped, b)
	w.wholeEnds("vf0", 0)
	w.must(step.Release, b)
	require.Equal(t, running, w.all(), w.saved())
}

// A stale file by the VF's own name beside the right one: hiding the right one makes
// libvirt use it.
func TestSavedStaleFileNamedForTheVF(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	require.NoError(t, os.WriteFile(filepath.Join(w.libvirt, "qemu/vf0"), []byte(`{"mac":"02:00:00:00:ff:00"}`), 0o600))
	running := w.all()
	_, _ = w.run(step.Prepare, b)
	w.must(step.Stopped, b)
	require.Len(t, w.saved(), 2)
	for _, s := range w.saved() {
		require.True(t, strings.HasSuffix(s, hiddenSuffix), s)
	}
	require.Equal(t, running, w.all())
}

// The PF has another name, or is elsewhere, at the moment of the release.
func TestSavedPFIsElsewhereAtRelease(t *testing.T) {
	w := newVFWorld(t)
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	w.must(step.Stopped, b)
	pf, _ := w.kernel.ByName(t.Context(), "ens1f0")
	l := w.kernel.Links[pf.Index]
	delete(w.kernel.Links, pf.Index)
	_, _ = w.run(step.Release, b)
	w.kernel.Links[pf.Index] = l
	_ = w.gc(false, uuidA)
	require.Len(t, w.saved(), 1)
	w.ends(a, 0, 90)
	require.Equal(t, before, w.kernel.DumpVFs())
}

// B has got as far as saving A's VF, which was hot-plugged after B's prepare, and has a
// user's alias: without the hook libvirt heals what it has done.
func TestSavedUserAliasKeepsLibvirtFromHealing(t *testing.T) {
	for _, alias := range []string{"net0", "ua-net0"} {
		t.Run(alias, func(t *testing.T) {
			w := newVFWorld(t)
			b := domain(uuidB, "", direct(mac2, "vf0", "passthrough", "<alias name='"+alias+"'/>"))
			w.must(step.Prepare, b)
			w.vfRuns(0, 90, mac1, 42) // hot-plugged into A: no hook
			lower, _ := w.kernel.ByName(t.Context(), "vf0")
			vf := w.kernel.Function(0)
			running := w.kernel.DumpVFs()
			file := filepath.Join(w.libvirt, "qemu/ens1f0_vf0")
			require.NoError(t, os.WriteFile(file, []byte(`{"adminMac":"`+*vf.MAC+`","vlanTag":42,"mac":"`+lower.MAC+`"}`), 0o600))
			require.NoError(t, w.kernel.SetMAC(t.Context(), lower.Index, mac2))
			vf.VLAN = &link.VFVLAN{ID: 0, Proto: link.Dot1Q}
			w.must(step.Stopped, b) // its macvtap could not be made
			w.vfEnds(0, 0)
			w.must(step.Release, b)
			require.Equal(t, running, w.kernel.DumpVFs(), w.saved())
		})
	}
}

// Nothing can be changed in the kernel at stopped.
func TestSavedKernelFailsAtStopped(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	running := w.kernel.DumpVFs()
	w.fail = func(int, string) error { return errLost }
	_, _ = w.run(step.Stopped, b)
	w.fail = nil
	w.vfEnds(0, 0)
	_, _ = w.run(step.Release, b)
	require.Equal(t, running, w.kernel.DumpVFs())
}

// A look-up that fails is no other guest: the file of the one that runs stays.
func TestSavedLookUpFailsAtRelease(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	w.must(step.Stopped, b)
	w.kernel.Gate = func(p hooktest.Point) error {
		if p.What == "macvtap90" {
			return errLost
		}
		return nil
	}
	_, _ = w.run(step.Release, b)
	w.kernel.Gate = nil
	require.Len(t, w.saved(), 1)
}

// Plain B where the journals' folder is none: what the kernel shows is to refuse it.
func TestSavedPlainIsRefusedWithoutAFolder(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	require.NoError(t, os.WriteFile(w.journal, nil, 0o600)) // the folder cannot be made
	w.starts(a, 0, 90, mac1, 42)
	_, err := w.run(step.Prepare, b)
	require.ErrorIs(t, err, step.ErrInUse)
}

// Somebody's reservation is no reason to throw a hidden file away unused.
func TestSavedReservationThrowsTheFileAway(t *testing.T) {
	w := newVFWorld(t)
	now := time.Hour
	w.hook.Journal.Clock = func() time.Duration { return now }
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	require.NoError(t, os.RemoveAll(w.journal)) // as if nothing could be written of A
	w.must(step.Stopped, b)
	w.ends(a, 0, 90)
	require.Contains(t, w.must(step.Migrate, domain(uuidC, "", direct(mac3, "fast", "passthrough"))), "'vf0'")
	w.must(step.Release, b)
	now += time.Hour // C never comes
	_ = w.gc(false)
	require.Equal(t, before, w.kernel.DumpVFs(), w.saved())
}

// Nothing is known of A, which has a user's alias: its own end hides its own file, and does
// what libvirt would have done with it.
func TestSavedOwnFileWithAUsersAlias(t *testing.T) {
	w := newVFWorld(t)
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42, "<alias name='ua-n'/>"))
	w.starts(a, 0, 90, mac1, 42)
	require.NoError(t, os.RemoveAll(w.journal))
	w.ends(a, 0, 90)
	require.Equal(t, before, w.kernel.DumpVFs())
	require.Empty(t, w.saved())
}

// The same, by the first look-up only.
func TestSavedOneLookUpFailsAtStopped(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	running := w.kernel.DumpVFs()
	done := false
	w.kernel.Gate = func(p hooktest.Point) error {
		if !done {
			done = true
			return errLost
		}
		return nil
	}
	_, err := w.run(step.Stopped, b)
	t.Log(err)
	w.kernel.Gate = nil
	w.vfEnds(0, 0)
	_, _ = w.run(step.Release, b)
	require.Equal(t, running, w.kernel.DumpVFs())
}

var errLost = os.ErrDeadlineExceeded
