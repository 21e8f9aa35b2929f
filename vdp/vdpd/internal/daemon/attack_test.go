package daemon

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
)

// A switch that was there before the link went down is not in the state file any more.
func TestSwitchBeforeLinkDownIsNotKept(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	path := filepath.Join(t.TempDir(), "state.json")
	b.p.saver = newSaver(path, make(state), b.d.log)
	go b.p.saver.run()
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	b.run(3 * time.Second)
	require.NotNil(t, b.p.last)
	b.d.apply(b.now, b.p, b.p.link(b.now, false))
	b.p.saver.close()
	s, err := readState(path)
	require.NoError(t, err)
	require.Nil(t, s["eth0"].Neighbor)
	require.Equal(t, vdp.Edition2012, s["eth0"].Edition)
}

// What was taken back while it waited for a link behind another address is not asked for.
func TestTakenBackBehindAnotherAddress(t *testing.T) {
	d := newFollower("eth0")
	d.tell(t, aLink(3, "eth0"))
	p := d.ports[0]
	now := time.Unix(1e9, 0)
	_, _, err := p.ask(now, vdp.Associate, testVSI(1))
	require.NoError(t, err)
	other := aLink(3, "eth0")
	other.mac, other.up = vdp.MAC{2, 0xcc}, false
	d.tell(t, other)
	require.True(t, p.has(testVSI(1).ID))
	out, _, err := p.ask(now, vdp.DeAssociate, vdp.VSI{ID: testVSI(1).ID})
	require.NoError(t, err)
	d.apply(now, p, out)
	require.False(t, p.has(testVSI(1).ID))
	other.up = true
	d.tell(t, other)
	_, ok := p.st.VSI(testVSI(1).ID)
	require.False(t, ok, "nobody wants it")
}

// It goes on when the interface is made again.
func TestMadeAgainBehindAnotherAddress(t *testing.T) {
	d := newFollower("eth0")
	d.tell(t, aLink(3, "eth0"))
	p := d.ports[0]
	_, _, err := p.ask(time.Unix(1e9, 0), vdp.Associate, testVSI(1))
	require.NoError(t, err)
	other := aLink(3, "eth0")
	other.mac, other.up = vdp.MAC{2, 0xcc}, false
	d.tell(t, other)
	gone := other
	gone.removed = true
	d.tell(t, gone)
	back := aLink(3, "eth0")
	back.mac = vdp.MAC{2, 0xdd}
	d.tell(t, back)
	_, ok := p.st.VSI(testVSI(1).ID)
	require.True(t, ok)
}

type boundWire struct {
	fakeWire
	bound *bool
}

func (w boundWire) Bound() bool { return *w.bound }

// An interface that is listed as it was may have gone and come back: no socket is on it.
func TestSocketsLeftTheInterface(t *testing.T) {
	d := newFollower("eth0")
	var bound *bool
	d.wire = func(*linkInfo) (wire, error) { bound = new(true); return boundWire{bound: bound}, nil }
	d.tell(t, aLink(3, "eth0"))
	opened := d.ports[0].device.opened
	d.tell(t, aLink(3, "eth0"))
	require.Equal(t, opened, d.ports[0].device.opened)
	*bound = false
	d.tell(t, aLink(3, "eth0"))
	require.Equal(t, opened+1, d.ports[0].device.opened)
	d.at(t, 3)
}

// A configuration that fixes the edition which the switch does not speak is to blame, not the
// switch.
func TestFixedEditionIsBlamed(t *testing.T) {
	const silent = "the switch does not answer VDP requests"
	for fixed, want := range map[string]string{
		"draft": silent + `: it offers the 2012 edition, and vdpd.toml says edition = "draft"`,
		"2012":  silent,
	} {
		b := newBench(t, vdp.Edition2012)
		ed, err := vdp.ParseEdition(fixed)
		require.NoError(t, err)
		b.p.cfg.Edition = fixed
		b.p.st, err = vdp.NewStation(vdp.Config{MAC: b.p.mac, Edition: ed})
		require.NoError(t, err)
		b.br.NoAnswer = true
		b.d.apply(b.now, b.p, b.p.link(b.now, true))
		b.run(3 * time.Second)
		events := make(subscriber, 100)
		b.d.subscribe(events)
		require.Zero(t, b.ask(vdp.Associate, testVSI(1)))
		b.run(20 * time.Second)
		e := <-events
		require.Equal(t, "failed", e.Type)
		require.EqualError(t, e.Error, want)
	}
}
