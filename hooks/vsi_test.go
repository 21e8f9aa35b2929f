package hooks

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/xmlfilter"
)

const instance = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"

func qbg(manager string) string {
	return fmt.Sprintf("<virtualport type='802.1Qbg'><parameters managerid='%s' typeid='0x123456' typeidversion='2' instanceid='%s'/></virtualport>", manager, instance)
}

// fakeSwitch is a station and the switch behind it.
type fakeSwitch struct {
	absent  error // the station does not run
	waiting int   // how often the switch is not ready yet
	refuse  error
	held    map[string]vdp.VSI
}

func (f *fakeSwitch) open(context.Context) (Station, func(), error) {
	if f.absent != nil {
		return nil, nil, f.absent
	}
	return f, func() {}, nil
}

func (f *fakeSwitch) Ready(context.Context, string) error {
	if f.waiting > 0 {
		f.waiting--
		return ErrNotYet
	}
	return nil
}

func (f *fakeSwitch) Associate(_ context.Context, port string, v vdp.VSI) error {
	if f.refuse != nil {
		return f.refuse
	}
	if f.held == nil {
		f.held = map[string]vdp.VSI{}
	}
	f.held[port] = v
	return nil
}

func (f *fakeSwitch) DeAssociate(_ context.Context, port string, _ vdp.VSI) error {
	delete(f.held, port)
	return nil
}

// ownedVSI is a hook-owned NIC with 802.1Qbg, as rewrite leaves it.
func ownedVSI(t *testing.T, w *world) string {
	t.Helper()
	d, err := xmlfilter.Parse([]byte(domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook'/>", direct(mac1, "nica.100", "vepa", qbg("11")))))
	require.NoError(t, err)
	host, err := Survey(context.Background(), w.kernel, w.cfg, d)
	require.NoError(t, err)
	changes, err := Rewrite(d, w.cfg, host, true)
	require.NoError(t, err)
	doc, err := d.Rewrite(changes)
	require.NoError(t, err)
	return string(doc)
}

func TestHookOwnedVSIIsAssociatedAndTakenBack(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.kernel.dump()
	w.swtch.waiting = 2
	doc := ownedVSI(t, w)
	w.must(Prepare, doc)
	v := w.swtch.held["nica"]
	require.Equal(t, instance, v.ID.String())
	require.Equal(t, vdp.ManagerID{11}, v.Manager)
	require.Equal(t, uint32(0x123456), v.TypeID)
	require.Equal(t, []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 0, 0, 1}, VID: 100}}, v.Filters)
	w.must(Stopped, doc)
	require.Empty(t, w.swtch.held)
	w.must(Release, doc)
	require.Equal(t, before, w.kernel.dump())
	require.Empty(t, w.journals())
}

func TestRefusalOfTheSwitchStopsTheStart(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.kernel.dump()
	doc := ownedVSI(t, w)
	w.swtch.refuse = &vdp.RefusedError{Edition: vdp.EditionDraft, Status: vdp.ReasonNoResources}
	_, err := w.run(Prepare, doc)
	require.ErrorContains(t, err, "insufficient resources")
	require.Equal(t, before, w.kernel.dump())
	require.Empty(t, w.journals())

	w.swtch.absent = ErrNoStation
	_, err = w.run(Prepare, doc)
	require.ErrorIs(t, err, ErrNoStation)
	require.Equal(t, before, w.kernel.dump())
}

func TestStationThatIsGoneDoesNotHoldUpTheEnd(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.kernel.dump()
	doc := ownedVSI(t, w)
	w.must(Prepare, doc)
	w.swtch.absent = ErrNoStation
	w.must(Stopped, doc)
	w.must(Release, doc)
	require.Equal(t, before, w.kernel.dump())
}

func TestAssistedVSIWaitsForTheSwitch(t *testing.T) {
	w := newWorld(t, "deadline='300ms'", "nica")
	doc := domain(uuidA, "", direct(mac1, "nica.100", "vepa", qbg("11")))
	w.swtch.waiting = 1
	w.must(Prepare, doc)
	require.Empty(t, w.swtch.held, "libvirt associates it")
	w.must(Release, doc)
	w.swtch.waiting = 1 << 30
	before := w.kernel.dump()
	_, err := w.run(Prepare, doc)
	require.True(t, errors.Is(err, ErrNotYet), "%v", err)
	require.Equal(t, before, w.kernel.dump())
}

// libvirt refuses 802.1Qbg on hostdev NICs; the hook associates the VF instead.
func TestHostdevVSI(t *testing.T) {
	w := newWorld(t, "", "enp3")
	w.kernel.addVFs("enp3", 2)
	doc := domain(uuidA, "", hostdev(mac1, "1", "<vlan><tag id='42'/></vlan>"+qbg("11")))
	_, err := w.run(Prepare, doc)
	require.ErrorIs(t, err, ErrNotRewritten)

	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(t, err)
	host, err := Survey(context.Background(), w.kernel, w.cfg, d)
	require.NoError(t, err)
	changes, err := Rewrite(d, w.cfg, host, true)
	require.NoError(t, err)
	out, err := d.Rewrite(changes)
	require.NoError(t, err)
	after, err := xmlfilter.Parse(out)
	require.NoError(t, err)
	require.Nil(t, after.NICs[0].VirtualPort)
	back, err := after.Undo()
	require.NoError(t, err)
	require.Equal(t, doc, string(back))

	w.must(Prepare, string(out))
	require.Empty(t, w.swtch.held)
	w.must(Start, string(out))
	require.Equal(t, uint16(42), w.swtch.held["enp3"].Filters[0].VID)
	w.must(Stopped, string(out))
	require.Empty(t, w.swtch.held)
	w.must(Release, string(out))
	require.Empty(t, w.journals())
}
