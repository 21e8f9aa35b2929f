package hooks

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
)

// udev gives a sub-interface another name by the MAC that it has from its parent. It is
// found again by what it is, has the name in the next guest's XML too, and goes with its
// last guest.
func TestRenamedVLANIsFoundAgain(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.dump()
	a := domain(uuidA, "", direct(mac1, "nica.100", "bridge"))
	b := domain(uuidB, "", direct(mac2, "nica.100", "bridge"))
	w.must(step.Prepare, a)
	v, err := w.kernel.ByName(t.Context(), "nica.100")
	require.NoError(t, err)
	require.NoError(t, w.kernel.SetName(t.Context(), v.Index, "lan0.100"))
	w.must(step.Prepare, b)
	found, err := w.kernel.ByName(t.Context(), "nica.100")
	require.NoError(t, err)
	require.Equal(t, v.Index, found.Index)
	require.Equal(t, "lan0.100", found.Name)
	w.must(step.Release, a)
	_, err = w.kernel.ByName(t.Context(), "nica.100")
	require.NoError(t, err, "the other guest has it")
	w.must(step.Release, b)
	require.Equal(t, before, w.dump())
	require.Empty(t, w.journals())
}

// So does one that is renamed before its hook is done with it: the host's IPv6 is off.
func TestVLANRenamedWhileItIsMade(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.dump()
	renameBefore(t, w, "set alias", "nica.100", "lan0")
	doc := domain(uuidA, "", direct(mac1, "nica.100", "bridge"))
	w.must(step.Prepare, doc)
	found, err := w.kernel.ByName(t.Context(), "nica.100")
	require.NoError(t, err)
	require.Equal(t, "lan0", found.Name)
	require.True(t, found.Up)
	require.True(t, w.kernel.NoIPv6[found.Index])
	w.must(step.Release, doc)
	require.Equal(t, before, w.dump())
}

// Somebody else's VLAN of that number is his: it keeps its name alone, and the error says it.
func TestVLANOfSomebodyElseKeepsItsName(t *testing.T) {
	w := newWorld(t, "", "nica")
	parent, err := w.kernel.ByName(t.Context(), "nica")
	require.NoError(t, err)
	w.kernel.Add(link.Link{Name: "storage", Kind: "vlan", VLANID: 100, Parent: parent.Index, Up: true})
	before := w.dump()
	_, err = w.run(step.Prepare, domain(uuidA, vfWords(mac1, "allmulticast='yes'"), direct(mac1, "nica.100", "bridge")))
	require.ErrorContains(t, err, "VLAN 100 of nica is there under the name storage: name that as source")
	require.ErrorIs(t, err, link.ErrExists)
	require.Equal(t, before, w.dump())
}

// libvirt opens a macvtap by its name in sysfs, which knows no alternative ones.
func TestMacvtapRenamedWhileItIsMade(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.dump()
	renameBefore(t, w, "set alias", "ldt0", "lan0")
	doc := domain(uuidA, vfWords(mac1, "own='hook' dev='nica' mode='bridge'"), owned(mac1, "ldt0"))
	w.must(step.Prepare, doc)
	found, err := w.kernel.ByName(t.Context(), "ldt0")
	require.NoError(t, err)
	require.Equal(t, "ldt0", found.Name)
	w.must(step.Release, doc)
	require.Equal(t, before, w.dump())
}

// renameBefore renames a device in the moment before the hook does something to it.
func renameBefore(t *testing.T, w *world, op, name, to string) {
	t.Helper()
	w.kernel.Gate = func(p hooktest.Point) error {
		if p.Change && p.Op == op && p.What == name {
			l, err := w.kernel.ByName(context.Background(), name)
			if err != nil {
				return err
			}
			w.kernel.Links[l.Index].Name = to
		}
		return nil
	}
}
