package hooks

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

const uuidC = "c0000001-0000-4000-8000-000000000001"

// saved lists libvirt's files of devices, hidden or not.
func (w *world) saved() []string {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.libvirt, "qemu"))
	require.NoError(w.t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (w *world) index(name string) int {
	w.t.Helper()
	l, err := w.kernel.ByName(w.t.Context(), name)
	require.NoError(w.t, err)
	return l.Index
}

// Whatever our own records are like, libvirt does not undo a running guest's VF at the
// end of another that was refused it.
func TestRefusedGuestWhoseRecordsAreOfNoUse(t *testing.T) {
	journalOfB := func(text string) func(w *world) {
		return func(w *world) {
			require.NoError(w.t, os.WriteFile(filepath.Join(w.journal, "domains", uuidB+".json"), []byte(text), 0o600))
		}
	}
	for name, spoil := range map[string]func(w *world){
		"sound":   func(*world) {},
		"damaged": journalOfB("{"),
		"newer":   journalOfB(`{"version":99}`),
		"the domain's lock stays": func(w *world) {
			unlock, err := w.hook.Journal.Lock(w.t.Context(), domainLock(uuidB))
			require.NoError(w.t, err)
			w.t.Cleanup(unlock)
		},
		"the claims' lock stays": func(w *world) {
			unlock, err := w.hook.Journal.Lock(w.t.Context(), claimsLock)
			require.NoError(w.t, err)
			w.t.Cleanup(unlock)
		},
		"the disk is full": func(w *world) {
			disk := hooktest.NewDisk().With(func(p hooktest.Point) error {
				if p.Op == "write" || p.Op == "touch" {
					return syscall.ENOSPC
				}
				return nil
			})
			w.hook.Journal = journal.On("/run/libvirt-direct", disk)
		},
		"no configuration": func(w *world) {
			w.hook.Config = func() (*config.Config, error) { return nil, syscall.EIO }
		},
	} {
		for kind, settings := range map[string]string{"plain": "", "managed": vfWords(mac2, "trust='yes'")} {
			t.Run(name+", "+kind, func(t *testing.T) {
				w := newVFWorld(t)
				w.cfg.Deadline = config.Duration(50 * time.Millisecond)
				before := w.kernel.DumpVFs()
				a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
				b := domain(uuidB, settings, direct(mac2, "vf0", "passthrough"))
				w.starts(a, 0, 90, mac1, 42)
				running, journal := w.kernel.DumpVFs(), w.hook.Journal
				spoil(w)
				_, err := w.run(step.Prepare, b)
				require.Error(t, err)
				_, _ = w.run(step.Stopped, b)
				require.Len(t, w.saved(), 1)
				require.True(t, strings.HasSuffix(w.saved()[0], hiddenSuffix), w.saved())
				w.vfEnds(0, 0)
				_, _ = w.run(step.Release, b)
				require.Equal(t, running, w.kernel.DumpVFs())
				require.Equal(t, []string{"ens1f0_vf0"}, w.saved())

				w.hook.Journal = journal
				_, _ = w.run(step.Stopped, a)
				w.vfEnds(0, 90)
				_, _ = w.run(step.Release, a)
				require.Equal(t, before, w.kernel.DumpVFs())
			})
		}
	}
}

// Two are refused the same VF at once, and the one that came first is over first.
func TestTwoRefusedGuests(t *testing.T) {
	w := newVFWorld(t)
	before := w.kernel.DumpVFs()
	a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
	b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
	c := domain(uuidC, "", direct(mac3, "vf0", "passthrough"))
	w.starts(a, 0, 90, mac1, 42)
	running := w.kernel.DumpVFs()
	w.must(step.Stopped, b)
	w.must(step.Stopped, c)
	require.Len(t, w.saved(), 2)
	w.vfEnds(0, 0)
	w.must(step.Release, b)
	w.vfEnds(0, 0)
	w.must(step.Release, c)
	require.Equal(t, running, w.kernel.DumpVFs())
	require.Equal(t, []string{"ens1f0_vf0"}, w.saved())
	w.ends(a, 0, 90)
	require.Equal(t, before, w.kernel.DumpVFs())
	require.Empty(t, w.saved())
}

// The host went on without the release of a guest that was refused: libvirt was killed.
func TestHiddenFileIsGivenBackByGC(t *testing.T) {
	for name, ended := range map[string]bool{"guest runs": false, "guest has ended": true} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			before := w.kernel.DumpVFs()
			a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
			b := domain(uuidB, "", direct(mac2, "vf0", "passthrough"))
			w.starts(a, 0, 90, mac1, 42)
			running := w.kernel.DumpVFs()
			w.must(step.Stopped, b)
			if ended {
				require.NoError(t, os.RemoveAll(w.journal)) // nobody knows that it ran
				w.vfEnds(0, 90)
				require.NotEqual(t, before, w.kernel.DumpVFs(), "libvirt found no file")
			}
			require.Contains(t, w.gc(true, uuidA), "would give libvirt qemu/ens1f0_vf0 back")
			require.Contains(t, w.gc(false, uuidA), "gave libvirt qemu/ens1f0_vf0 back, hidden from the end of domain "+uuidB)
			if ended {
				require.Equal(t, before, w.kernel.DumpVFs())
				require.Empty(t, w.saved())
				return
			}
			require.Equal(t, running, w.kernel.DumpVFs())
			require.Equal(t, []string{"ens1f0_vf0"}, w.saved())
		})
	}
}

// libvirt 11 has saved a device and given it the guest's MAC, and no macvtap could be made: it
// leaves both. So does libvirt 9 where it is killed.
func TestWhatAFailedStartHasLeftIsPutBack(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(w *world) // before the release
		left  bool
	}{
		"free": {func(*world) {}, false},
		"another is about to have it": {func(w *world) {
			w.must(step.Prepare, domain(uuidB, vfWords(mac2, "trust='no'"), direct(mac2, "vf0", "passthrough")))
		}, true},
		"a clone is about to have it": {func(w *world) {
			w.must(step.Prepare, domain(uuidB, "", direct(mac1, "vf0", "passthrough")))
		}, true},
		"another has it": {func(w *world) {
			require.NoError(w.t, w.kernel.AddMacvtap(w.t.Context(), link.Macvtap{Name: "macvtap7", Index: 97, Lower: w.index("vf0"), Mode: "passthrough", MAC: mac1}))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			before := w.kernel.DumpVFs()
			a := domain(uuidA, "", direct(mac1, "vf0", "passthrough", vlan42))
			w.must(step.Prepare, a)
			w.vfRuns(0, 90, mac1, 42)
			require.NoError(t, w.kernel.Delete(t.Context(), 90))
			w.must(step.Stopped, a)
			require.NoError(t, os.RemoveAll(w.journal)) // it may have none
			c.spoil(w)
			w.must(step.Release, a)
			if c.left {
				require.Equal(t, []string{"ens1f0_vf0"}, w.saved())
				require.Equal(t, 42, w.kernel.Function(0).VLAN.ID)
				return
			}
			require.Equal(t, before, w.kernel.DumpVFs())
			require.Empty(t, w.saved())
		})
	}
}

// A device on no bus is called like a VF.
func TestHiddenFileOfADeviceThatIsCalledLikeAVF(t *testing.T) {
	w := newWorld(t, "", "ens1f0", "ens1f0_vf7")
	w.kernel.AddVFs("ens1f0", 2)
	w.wholeRuns("ens1f0_vf7", 90, mac1)
	b := domain(uuidB, "", direct(mac2, "ens1f0_vf7", "passthrough"))
	w.must(step.Stopped, b)
	require.NotEqual(t, []string{"ens1f0_vf7"}, w.saved())
	w.must(step.Release, b)
	require.Equal(t, []string{"ens1f0_vf7"}, w.saved())
}

func FuzzHiddenName(f *testing.F) {
	good := hiddenFile{"qemu/ens1f0_vf3", mac1, 17, uuidA, 4 * time.Second}
	f.Add(good.name())
	f.Add("qemu/eth0.2::0:" + uuidA + ":0" + hiddenSuffix)
	f.Fuzz(func(t *testing.T, name string) {
		if h, ok := parseHidden(name); ok {
			require.Equal(t, name, h.name())
			require.True(t, journal.IsUUID(h.UUID))
		}
		again, ok := parseHidden(good.name())
		require.True(t, ok)
		require.Equal(t, good, again)
	})
}
