package hooks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// plainGuests use none of our settings. What each of them needs is there.
var plainGuests = map[string]string{
	"macvtap": domain(uuidA, "", direct(mac1, "nica", "bridge")),
	"VLAN":    domain(uuidA, "", direct(mac1, "nica.100", "vepa")),
	"VF":      domain(uuidA, "", direct(mac1, "vf0", "passthrough", "<vlan><tag id='42'/></vlan>")),
	"hostdev": domain(uuidA, "", hostdev(mac1, "0", "")),
	"switch":  domain(uuidA, "", onSwitch(mac1, "<target dev='vnet0'/>")),
}

func newPlainWorld(t *testing.T) *world {
	w := newWorld(t, "", "ens1f0", "nica", "ovsbr0")
	w.kernel.AddVFs("ens1f0", 2)
	parent, err := w.kernel.ByName(t.Context(), "nica")
	require.NoError(t, err)
	w.kernel.Add(link.Link{Name: "nica.100", Kind: "vlan", VLANID: 100, Parent: parent.Index, Up: true})
	w.ovs.ByName["vnet0"] = ovs.Port{Name: "vnet0", Bridge: "ovsbr0"}
	return w
}

// No state of the host refuses or delays the start of a guest that uses none of our
// settings, and nothing on the host changes for it.
func TestPlainGuestOnABrokenHost(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"sound": func(*world) {},
		"no configuration": func(w *world) {
			w.hook.Config = func() (*config.Config, error) { return nil, errors.New("config.toml:7: unknown key") }
		},
		"no kernel": func(w *world) {
			w.hook.Kernel = func() (step.Kernel, func(), error) { return nil, nil, errors.New("no netlink socket") }
		},
		"journal is no directory": func(w *world) { require.NoError(w.t, os.WriteFile(w.journal, nil, 0o600)) },
		"journal is damaged": func(w *world) {
			require.NoError(w.t, os.MkdirAll(filepath.Join(w.journal, "domains"), 0o700))
			require.NoError(w.t, os.WriteFile(filepath.Join(w.journal, "domains", uuidA+".json"), []byte("{"), 0o600))
		},
		"a lock that stays": func(w *world) {
			dir, err := journal.Open(w.journal)
			require.NoError(w.t, err)
			unlock, err := dir.Lock(w.t.Context(), claimsLock)
			require.NoError(w.t, err)
			w.t.Cleanup(unlock)
		},
		"Open vSwitch is down": func(w *world) { w.ovs.Down = true },
		"every call fails":     func(w *world) { w.fail = func(int, string) error { return errors.New("EIO") } },
	} {
		for kind, doc := range plainGuests {
			t.Run(name+", "+kind, func(t *testing.T) {
				w := newPlainWorld(t)
				spoil(w)
				before := w.all()
				from := time.Now()
				for _, op := range []step.Op{step.Migrate, step.Prepare, step.Start} {
					require.Empty(t, w.must(op, doc))
				}
				// 50 ms each, and what a busy machine adds.
				require.Less(t, time.Since(from), 2*time.Second)
				require.Equal(t, before, w.all())
				_, _ = w.run(step.Stopped, doc)
				_, _ = w.run(step.Release, doc)
				require.Equal(t, before, w.all())
			})
		}
	}
}

// What an earlier life has left goes first, but nobody's lock is waited for.
func TestPlainGuestBehindALeftoverWaitsForNoLock(t *testing.T) {
	for _, lock := range []string{claimsLock, domainLock(uuidA), "vf/" + hooktest.PFAddress + "/0"} {
		t.Run(lock, func(t *testing.T) {
			w := newPlainWorld(t)
			managed := domain(uuidA, vfWords(mac1, "trust='yes'"), direct(mac1, "vf0", "passthrough", vlan42))
			w.must(step.Prepare, managed) // and libvirtd is killed
			unlock, err := w.hook.Journal.Lock(t.Context(), lock)
			require.NoError(t, err)
			defer unlock()
			from := time.Now()
			w.must(step.Prepare, plainGuests["VF"])
			require.Less(t, time.Since(from), time.Second)
		})
	}
}

// hungSwitch takes a connection and never answers, as a switch that hangs does.
type hungSwitch struct{ step.Switch }

func (hungSwitch) Detach(ctx context.Context, _, _ string) (bool, error) {
	<-ctx.Done()
	return false, ovs.ErrNoAnswer
}

// A guest that had settings in an earlier life, and left something that a daemon is to undo,
// waits for that daemon no longer than for anything else. What it has not undone stays owed.
func TestGuestWithoutSettingsWaitsForNoDaemon(t *testing.T) {
	for name, doc := range map[string]string{
		"plain":   plainGuests["switch"],
		"foreign": domain(uuidA, "", "<interface type='user'/>"),
	} {
		for _, op := range []step.Op{step.Prepare, step.Start} {
			t.Run(name+", "+string(op), func(t *testing.T) {
				w := newPlainWorld(t)
				owned, word := wasOnSwitch(mac1, "ldt1", "")
				w.must(step.Prepare, domain(uuidA, word, owned)) // and libvirtd is killed
				held := w.journals()
				require.NotEmpty(t, held)
				w.hook.OVS = func() step.Switch { return hungSwitch{w.ovs} }
				from := time.Now()
				w.must(op, doc)
				require.Less(t, time.Since(from), time.Second)
				require.Equal(t, held, w.journals())
				require.Contains(t, w.ovs.ByName, "ldt1")

				w.hook.OVS = w.openSwitch
				w.must(step.Release, doc)
				require.Empty(t, w.journals())
				require.NotContains(t, w.ovs.ByName, "ldt1")
			})
		}
	}
}

// Who runs on a VF is seen in the kernel, also where it cannot be read who claims it.
func TestPlainGuestWhereClaimsCannotBeRead(t *testing.T) {
	w := newPlainWorld(t)
	w.starts(plainGuests["VF"], 0, 90, mac1, 42)
	w.hook.Journal = journal.On("/run/libvirt-direct", hooktest.NewDisk().With(func(p hooktest.Point) error {
		if p.Op == "list" {
			return syscall.EIO
		}
		return nil
	}))
	_, err := w.run(step.Prepare, domain(uuidB, "", direct(mac2, "vf0", "passthrough")))
	require.ErrorIs(t, err, step.ErrInUse)
	w.must(step.Prepare, domain(uuidC, "", direct(mac3, "vf1", "passthrough")))
	w.must(step.Start, plainGuests["VF"])
}

// A claim without a baseline is all that is written for a VF.
func TestPlainGuestsVFIsClaimedAndNoMore(t *testing.T) {
	w := newPlainWorld(t)
	doc := plainGuests["VF"]
	w.must(step.Prepare, doc)
	claims, err := w.hook.Journal.Claims("vf/" + hooktest.PFAddress + "/0")
	require.NoError(t, err)
	require.Len(t, claims.All, 1)
	require.Equal(t, journal.Planned, claims.All[0].Phase)
	require.NotContains(t, string(claims.All[0].Step), "baseline")
	require.Zero(t, w.calls, "nothing of the host is changed")
	w.must(step.Release, doc)
	require.Empty(t, w.journals())
}

func TestPlainOVSDomainLeavesNoFile(t *testing.T) {
	w := newPlainWorld(t)
	doc := plainGuests["switch"]
	for _, op := range []step.Op{step.Prepare, step.Start, step.Reconnect} {
		w.must(op, doc)
		require.Empty(t, w.journals(), op)
	}
	require.Equal(t, ovs.Port{Name: "vnet0", Bridge: "ovsbr0"}, w.ovs.ByName["vnet0"])
	require.Empty(t, w.gc(false), "a port without our key is never removed")
}
