package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpd/internal/uplink"
	"libvirt-direct/vdp/vdptest"
)

// serveControl gives a bench a control socket, and lets its time pass.
func serveControl(t *testing.T, b *bench, options ...func(*controlSocket)) (*control.Client, string) {
	path := filepath.Join(t.TempDir(), "control")
	s, err := listenControl(path, "", b.d)
	require.NoError(t, err)
	s.gid = os.Getgid()
	for _, o := range options {
		o(s)
	}
	b.d.work = make(chan func(time.Time))
	ctx, cancel := context.WithCancel(context.Background())
	served, ran := make(chan error), make(chan struct{})
	go func() { served <- s.serve(ctx) }()
	go func() {
		defer close(ran)
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case f := <-b.d.work:
				f(b.now)
			case <-tick.C:
				b.run(50 * time.Millisecond)
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-served, context.Canceled)
		<-ran
	})
	return control.NewClient(path), path
}

func TestControl(t *testing.T) {
	for _, ed := range []vdp.Edition{vdp.EditionDraft, vdp.Edition2012} {
		t.Run(ed.String(), func(t *testing.T) {
			b := newBench(t, ed)
			c, _ := serveControl(t, b)
			on := func(f func()) { b.d.do(t.Context(), func(time.Time) { f() }) }
			ctx := t.Context()
			v := testVSI(1)

			require.ErrorIs(t, c.Ready(ctx, "eth0"), vdp.ErrNoLink)
			require.ErrorIs(t, c.Ready(ctx, "eth7"), control.ErrUnknownUplink)
			_, err := c.Associate(ctx, "eth0", v)
			require.EqualError(t, err, "associate VSI fa000000-0000-0000-0000-000000000001 on eth0: uplink is down")
			require.ErrorIs(t, err, vdp.ErrNoLink)

			sub, err := c.Subscribe(ctx)
			require.NoError(t, err)
			defer sub.Close()
			on(func() { b.d.apply(b.now, b.p, b.p.link(b.now, true)) })
			got, err := c.Associate(ctx, "eth0", v)
			require.NoError(t, err)
			require.Equal(t, v, got)
			require.NoError(t, c.Ready(ctx, "eth0"))
			_, err = c.PreAssociate(ctx, "eth0", v)
			require.ErrorIs(t, err, vdp.ErrDowngrade)

			e, err := sub.Next()
			require.NoError(t, err)
			require.Equal(t, "neighbor", e.Type)
			e, err = sub.Next()
			require.NoError(t, err)
			require.Equal(t, [3]string{"established", "associate", v.ID.String()}, [3]string{e.Type, e.Mode, e.VSI.ID})

			list, err := c.List(ctx, "")
			require.NoError(t, err)
			require.Equal(t, []control.VSIStatus{{
				Uplink: "eth0", VSI: control.FromVDP(&v), Mode: "associate", Have: "associate", State: "established",
				Owner: control.OwnerHand,
			}}, list)
			one, err := c.Show(ctx, v.ID)
			require.NoError(t, err)
			require.Equal(t, list, one)
			_, err = c.Show(ctx, testVSI(9).ID)
			require.ErrorIs(t, err, vdp.ErrUnknownVSI)

			status, err := c.Status(ctx)
			require.NoError(t, err)
			require.Len(t, status, 1)
			u := status[0]
			require.Equal(t, ed.String(), u.Edition)
			require.Equal(t, &control.Switch{
				Source: "02:bb:00:00:00:00", Chassis: "02:bb:00:00:00:00", Port: "02:bb:00:00:00:00", ReflectiveRelay: true,
			}, u.Switch)
			require.Equal(t, [2]int{1, 1}, [2]int{u.VSIs, u.Established})
			require.NotZero(t, u.Sent.ECP)
			require.NotZero(t, u.Received.LLDP)
			if ed == vdp.EditionDraft {
				require.Equal(t, &control.Timers{ECPAck: 500, ECPRetries: 2, Answer: 3000, Keepalive: 10000}, u.Timers)
			}

			on(func() { b.drop(v.ID) })
			var types []string
			for range 2 {
				e, err = sub.Next()
				require.NoError(t, err)
				if types = append(types, e.Type); e.Type == "lost" {
					require.ErrorIs(t, e.Error, vdp.ErrBridgeDeassociated)
				}
			}
			// The bridge in memory answers before the daemon records the loss.
			require.ElementsMatch(t, []string{"lost", "established"}, types)

			require.NoError(t, c.DeAssociate(ctx, "", v.ID))
			require.ErrorIs(t, c.DeAssociate(ctx, "eth0", v.ID), vdp.ErrUnknownVSI)
			on(func() {
				b.br.Answer = func(vdp.Message) vdptest.Reply { return vdptest.Reply{Status: vdp.ReasonNoResources} }
			})
			_, err = c.Associate(ctx, "eth0", v)
			var refused *vdp.RefusedError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, vdp.ReasonNoResources, refused.Status.Reason())
			require.ErrorContains(t, err, "refused by the switch: insufficient resources")

			on(func() { b.br.NoAck = true })
			_, err = c.Associate(ctx, "eth0", v)
			require.ErrorIs(t, err, vdp.ErrNoAnswer)
		})
	}
}

// drop lets the bridge de-associate a VSI by itself.
func (b *bench) drop(id vdp.ID) {
	for _, f := range b.br.DeAssociate(b.now, id) {
		b.d.frames(b.now, b.p, uplink.Frames{Arrived: [][]byte{f}}, nil)
	}
}

// The switch chooses the VID of a VSI that asks for none, and a VSI that is
// asked for with other parameters replaces the old one.
func TestControlReplaces(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	b.br.Answer = func(vdp.Message) vdptest.Reply { return vdptest.Reply{VID: 77} }
	c, _ := serveControl(t, b)
	b.d.do(t.Context(), func(time.Time) { b.d.apply(b.now, b.p, b.p.link(b.now, true)) })
	v := testVSI(1)
	v.Filters[0].VID = 0
	got, err := c.Associate(t.Context(), "eth0", v)
	require.NoError(t, err)
	require.Equal(t, uint16(77), got.Filters[0].VID)
	v.Manager = vdp.ManagerID{1, 2, 15: 3}
	v.Filters[0].MAC[5]++
	got, err = c.PreAssociateRR(t.Context(), "eth0", v)
	require.NoError(t, err)
	require.Equal(t, v.Filters[0].MAC, got.Filters[0].MAC)
	require.Equal(t, v.Manager, got.Manager)
}

func TestControlBadRequests(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	c, path := serveControl(t, b)
	const vsi = `"vsi":{"id":"fa000000-0000-0000-0000-000000000001","manager":12,"type":1,"version":1,"filters":[{"mac":"52:54:00:00:00:01","vid":100}]}`
	for in, want := range map[string]string{
		`{}`:                                 `bad request: unknown op ""`,
		`null`:                               `bad request: unknown op ""`,
		`{"op":"reboot"}`:                    `bad request: unknown op "reboot"`,
		`{"op":"list"`:                       "bad request: unexpected EOF",
		`{"op":"list"} {}`:                   "bad request: more than one value in a line",
		`{"op":"list","x":1}`:                `bad request: json: unknown field "x"`,
		`{"op":"status","uplink":"eth0"}`:    "bad request: status: takes no uplink",
		`{"op":"show"}`:                      "bad request: show: id wanted: true",
		`{"op":"show","id":"1"}`:             `UUID "1": value out of range`,
		`{"op":"list","uplink":"eth1"}`:      "not an uplink of vdpd: add it to vdpd.toml",
		`{"op":"associate",` + vsi + `}`:     "bad request: associate: no uplink",
		`{"op":"associate","uplink":"eth0"}`: "bad request: associate: vsi wanted: true",
		`{"op":"deassociate",` + vsi + `}`:   "bad request: deassociate: id wanted: true",
		`{"op":"associate","uplink":"eth0",` + strings.Replace(vsi, "100", "4095", 1) + `}`:                  "VSI fa000000-0000-0000-0000-000000000001: VID 4095: value out of range",
		`{"op":"associate","uplink":"eth0",` + strings.Replace(vsi, "12", "256", 1) + `}`:                    "bad request: json: cannot unmarshal number 256 into Go struct field VSI.vsi.manager of type uint8",
		`{"op":"associate","uplink":"eth0",` + strings.Replace(vsi, "52:54:", "", 1) + `}`:                   `bad request: MAC address "00:00:00:01"`,
		`{"op":"associate","uplink":"eth0",` + strings.Replace(vsi, `[{"mac"`, `[{"vid":1},{"mac"`, 1) + `}`: "bad request: filters with different fields",
		strings.Repeat(" ", control.MaxRequest+2):                                                            "bad request: longer than 16384 octets",
	} {
		conn, err := net.Dial("unix", path)
		require.NoError(t, err)
		_, err = conn.Write([]byte(in + "\n"))
		require.NoError(t, err)
		line, err := bufio.NewReader(conn).ReadBytes('\n')
		require.NoError(t, err, in)
		conn.Close()
		var r control.Reply
		require.NoError(t, json.Unmarshal(line, &r))
		require.NotNil(t, r.Error, in)
		require.Equal(t, want, r.Error.Message, in)
	}
	require.Empty(t, b.p.results.byID, "nothing was changed")

	// Clients that say nothing hold up nobody, up to a number.
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	connect := func() {
		conn, err := net.Dial("unix", path)
		require.NoError(t, err)
		idle = append(idle, conn)
	}
	for range maxClients {
		connect()
		if len(idle) == maxClients/2 {
			_, err := c.Status(t.Context())
			require.NoError(t, err)
		}
	}
	require.Eventually(t, func() bool {
		_, err := c.Status(t.Context())
		if err == nil {
			connect() // one was refused before the Status above had gone
		}
		return errors.Is(err, control.ErrOverflow)
	}, 30*time.Second, 10*time.Millisecond)
}

// A subscriber that does not read is dropped, and holds up nobody.
func TestControlSlowSubscriber(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	c, _ := serveControl(t, b)
	sub, err := c.Subscribe(t.Context())
	require.NoError(t, err)
	defer sub.Close()
	// The socket takes some, then the channel.
	e := vdp.Event{Type: vdp.EventLost, VSI: testVSI(1), Mode: vdp.Associate, Err: vdp.ErrNoLink}
	b.d.do(t.Context(), func(time.Time) {
		for range 20 * maxPending {
			b.d.publish(b.p, &e)
		}
		require.Empty(t, b.d.subscribers)
	})
	n := 0
	for ; err == nil; n++ {
		_, err = sub.Next()
	}
	require.ErrorIs(t, err, control.ErrOverflow)
	require.Greater(t, n, maxPending)
}

// Clients that never read, an answer or events, are dropped with one line each.
func TestControlClientNeverReads(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	log := new(lockedBuffer)
	b.d.log = slog.New(slog.NewTextHandler(log, nil))
	c, path := serveControl(t, b, func(s *controlSocket) { s.writeTimeout = 20 * time.Millisecond })
	b.d.do(t.Context(), func(time.Time) {
		p := newPort(Uplink{Name: "many"}, uplinkState{}, b.d.log)
		b.d.ports = append(b.d.ports, p)
		for i := range 4000 {
			p.keep(kept{VSI: manyVSIs(i), Mode: vdp.Associate})
		}
	})
	for _, request := range []string{`{"op":"list"}`, `{"op":"subscribe"}`} {
		conn, err := net.Dial("unix", path)
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte(strings.Repeat(request+"\n", 10)))
		require.NoError(t, err)
	}
	dropped := func() int { return strings.Count(log.String(), "control client dropped") }
	e := vdp.Event{Type: vdp.EventLost, VSI: testVSI(1), Mode: vdp.Associate, Err: vdp.ErrNoLink}
	require.Eventually(t, func() bool {
		b.d.do(t.Context(), func(time.Time) {
			for range 100 {
				b.d.publish(b.p, &e)
			}
		})
		return dropped() == 2
	}, 30*time.Second, time.Millisecond, "%s", log)
	require.Contains(t, log.String(), fmt.Sprint("pid=", os.Getpid()))
	_, err := c.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, dropped())
}

// A list of many VSIs, which takes several lines, is whole, in the order of
// uplinks and ids.
func TestControlListOfMany(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	c, _ := serveControl(t, b)
	var want []string
	b.d.do(t.Context(), func(time.Time) {
		for n := range 3 {
			p := newPort(Uplink{Name: fmt.Sprint("many", n)}, uplinkState{}, b.d.log)
			b.d.ports = append(b.d.ports, p)
			b.d.cfg.Uplinks = append(b.d.cfg.Uplinks, p.cfg)
			for i := range 2*listLine - 10*n {
				p.keep(kept{VSI: manyVSIs(i), Mode: vdp.Associate})
				want = append(want, p.cfg.Name+" "+manyVSIs(i).ID.String())
			}
		}
	})
	for _, uplink := range []string{"", "many1"} {
		l, err := c.List(t.Context(), uplink)
		require.NoError(t, err)
		var got []string
		for _, v := range l {
			got = append(got, v.Uplink+" "+v.VSI.ID)
		}
		if uplink != "" {
			want = want[2*listLine : 4*listLine-10]
		}
		require.True(t, slices.Equal(want, got), "%d of %d", len(got), len(want))
	}
	l, err := c.Show(t.Context(), manyVSIs(7).ID)
	require.NoError(t, err)
	require.Len(t, l, 3)
	l, err = c.List(t.Context(), "eth0")
	require.NoError(t, err)
	require.Empty(t, l)
}

// A lockedBuffer is a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestControlSocketOfAnother(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	_, path := serveControl(t, b)
	_, err := listenControl(path, "", b.d)
	require.ErrorIs(t, err, ErrRival)
	_, err = listenControl(filepath.Join(t.TempDir(), "c"), "no such group", b.d)
	require.ErrorIs(t, err, ErrConfig)

	// What a crash leaves is replaced.
	stale := filepath.Join(t.TempDir(), "c")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	l.Close()
	s, err := listenControl(stale, "", b.d)
	require.NoError(t, err)
	s.l.Close()
	_, err = control.NewClient(stale).Status(t.Context())
	require.ErrorIs(t, err, control.ErrNoDaemon)
}

// What ends a request, and what is another's event or one on the way.
func TestWatchFor(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	other := newPort(Uplink{Name: "eth1"}, uplinkState{}, b.d.log)
	v, held := testVSI(1), testVSI(2)
	_, _, err := b.p.ask(b.now, vdp.Associate, held)
	require.NoError(t, err)
	for _, c := range []struct {
		name  string
		p     *port
		e     vdp.Event
		m     vdp.Mode
		wants *outcome // nil: it goes on watching
	}{
		{"granted", b.p, vdp.Event{Type: vdp.EventEstablished, VSI: v}, vdp.Associate, &outcome{vsi: v}},
		{"refused", b.p, vdp.Event{Type: vdp.EventFailed, VSI: v, Err: vdp.ErrNoLink}, vdp.PreAssociate, &outcome{err: vdp.ErrNoLink}},
		{"removed instead", b.p, vdp.Event{Type: vdp.EventRemoved, VSI: v}, vdp.Associate, &outcome{err: vdp.ErrUnknownVSI}},
		{"gone as wanted", b.p, vdp.Event{Type: vdp.EventRemoved, VSI: v}, vdp.DeAssociate, &outcome{}},
		{"made way for the request", b.p, vdp.Event{Type: vdp.EventRemoved, VSI: held}, vdp.Associate, nil},
		{"granted to the request before", b.p, vdp.Event{Type: vdp.EventEstablished, VSI: v}, vdp.DeAssociate, nil},
		{"refused to the request before", b.p, vdp.Event{Type: vdp.EventFailed, VSI: v, Err: vdp.ErrNoLink}, vdp.DeAssociate, nil},
		{"lost", b.p, vdp.Event{Type: vdp.EventLost, VSI: v}, vdp.Associate, nil},
		{"another port", other, vdp.Event{Type: vdp.EventEstablished, VSI: v}, vdp.Associate, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			ended := make(chan outcome, 1)
			require.Equal(t, c.wants == nil, watchFor(c.e.VSI.ID, b.p, c.m, ended)(c.p, &c.e))
			if c.wants == nil {
				require.Empty(t, ended)
				require.True(t, watchFor(vdp.ID{}, b.p, c.m, ended)(c.p, &c.e), "another VSI's event")
				return
			}
			require.Equal(t, *c.wants, <-ended)
		})
	}
}
