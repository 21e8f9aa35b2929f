package daemon

import (
	"math/rand/v2"
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

// Deadlines come in order, however they were set, changed and taken back.
func TestDeadlines(t *testing.T) {
	var d deadlines
	start := time.Unix(1e9, 0)
	r := rand.New(rand.NewPCG(1, 2))
	ports, want := make([]*port, 50), make(map[*port]time.Time)
	for i := range ports {
		ports[i] = new(port)
	}
	for range 5000 {
		p := ports[r.IntN(len(ports))]
		if r.IntN(4) == 0 {
			delete(want, p)
		} else {
			want[p] = start.Add(time.Duration(r.IntN(100)))
		}
		d.set(p, want[p])
		require.Equal(t, len(want), len(d))
		for p, at := range want {
			require.Equal(t, deadline{at, p}, d[p.place-1])
		}
		at, first := d.next()
		require.Equal(t, len(want) == 0, first == nil)
		for _, other := range want {
			require.False(t, other.Before(at))
		}
	}
	for at, p := d.next(); p != nil; at, p = d.next() {
		require.False(t, at.Before(start))
		start = at
		d.set(p, time.Time{})
		require.Zero(t, p.place)
		delete(want, p)
	}
	require.Empty(t, want)
}

// A port that always has something to do keeps none from its turn.
func TestTickTakesTurns(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	busy := newPort(Uplink{Name: "busy"}, uplinkState{}, b.d.log)
	b.d.deadlines.set(busy, b.now.Add(-time.Second))
	busy.results.put(testVSI(1).ID, result{expires: b.now.Add(time.Hour)})
	b.d.deadlines.set(b.p, b.now)
	sent := b.p.sent
	b.d.tick(b.now.Add(time.Minute))
	require.NotEqual(t, sent, b.p.sent)
	require.Positive(t, b.d.wait(b.now))
}
