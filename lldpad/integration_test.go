//go:build integration

package lldpad_test

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/internal/poll"
	"libvirt-direct/lldpad"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdptest"
)

func TestMain(m *testing.M) { hosttest.Main(m) }

const (
	stationPort = "vs0"
	bridgePort  = "vb0"
)

// A site is a station with lldpad and a wire to a switch.
type site struct {
	*testing.T
	ctx             context.Context
	station, bridge *host.Peer
}

func newSite(t *testing.T) *site {
	hosttest.Require(t, "lldpad", "lldptool")
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Second)
	t.Cleanup(cancel)
	s := &site{T: t, ctx: ctx}
	s.station = hosttest.NewPeer(ctx, t, host.Options{Name: "station"})
	s.bridge = hosttest.NewPeer(ctx, t, host.Options{Name: "bridge"})
	require.NoError(t, host.Wire(ctx, s.station, stationPort, s.bridge, bridgePort))
	return s
}

// in runs f on a thread in a peer's namespaces of network and files. Sockets
// that f opens stay there.
func (s *site) in(p *host.Peer, f func() error) {
	s.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_FS)
		// Files last: the path of a namespace is the caller's.
		for _, ns := range []struct {
			name string
			kind int
		}{{"net", unix.CLONE_NEWNET}, {"mnt", unix.CLONE_NEWNS}} {
			if err == nil {
				err = setns(p.Path("/proc/1/ns/"+ns.name), ns.kind)
			}
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	require.NoError(s, <-done)
}

func setns(path string, kind int) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return unix.Setns(int(ns.Fd()), kind)
}

// A daemon is a lldpad.
type daemon struct {
	cmd *host.Cmd
	end chan struct{}
}

func (s *site) startLLDPAD(p *host.Peer) *daemon {
	s.Helper()
	d := &daemon{cmd: p.Command(s.ctx, "lldpad", "-t"), end: make(chan struct{})}
	require.NoError(s, d.cmd.Start())
	go func() { d.cmd.Wait(); close(d.end) }()
	s.Cleanup(d.kill)
	hosttest.Eventually(s, 25*time.Second, "lldpad", func() bool {
		_, err := p.Run(s.ctx, "lldptool", "ping")
		return err == nil
	})
	return d
}

func (d *daemon) kill() {
	d.cmd.Process.Kill()
	<-d.end
}

func (s *site) client() *lldpad.Client {
	s.Helper()
	var c *lldpad.Client
	s.in(s.station, func() (err error) {
		c, err = lldpad.Open(s.ctx)
		return err
	})
	s.Cleanup(func() { c.Close() })
	return c
}

// responder is our switch.
func (s *site) responder(c vdptest.Config) *vdptest.Server {
	s.Helper()
	c.MAC = vdp.MAC{2, 0xbb, 0, 0, 0, 1}
	var conn *packet.Conn
	s.in(s.bridge, func() error {
		ifi, err := net.InterfaceByName(bridgePort)
		if err == nil {
			conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
		}
		if err == nil {
			err = conn.SetPromiscuous(true)
		}
		return err
	})
	server := vdptest.NewServer(vdptest.NewBridge(c), conn, &packet.Addr{HardwareAddr: net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}})
	stop := server.Start()
	s.Cleanup(func() {
		if err := stop(); err != nil {
			s.Errorf("responder: %v", err)
		}
	})
	return server
}

func (s *site) check(c *lldpad.Client) lldpad.Report {
	s.Helper()
	r, err := c.Check(s.ctx, stationPort)
	require.NoError(s, err)
	return r
}

// until waits for a report with that error.
func (s *site) until(c *lldpad.Client, want error) lldpad.Report {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 25*time.Second)
	defer cancel()
	var r lldpad.Report
	err := poll.Until(ctx, 20*time.Millisecond, func() (bool, error) {
		r = s.check(c)
		return errors.Is(r.Err, want), nil
	})
	if err != nil {
		conf, _ := s.station.Run(s.ctx, "cat", "/var/lib/lldpad/lldpad.conf")
		s.Fatalf("want %v, have %+v: %v\n%s", want, r, err, conf)
	}
	return r
}

// mend runs the commands of a report as a person would.
func (s *site) mend(r lldpad.Report) {
	s.Helper()
	require.NotEmpty(s, r.Fix, "%v", r.Err)
	for _, line := range r.Fix {
		s.Logf("%v: %s", r.Err, line)
		out, err := s.station.Run(s.ctx, "sh", "-c", line)
		require.NoError(s, err, "%s: %s", line, out)
		require.NotContains(s, out, "Failed", line)
	}
}

func newVSI(t *testing.T, uuid string, vid uint16) vdp.VSI {
	t.Helper()
	id, err := vdp.ParseUUID(uuid)
	require.NoError(t, err)
	return vdp.VSI{
		ID: id, Manager: vdp.ManagerID{12}, TypeID: 0x123456, TypeVersion: 1, FilterFormat: vdp.FilterMACVID,
		Filters: []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 0x11, 0x22, byte(vid)}, VID: vid}},
	}
}

const (
	uuidA = "fa9b7fff-b0a0-4893-abcd-beef4ff18f8f"
	uuidB = "fa9b7fff-b0a0-4893-abcd-beef4ff18f90"
)

// startBridge2012 starts a lldpad as the switch. Its engine reads the role
// when it starts, and so the daemon is reloaded.
func (s *site) startBridge2012() *daemon {
	s.Helper()
	d := s.startLLDPAD(s.bridge)
	for _, args := range []string{"-L -i vb0 -g ncb adminStatus=rxtx", "-T -i vb0 -g ncb -V evb -c evbmode=bridge",
		"-T -i vb0 -g ncb -V evb -c evbrrcap=yes", "-T -i vb0 -g ncb -V evb -c enableTx=yes"} {
		_, err := s.bridge.Run(s.ctx, "lldptool", strings.Fields(args)...)
		require.NoError(s, err)
	}
	_, err := s.bridge.Run(s.ctx, "sh", "-c", "kill -HUP $(lldptool ping)")
	require.NoError(s, err)
	return d
}

// A second lldpad is the switch.
func TestBridge2012(t *testing.T) {
	s := newSite(t)
	s.in(s.station, func() error {
		r, err := lldpad.Check(s.ctx, stationPort)
		require.ErrorIs(t, r.Err, lldpad.ErrNoDaemon)
		require.NotEmpty(t, r.Fix)
		return err
	})
	bridge := s.startBridge2012()
	station := s.startLLDPAD(s.station)
	c := s.client()

	// The engine takes the port a second after lldpad's start.
	_, err := c.Associate(s.ctx, stationPort, newVSI(t, uuidA, 100))
	require.ErrorIs(t, err, lldpad.ErrPortNotConfigured)
	_, err = c.Associate(s.ctx, "lo", newVSI(t, uuidA, 100))
	require.ErrorIs(t, err, lldpad.ErrNoPort)
	_, err = c.Associate(s.ctx, "none", newVSI(t, uuidA, 100))
	require.ErrorIs(t, err, lldpad.ErrNoPort)
	s.mend(s.until(c, lldpad.ErrPortNotConfigured))
	r := s.until(c, nil)
	require.Equal(t, vdp.Edition2012, r.Edition)
	require.Equal(t, vdp.Edition2012, r.Switch)

	events, err := c.Events(s.ctx)
	require.NoError(t, err)
	defer events.Close()
	event := func(typ vdp.EventType, mode vdp.Mode, id vdp.ID) {
		t.Helper()
		ev, err := events.Next(s.ctx)
		require.NoError(t, err)
		require.NoError(t, ev.Err)
		require.Equal(t, typ, ev.Type)
		require.Equal(t, mode, ev.Mode)
		require.Equal(t, id, ev.VSI.ID)
	}

	a, b := newVSI(t, uuidA, 100), newVSI(t, uuidB, 200)
	start := time.Now()
	got, err := c.Associate(s.ctx, stationPort, a)
	require.NoError(t, err)
	t.Logf("associated in %v", time.Since(start))
	require.Equal(t, a, got)
	event(vdp.EventEstablished, vdp.Associate, a.ID)
	_, err = c.Associate(s.ctx, stationPort, a) // a refresh
	require.NoError(t, err)
	event(vdp.EventEstablished, vdp.Associate, a.ID)

	// lldpad could abort over these, and is not asked (trap 12).
	_, err = c.PreAssociate(s.ctx, stationPort, a)
	require.ErrorIs(t, err, vdp.ErrDowngrade)
	other := newVSI(t, uuidA, 101)
	_, err = c.Associate(s.ctx, stationPort, other)
	require.ErrorIs(t, err, lldpad.ErrConflict)
	_, err = c.Associate(s.ctx, stationPort, newVSI(t, uuidB, 1))
	require.ErrorIs(t, err, lldpad.ErrRejected)
	_, err = c.Associate(s.ctx, stationPort, newVSI(t, "00000000-0000-0000-abcd-beef4ff18f8f", 100))
	require.ErrorIs(t, err, lldpad.ErrRejected)

	_, err = c.PreAssociate(s.ctx, stationPort, b)
	require.NoError(t, err)
	event(vdp.EventEstablished, vdp.PreAssociate, b.ID)
	_, err = c.PreAssociateRR(s.ctx, stationPort, b)
	require.NoError(t, err)
	event(vdp.EventEstablished, vdp.PreAssociateRR, b.ID)

	list, err := c.Query(s.ctx, stationPort)
	require.NoError(t, err)
	require.Len(t, list, 2)
	b.Manager = vdp.ManagerID{} // not shown
	require.Equal(t, vdp.VSIStatus{VSI: b, Mode: vdp.PreAssociateRR, Have: vdp.PreAssociateRR, State: vdp.StateEstablished}, list[0])

	require.NoError(t, c.DeAssociate(s.ctx, stationPort, a))
	event(vdp.EventRemoved, vdp.DeAssociate, a.ID)
	require.ErrorIs(t, c.DeAssociate(s.ctx, stationPort, a), vdp.ErrUnknownVSI)

	// A restart forgets b, and only Events notices (trap 14).
	station.kill()
	_, err = c.Query(s.ctx, stationPort)
	require.ErrorIs(t, err, lldpad.ErrNoDaemon)
	require.ErrorIs(t, s.check(c).Err, lldpad.ErrNoDaemon)
	s.startLLDPAD(s.station)
	for err == nil || errors.Is(err, lldpad.ErrNoDaemon) {
		_, err = events.Next(s.ctx)
	}
	require.ErrorIs(t, err, lldpad.ErrRestarted)
	s.until(c, nil)
	list, err = c.Query(s.ctx, stationPort)
	require.NoError(t, err)
	require.Empty(t, list)
	_, err = c.Associate(s.ctx, stationPort, a)
	require.NoError(t, err)
	event(vdp.EventEstablished, vdp.Associate, a.ID)

	// The switch falls silent. Whoever does not wait can still take back: there are no
	// dead VSIs as over rtnetlink (trap 6).
	bridge.kill()
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second) // lldpad itself gives up after 15.75 s
	defer cancel()
	b = newVSI(t, uuidB, 200)
	_, err = c.Associate(ctx, stationPort, b)
	require.ErrorIs(t, err, vdp.ErrNoAnswer)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = c.Associate(s.ctx, stationPort, b)
	require.ErrorIs(t, err, lldpad.ErrBusy)
	require.NoError(t, c.DeAssociate(s.ctx, stationPort, b))
	require.ErrorIs(t, c.DeAssociate(s.ctx, stationPort, b), vdp.ErrUnknownVSI)
}

// Whom a line blames is the party at fault, each told from the others.
func TestHints(t *testing.T) {
	s := newSite(t)
	report := func() (r lldpad.Report) {
		s.in(s.station, func() (err error) {
			r, err = lldpad.Check(s.ctx, stationPort)
			return err
		})
		return r
	}
	const none = "lldpad does not run: systemctl start lldpad"
	require.EqualError(t, report().Err, none)

	// A daemon that cannot tidy up, and a program that has the number now.
	d := s.startLLDPAD(s.station)
	pid, err := s.station.Run(s.ctx, "cat", "/run/lldpad.pid")
	require.NoError(t, err)
	pid = strings.Trim(pid, "\x00\n ")
	d.kill()
	r := report()
	require.ErrorIs(t, r.Err, lldpad.ErrNoDaemon)
	require.ErrorIs(t, r.Err, lldpad.ErrStalePid)
	require.EqualError(t, r.Err, none+"; /run/lldpad.pid is left over: process "+pid+" is gone")
	other := s.station.Command(s.ctx, "sh", "-c", "echo $$ >/run/lldpad.pid; exec sleep 60")
	require.NoError(t, other.Start())
	s.Cleanup(func() { other.Process.Kill(); other.Wait() })
	hosttest.Eventually(s, 25*time.Second, "another program", func() bool { return strings.HasSuffix(report().Err.Error(), " is sleep") })
	require.Regexp(t, `^`+none+`; /run/lldpad.pid is left over: process \d+ is sleep$`, report().Err.Error())

	// One that may not be asked, for want of root.
	s.startLLDPAD(s.station)
	s.in(s.station, func() error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 { // of this thread alone
			return errno
		}
		_, err := lldpad.Check(s.ctx, stationPort)
		require.ErrorIs(t, err, lldpad.ErrPermission)
		require.ErrorIs(t, err, os.ErrPermission)
		require.EqualError(t, err, "check on "+stationPort+": lldpad may not be asked: permission denied: it takes requests from root only")
		return nil
	})

	// A port on which it is off, one that hears nothing, and one that hears no EVB.
	c := s.client()
	r = s.until(c, lldpad.ErrPortNotConfigured)
	s.mend(r)
	r = s.until(c, lldpad.ErrWaitingForSwitch)
	const yet = "no EVB TLV from the switch yet: "
	require.EqualError(t, r.Err, yet+"no LLDPDU: enable LLDP and EVB on the switch's port; see that nothing in between eats frames to 01:80:c2:00:00:00")
	require.Empty(t, r.Fix)
	s.startLLDPAD(s.bridge)
	_, err = s.bridge.Run(s.ctx, "lldptool", "-L", "-i", bridgePort, "-g", "ncb", "adminStatus=rxtx")
	require.NoError(t, err)
	hosttest.Eventually(s, 40*time.Second, "an LLDPDU without EVB", func() bool {
		r = s.check(c)
		require.ErrorIs(t, r.Err, lldpad.ErrWaitingForSwitch)
		return strings.Contains(r.Err.Error(), "arrive")
	})
	require.EqualError(t, r.Err, yet+"the LLDPDUs that arrive have none: enable EVB/VDP on the switch's port, for LLDP to 01:80:c2:00:00:00, which a bridge in between would eat")
}

// Our responder is the switch: what lldpad as a bridge never does.
func TestResponder2012(t *testing.T) {
	s := newSite(t)
	s.startLLDPAD(s.station)
	c := s.client()
	s.mend(s.until(c, lldpad.ErrPortNotConfigured)) // no switch to be seen: 2012
	s.until(c, lldpad.ErrWaitingForSwitch)
	start := time.Now()
	_, err := c.Associate(s.ctx, stationPort, newVSI(t, uuidA, 100))
	require.ErrorIs(t, err, lldpad.ErrWaitingForSwitch)
	require.Less(t, time.Since(start), 5*time.Second, "it waited for the switch")

	answer := vdptest.Reply{}
	server := s.responder(vdptest.Config{Edition: vdp.Edition2012, Answer: func(vdp.Message) vdptest.Reply { return answer }})
	reply := func(r vdptest.Reply) {
		require.NoError(t, server.Do(func(*vdptest.Bridge) [][]byte { answer = r; return nil }))
	}
	s.until(c, nil)
	events, err := c.Events(s.ctx)
	require.NoError(t, err)
	defer events.Close()

	v := newVSI(t, uuidA, 0)
	v.Manager = vdp.ManagerID{'1', '2', 0, 3} // lldpad cuts its events at the zero
	reply(vdptest.Reply{VID: 77})
	got, err := c.Associate(s.ctx, stationPort, v)
	require.NoError(t, err)
	require.Equal(t, uint16(77), got.Filters[0].VID)
	require.NoError(t, server.Do(func(b *vdptest.Bridge) [][]byte {
		require.Equal(t, v.Manager, b.Log[len(b.Log)-1].Message.VSI.Manager)
		return nil
	}))
	_, err = c.Associate(s.ctx, stationPort, v) // with VID 0 again
	require.NoError(t, err)

	require.NoError(t, server.Do(func(b *vdptest.Bridge) [][]byte { return b.DeAssociate(time.Now(), v.ID) }))
	for _, want := range []vdp.EventType{vdp.EventEstablished, vdp.EventEstablished, vdp.EventRemoved} {
		ev, err := events.Next(s.ctx)
		require.NoError(t, err)
		require.NoError(t, ev.Err)
		require.Equal(t, want, ev.Type)
		require.Equal(t, v.ID, ev.VSI.ID)
	}
	list, err := c.Query(s.ctx, stationPort)
	require.NoError(t, err)
	require.Empty(t, list)

	for _, status := range []vdp.Status{vdp.ReasonNoResources, vdp.ReasonNoManager | vdp.StatusHard} {
		reply(vdptest.Reply{Status: status})
		_, err = c.Associate(s.ctx, stationPort, newVSI(t, uuidB, 200))
		var refused *vdp.RefusedError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, status, refused.Status)
		require.Regexp(t, "^associate VSI "+uuidB+" on vs0: refused by the switch: ", err.Error())
		t.Log(err)
	}
}

// The draft, in libvirt's way.
func TestDraft(t *testing.T) {
	s := newSite(t)
	s.startLLDPAD(s.station)
	c := s.client()
	answer := vdptest.Reply{}
	server := s.responder(vdptest.Config{Edition: vdp.EditionDraft, Answer: func(vdp.Message) vdptest.Reply { return answer }})
	reply := func(r vdptest.Reply) {
		require.NoError(t, server.Do(func(*vdptest.Bridge) [][]byte { answer = r; return nil }))
	}
	// The switch's TLV is not seen while the port is off; the first remedy is
	// for the 2012 edition, and the second, once it is seen, for the draft.
	s.mend(s.until(c, lldpad.ErrPortNotConfigured))
	hosttest.Eventually(s, 25*time.Second, "the switch's draft TLV", func() bool { return s.check(c).Switch == vdp.EditionDraft })
	r := s.check(c)
	require.ErrorIs(t, r.Err, lldpad.ErrPortNotConfigured)
	require.Equal(t, vdp.Edition2012, r.Edition)
	reload := r.Fix[len(r.Fix)-1]
	r.Fix = r.Fix[:len(r.Fix)-1]
	require.Contains(t, reload, "kill -HUP")
	s.mend(r)
	r = s.until(c, lldpad.ErrNeedsReload)
	_, err := c.Associate(s.ctx, stationPort, newVSI(t, uuidA, 100))
	require.ErrorIs(t, err, lldpad.ErrNeedsReload) // trap 1
	s.mend(r)                                      // it has lived through the reload (trap 16)
	r = s.until(c, nil)
	require.Equal(t, vdp.EditionDraft, r.Edition)

	events, err := c.Events(s.ctx)
	require.NoError(t, err)
	defer events.Close()
	a, b := newVSI(t, uuidA, 100), newVSI(t, uuidB, 1)
	_, err = c.PreAssociate(s.ctx, stationPort, a)
	require.NoError(t, err)
	start := time.Now()
	_, err = c.Associate(s.ctx, stationPort, a)
	require.NoError(t, err)
	t.Logf("associated in %v", time.Since(start))
	_, err = c.PreAssociateRR(s.ctx, stationPort, b) // VLAN 1 is no problem here
	require.NoError(t, err)
	list, err := c.Query(s.ctx, stationPort)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, vdp.StateEstablished, list[0].State)
	require.NoError(t, server.Do(func(bridge *vdptest.Bridge) [][]byte {
		require.Equal(t, vdp.Associate, bridge.Mode(a.ID))
		require.Equal(t, vdp.PreAssociateRR, bridge.Mode(b.ID))
		require.Equal(t, a, bridge.Log[len(bridge.Log)-2].Message.VSI)
		return nil
	}))

	// Our own de-association is no event (trap 7); the switch's is, although lldpad
	// sleeps before (trap 9).
	require.NoError(t, c.DeAssociate(s.ctx, stationPort, b))
	require.NoError(t, server.Do(func(bridge *vdptest.Bridge) [][]byte { return bridge.DeAssociate(time.Now(), a.ID) }))
	ev, err := events.Next(s.ctx)
	require.NoError(t, err)
	require.Equal(t, vdp.Event{Type: vdp.EventLost, VSI: a, Err: vdp.ErrBridgeDeassociated}, ev)

	// A VSI that lldpad does not know is not asked for: it would stay for ever
	// (trap 4).
	require.ErrorIs(t, c.DeAssociate(s.ctx, stationPort, b), vdp.ErrUnknownVSI)
	list, err = c.Query(s.ctx, stationPort)
	require.NoError(t, err)
	require.Empty(t, list)

	var refused *vdp.RefusedError
	reply(vdptest.Reply{Status: vdp.ReasonDraftVTIDViolation})
	_, err = c.Associate(s.ctx, stationPort, a)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, vdp.ReasonDraftVTIDViolation, refused.Status)
	t.Log(err)

	// Refused and not asked for: lldptool does not wait (trap 5).
	_, err = s.station.Run(s.ctx, "lldptool", "-T", "-i", stationPort, "-g", "ncb", "-V", "vdp", "-c",
		"mode=2,12,1193046,1,"+uuidB+",2,52:54:00:c7:3e:ce,3")
	require.NoError(t, err)
	hosttest.Eventually(s, 25*time.Second, "refusal in the report", func() bool {
		r := s.check(c)
		return errors.As(r.Err, &refused) && strings.Contains(r.Err.Error(), uuidB)
	})
	require.NoError(t, s.check(c).Err, "asked for once, forgotten")

	reply(vdptest.Reply{Silent: true})
	start = time.Now()
	_, err = c.Associate(s.ctx, stationPort, a)
	require.ErrorIs(t, err, vdp.ErrNoAnswer)
	require.Greater(t, time.Since(start), 2*time.Second)

	// The link goes.
	_, err = s.bridge.Run(s.ctx, "ip", "link", "set", bridgePort, "down")
	require.NoError(t, err)
	_, err = c.Associate(s.ctx, stationPort, a)
	require.ErrorIs(t, err, lldpad.ErrNoLink)
}
