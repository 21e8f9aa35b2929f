package daemon

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdpnl"
	"libvirt-direct/vdp/vdptest"
)

func manyVSIs(i int) vdp.VSI {
	v := testVSI(1)
	v.ID.Octets[10], v.ID.Octets[11] = byte(i>>8), byte(i)
	v.Filters[0].MAC[3], v.Filters[0].MAC[4] = byte(i>>8), byte(i)
	return v
}

// What nobody reads back is forgotten when its time has come, without anybody
// asking for anything.
func TestResultsExpire(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	b.run(2 * time.Second)
	for i := range 100 {
		require.Zero(t, b.ask(vdp.Associate, manyVSIs(i)))
	}
	b.run(2 * time.Second)
	for i := range 90 {
		require.Zero(t, b.ask(vdp.DeAssociate, manyVSIs(i)))
		require.Zero(t, b.ask(vdp.DeAssociate, manyVSIs(1000+i)), "there was none")
	}
	b.run(2 * time.Second)
	require.Equal(t, 190, len(b.p.results.byID))
	b.run(resultTTL)
	require.Equal(t, 10, len(b.p.results.byID))
	require.Zero(t, b.p.results.ended.Len())
	require.Equal(t, 10, b.p.results.latest.Len())

	// A refusal that leaves a VSI as it was is no end of it.
	v := manyVSIs(2000)
	require.Zero(t, b.ask(vdp.PreAssociate, v))
	b.run(time.Second)
	b.br.Answer = func(m vdp.Message) vdptest.Reply {
		return vdptest.Reply{Status: map[bool]vdp.Status{true: vdp.ReasonNoResources | vdp.StatusKeep}[m.Mode == vdp.Associate]}
	}
	require.Zero(t, b.ask(vdp.Associate, v))
	b.run(time.Second)
	refused := uint16(vdp.ReasonNoResources | vdp.StatusKeep)
	b.expect(v, refused)
	b.run(resultTTL + time.Second)
	b.expect(v, refused)
}

func TestResultsAreBounded(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	b.run(2 * time.Second)
	require.Zero(t, b.ask(vdp.Associate, testVSI(2)))
	b.run(time.Second)
	for i := range 3 * maxEnded {
		require.Zero(t, b.ask(vdp.DeAssociate, manyVSIs(i)))
	}
	require.Equal(t, maxEnded+1, len(b.p.results.byID))
	b.expect(testVSI(2), 0)
	b.expect(manyVSIs(3*maxEnded-1), 0)
}

// libvirt reads the first message of an answer only: what was asked for last is
// in it, however many VSIs there are.
func TestGetLinkOfThousand(t *testing.T) {
	const n = 1000
	b := newBench(t, vdp.Edition2012)
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	b.run(2 * time.Second)
	getlink := func() (first, all []vdpnl.Port) {
		r := vdpnl.Request{Header: vdpnl.Header{Type: unix.RTM_GETLINK, Seq: 9}, Ifindex: 3}
		for i, m := range b.d.request(b.now, r.Marshal()) {
			require.LessOrEqual(t, len(m), vdpnl.MaxMessage)
			reply, err := vdpnl.ParseReply(m)
			require.NoError(t, err)
			require.Equal(t, uint32(9), reply.Seq)
			if all = append(all, reply.Ports...); i == 0 {
				first = reply.Ports
			}
		}
		return first, all
	}
	for i := range n {
		require.Zero(t, b.ask(vdp.Associate, manyVSIs(i)))
		if first, _ := getlink(); first[0] != (vdpnl.Port{ID: manyVSIs(i).ID}) {
			require.Equal(t, vdpnl.Port{ID: manyVSIs(i).ID, Done: true}, first[0])
		}
	}
	b.run(3 * time.Second)
	require.Zero(t, b.ask(vdp.Associate, manyVSIs(7)))
	b.run(time.Second)
	first, all := getlink()
	require.Equal(t, vdpnl.Port{ID: manyVSIs(7).ID, Done: true}, first[0])
	require.Less(t, len(first), n)
	require.Equal(t, n, len(all))
	slices.SortFunc(all, func(a, b vdpnl.Port) int { return slices.Compare(a.ID.Octets[:], b.ID.Octets[:]) })
	require.Equal(t, n, len(slices.Compact(all)))
}

// Ports are ticked when they are due and at no other time, in whatever order
// their deadlines come, change and go.
func TestDeadlines(t *testing.T) {
	var d deadlines
	now := time.Unix(1e9, 0)
	ports := make([]*port, 100)
	for i := range ports {
		ports[i] = new(port)
		d.set(ports[i], now.Add(time.Duration(i*7%100)*time.Second))
	}
	for i := range ports {
		switch i % 4 {
		case 0:
			d.set(ports[i], time.Time{})
			d.set(ports[i], time.Time{})
		case 1:
			d.set(ports[i], now.Add(time.Duration(200-i)*time.Second))
		case 2:
			d.set(ports[i], ports[i].due)
		}
	}
	require.Len(t, d, 75)
	require.Empty(t, d.take(d.next().Add(-1)))
	taken := 0
	for at := d.next(); !at.IsZero(); at = d.next() {
		for _, p := range d.take(at) {
			require.Equal(t, at, p.due)
			require.Zero(t, p.place)
			taken++
		}
	}
	require.Equal(t, 75, taken)
}
