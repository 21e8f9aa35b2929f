package hooks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/vdp"
	"libvirt-direct/xmlfilter"
)

const instance = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"

func qbg(manager string) string {
	return fmt.Sprintf("<virtualport type='802.1Qbg'><parameters managerid='%s' typeid='0x123456' typeidversion='2' instanceid='%s'/></virtualport>", manager, instance)
}

// vsi is the VSI that is associated on a port; there is one at most.
func (w *world) vsi(port string) vdp.VSI {
	for at, v := range w.station.Held {
		if strings.HasPrefix(at, port+" ") {
			return v
		}
	}
	return vdp.VSI{}
}

// ownedVSI is a hook-owned NIC with 802.1Qbg, as rewrite leaves it.
func ownedVSI(t *testing.T, w *world) string {
	t.Helper()
	d, err := xmlfilter.Parse([]byte(domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook'/>", direct(mac1, "nica.100", "vepa", qbg("11")))))
	require.NoError(t, err)
	host, err := Survey(context.Background(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(t, err)
	changes, err := plan.Rewrite(d, w.cfg, host)
	require.NoError(t, err)
	doc, err := d.Rewrite(changes)
	require.NoError(t, err)
	return string(doc)
}

func TestHookOwnedVSIIsAssociatedAndTakenBack(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.kernel.Dump()
	w.station.Waiting = 2
	doc := ownedVSI(t, w)
	w.must(step.Prepare, doc)
	v := w.vsi("nica")
	require.Equal(t, instance, v.ID.String())
	require.Equal(t, vdp.ManagerID{11}, v.Manager)
	require.Equal(t, uint32(0x123456), v.TypeID)
	require.Equal(t, []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 0, 0, 1}, VID: 100}}, v.Filters)
	w.must(step.Stopped, doc)
	require.Empty(t, w.station.Held)
	w.must(step.Release, doc)
	require.Equal(t, before, w.kernel.Dump())
	require.Empty(t, w.journals())
}

func TestRefusalOfTheSwitchStopsTheStart(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.kernel.Dump()
	doc := ownedVSI(t, w)
	w.station.Refuse = &vdp.RefusedError{Edition: vdp.EditionDraft, Status: vdp.ReasonNoResources}
	_, err := w.run(step.Prepare, doc)
	require.ErrorContains(t, err, "insufficient resources")
	require.Equal(t, before, w.kernel.Dump())
	require.Empty(t, w.journals())

	w.station.Absent = step.ErrNoStation
	_, err = w.run(step.Prepare, doc)
	require.ErrorIs(t, err, step.ErrNoStation)
	require.Equal(t, before, w.kernel.Dump())
}

func TestStationThatIsGoneDoesNotHoldUpTheEnd(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.kernel.Dump()
	doc := ownedVSI(t, w)
	w.must(step.Prepare, doc)
	w.station.Absent = step.ErrNoStation
	w.must(step.Stopped, doc)
	w.must(step.Release, doc)
	require.Equal(t, before, w.kernel.Dump())
}

func TestAssistedVSIWaitsForTheSwitch(t *testing.T) {
	w := newWorld(t, "deadline='300ms'", "nica")
	doc := domain(uuidA, "", direct(mac1, "nica.100", "vepa", qbg("11")))
	w.station.Waiting = 1
	w.must(step.Prepare, doc)
	require.Empty(t, w.station.Held, "libvirt associates it")
	w.must(step.Release, doc)
	w.station.Waiting = 1 << 30
	before := w.kernel.Dump()
	_, err := w.run(step.Prepare, doc)
	require.True(t, errors.Is(err, step.ErrNotYet), "%v", err)
	require.Equal(t, before, w.kernel.Dump())
}

// libvirt refuses 802.1Qbg on hostdev NICs; the hook associates the VF instead.
func TestHostdevVSI(t *testing.T) {
	w := newWorld(t, "", "enp3")
	w.kernel.AddVFs("enp3", 2)
	doc := domain(uuidA, "", hostdev(mac1, "1", "<vlan><tag id='42'/></vlan>"+qbg("11")))
	_, err := w.run(step.Prepare, doc)
	require.ErrorIs(t, err, plan.ErrNotRewritten)

	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(t, err)
	host, err := Survey(context.Background(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(t, err)
	changes, err := plan.Rewrite(d, w.cfg, host)
	require.NoError(t, err)
	out, err := d.Rewrite(changes)
	require.NoError(t, err)
	after, err := xmlfilter.Parse(out)
	require.NoError(t, err)
	require.Nil(t, after.NICs[0].VirtualPort)
	back, err := after.Undo()
	require.NoError(t, err)
	require.Equal(t, doc, string(back))

	w.must(step.Prepare, string(out))
	require.Empty(t, w.station.Held)
	w.must(step.Start, string(out))
	require.Equal(t, uint16(42), w.vsi("enp3").Filters[0].VID)
	w.must(step.Stopped, string(out))
	require.Empty(t, w.station.Held)
	w.must(step.Release, string(out))
	require.Empty(t, w.journals())
}
