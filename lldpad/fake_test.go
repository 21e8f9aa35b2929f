package lldpad

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
)

// A fake is a lldpad with the 2012 edition on port lo, in a script's hands.
type fake struct {
	*testing.T
	sock *net.UnixConn
	addr string

	mu     sync.Mutex
	script func(msg string) (replies []string, ok bool) // before the defaults
	asked  []string
	last   *net.UnixAddr
}

var fakes struct {
	sync.Mutex
	n int
}

func newFake(t *testing.T) *fake {
	t.Helper()
	fakes.Lock()
	fakes.n++
	f := &fake{T: t, addr: fmt.Sprintf("@libvirt-direct-test-%d-%d", os.Getpid(), fakes.n)}
	fakes.Unlock()
	f.listen()
	return f
}

func (f *fake) listen() {
	f.Helper()
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: f.addr, Net: "unixgram"})
	require.NoError(f, err)
	f.sock = sock
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 5000)
		for {
			n, from, err := sock.ReadFromUnix(buf)
			if err != nil {
				return
			}
			for _, reply := range f.answer(string(buf[:n]), from) {
				_, _ = sock.WriteToUnix([]byte(reply), from)
			}
		}
	}()
	f.Cleanup(func() { sock.Close(); <-done })
}

func (f *fake) answer(msg string, from *net.UnixAddr) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.last = append(f.asked, msg), from
	if f.script != nil {
		if replies, ok := f.script(msg); ok {
			return replies
		}
	}
	echo := ""
	if len(msg) > 9 {
		echo = msg[9:]
	}
	const config = "02lo" // in every echo
	head, _, _ := strings.Cut(echo, config)
	head += config
	switch {
	case msg == "P":
		return []string{"R00PPONG1"}
	case msg[0] == 'A', msg[0] == 'D':
		return []string{"R00" + msg[:1]}
	case strings.Contains(msg, "adminStatus"):
		return []string{"R00" + head + "0badminStatus0004rxtx"}
	case strings.HasPrefix(msg, "M00000001C30100000002") && strings.HasSuffix(msg, "0080c20d"):
		return []string{"R00" + head + "0080c20dfe090080c20d0305687434"}
	case strings.HasPrefix(msg, "M00000001C30100000001") && strings.HasSuffix(msg, "0080c20d"):
		return []string{"R00" + head + "0080c20dfe090080c20d030568b434"}
	case strings.HasPrefix(msg, "M00000001C30100000011") && strings.HasSuffix(msg, "0080c20d"):
		return []string{"R00" + head + "0080c20d07evbmode0007station08enableTx0003yes"}
	case strings.HasPrefix(msg, "M000080c4"):
		return []string{"R00" + head + strings.TrimPrefix(echo, head)[2:10]}
	}
	return []string{"R02" + head}
}

func (f *fake) client() *Client {
	f.Helper()
	c, err := open(context.Background(), f.addr, uint32(os.Getuid()))
	require.NoError(f, err)
	f.Cleanup(func() { c.Close() })
	return c
}

func (f *fake) on(prefix string, replies ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = func(msg string) ([]string, bool) { return replies, strings.HasPrefix(msg, prefix) }
}

const (
	setAssociate = "M000080c4C3020000011c02lo0200000003"
	setOK        = "R00C3020000011c02lo00000003"
)

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestNoDaemon(t *testing.T) {
	_, err := open(deadline(t, time.Second), "@libvirt-direct-test-nobody", 0)
	require.ErrorIs(t, err, ErrNoDaemon)
}

// Anybody may bind the address while lldpad does not run.
func TestImpostor(t *testing.T) {
	f := newFake(t)
	_, err := open(deadline(t, 5*time.Second), f.addr, uint32(os.Getuid())+1)
	require.ErrorIs(t, err, ErrImpostor)
}

func TestNotRoot(t *testing.T) {
	f := newFake(t)
	f.on("P", "R0a")
	_, err := open(deadline(t, 5*time.Second), f.addr, uint32(os.Getuid()))
	require.ErrorIs(t, err, ErrPermission)
	require.ErrorIs(t, err, os.ErrPermission)
}

// Each result of a request, as the event says it.
func TestResults(t *testing.T) {
	event := func(mode, hints string) string {
		return strings.NewReplacer("0005assoc", fmt.Sprintf("%04x%s", len(mode), mode), "05hints00010", fmt.Sprintf("05hints%04x%s", len(hints), hints),
			"E160094", fmt.Sprintf("E16%04x", 0x94-5+len(mode)-1+len(hints))).Replace(seenEvent)
	}
	for name, c := range map[string]struct {
		replies []string
		want    error
		status  vdp.Status
	}{
		"granted":              {[]string{setOK, event("assoc", "0")}, nil, 0},
		"event before reply":   {[]string{event("assoc", "0"), setOK}, nil, 0},
		"pending, granted":     {[]string{setOK, event("assoc", "255"), event("assoc", "0")}, nil, 0},
		"no answer":            {[]string{setOK, event("deassoc", "767")}, vdp.ErrNoAnswer, 0},
		"no ECP ack":           {[]string{setOK, event("deassoc", "1279")}, vdp.ErrNoAnswer, 0},
		"refused":              {[]string{setOK, event("deassoc", "2")}, nil, 2},
		"refused hard":         {[]string{setOK, event("deassoc", "83")}, nil, 0x13},
		"switch de-associates": {[]string{setOK, event("deassoc", "0")}, vdp.ErrBridgeDeassociated, 0},
		"busy":                 {[]string{"R0fC3020000011c02lo00000003"}, ErrBusy, 0},
		"bad parameters":       {[]string{"R05C3020000011c02lo00000003"}, ErrRejected, 0},
		"bridge":               {[]string{"R09C3020000011c02lo00000003"}, ErrNeedsReload, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			cl := f.client()
			f.on(setAssociate, c.replies...)
			v, err := cl.Associate(deadline(t, 5*time.Second), "lo", testVSI())
			var op *OpError
			switch {
			case c.status != 0:
				var refused *vdp.RefusedError
				require.ErrorAs(t, err, &refused)
				require.Equal(t, c.status, refused.Status)
				require.Contains(t, err.Error(), "refused by the switch: ")
			case c.want != nil:
				require.ErrorIs(t, err, c.want)
				require.ErrorAs(t, err, &op)
				require.Equal(t, "lo", op.Port)
			default:
				require.NoError(t, err)
				require.Equal(t, testVSI(), v)
			}
		})
	}
}

// lldpad sleeps when it indicates, and answers all the same (trap 9).
func TestSleepingDaemon(t *testing.T) {
	t.Parallel() // it waits
	f := newFake(t)
	c := f.client()
	f.on(setAssociate) // nothing for now
	asleep := time.AfterFunc(1500*time.Millisecond, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.sock.WriteToUnix([]byte(setOK), f.last)
		f.sock.WriteToUnix([]byte(seenEvent), f.last)
	})
	defer asleep.Stop()
	_, err := c.Associate(deadline(t, 10*time.Second), "lo", testVSI())
	require.NoError(t, err)
}

// The reply to a request that was given up is not taken for that to the next
// one, which may look the same.
func TestLateReply(t *testing.T) {
	f := newFake(t)
	c := f.client().conn
	f.on(setAssociate) // nothing
	set := command{module: moduleVDP22, verb: verbSetTLV, op: 0x11c, port: "lo", tlv: uint32(vdp.Associate)}
	_, err := c.do(deadline(t, 100*time.Millisecond), set)
	require.ErrorIs(t, err, ErrNoReply)

	f.mu.Lock()
	_, err = f.sock.WriteToUnix([]byte("R0f"+setOK[3:]), f.last)
	f.mu.Unlock()
	require.NoError(t, err)
	f.on(setAssociate, setOK)
	_, err = c.do(deadline(t, 5*time.Second), set)
	require.NoError(t, err)
}

// An event that was lost is asked for.
func TestLostEvent(t *testing.T) {
	t.Parallel() // it waits
	f := newFake(t)
	c := f.client()
	set := false
	f.mu.Lock()
	f.script = func(msg string) ([]string, bool) {
		switch {
		case strings.HasPrefix(msg, setAssociate):
			set = true
			return []string{setOK}, true
		case set && strings.HasPrefix(msg, "M000080c4C3010000001d02lo0200000003"):
			return []string{"R00C3010000001d02lo" + seenListing}, true
		}
		return nil, false
	}
	f.mu.Unlock()
	_, err := c.Associate(deadline(t, 5*time.Second), "lo", testVSI())
	require.NoError(t, err)
}

// A restart forgets all VSIs (trap 14).
func TestEventsRestart(t *testing.T) {
	t.Parallel() // it waits
	f := newFake(t)
	c := f.client()
	e, err := c.Events(deadline(t, time.Second))
	require.NoError(t, err)
	f.on("P", "R00PPONG2")
	_, err = e.Next(deadline(t, 10*time.Second))
	require.ErrorIs(t, err, ErrRestarted)
	f.mu.Lock()
	require.Equal(t, "A80c4", f.asked[len(f.asked)-1], "attached to the new one")
	f.mu.Unlock()
	require.NoError(t, e.Close())
	_, err = e.Next(deadline(t, time.Second))
	require.ErrorIs(t, err, ErrClosed)
}

func TestEventsOverflow(t *testing.T) {
	f := newFake(t)
	c := f.client()
	e, err := c.Events(deadline(t, time.Second))
	require.NoError(t, err)
	defer e.Close()
	for range 8 * queueLen {
		f.mu.Lock()
		_, err := f.sock.WriteToUnix([]byte(seenEvent), f.last)
		f.mu.Unlock()
		require.NoError(t, err)
	}
	for err = nil; err == nil; {
		_, err = e.Next(deadline(t, 5*time.Second))
	}
	require.ErrorIs(t, err, ErrOverflow)
}

// The commands of a report say what is missing, and nothing else: a reload only where
// there must be one, and last (traps 1 and 16).
func TestDiagnose(t *testing.T) {
	station := map[string]string{"enableTx": "yes", "evbmode": "station"}
	draft := map[string]string{"enableTx": "yes", "capabilities": "rte ecp vdp"}
	vdpOn := map[string]string{"enableTx": "yes", "role": "station"}
	bridge, agreed := &vdp.EVB{Role: vdp.RoleBridge}, &vdp.EVBDraft{SupportedCapabilities: 7, Capabilities: 7}
	for name, c := range map[string]struct {
		p    portConfig
		want error
		fix  int // lines
	}{
		"ready 2012":           {portConfig{admin: "rxtx", evb: station, engine: vdp.Edition2012, remoteEVB: bridge, localEVB: bridge}, nil, 0},
		"ready draft":          {portConfig{admin: "rxtx", draft: draft, vdp: vdpOn, engine: vdp.EditionDraft, remoteDraft: agreed, localDraft: agreed}, nil, 0},
		"nothing":              {portConfig{admin: "disabled", evb: map[string]string{"evbmode": "station"}, engine: vdp.Edition2012}, ErrPortNotConfigured, 4},
		"nothing, draft":       {portConfig{admin: "rxtx", remoteDraft: agreed, engine: vdp.Edition2012}, ErrPortNotConfigured, 6},
		"agent off":            {portConfig{admin: "disabled", evb: station, engine: vdp.Edition2012}, ErrPortNotConfigured, 4},
		"waiting":              {portConfig{admin: "rxtx", evb: station, engine: vdp.Edition2012}, ErrWaitingForSwitch, 0},
		"bridge":               {portConfig{admin: "rxtx", evb: map[string]string{"enableTx": "yes", "evbmode": "bridge"}, engine: vdp.Edition2012}, ErrPortNotConfigured, 4},
		"draft, 2012 runs":     {portConfig{admin: "rxtx", draft: draft, engine: vdp.Edition2012, remoteDraft: agreed}, ErrNeedsReload, 1},
		"draft without VDP":    {portConfig{admin: "rxtx", draft: map[string]string{"enableTx": "yes", "capabilities": "rte"}, engine: vdp.EditionDraft}, ErrPortNotConfigured, 7},
		"draft, waiting":       {portConfig{admin: "rxtx", draft: draft, vdp: vdpOn, engine: vdp.EditionDraft, localDraft: &vdp.EVBDraft{}}, ErrWaitingForSwitch, 0},
		"switch without VDP":   {portConfig{admin: "rxtx", draft: draft, vdp: vdpOn, engine: vdp.EditionDraft, localDraft: agreed, remoteDraft: &vdp.EVBDraft{SupportedCapabilities: 4}}, ErrWaitingForSwitch, 0},
		"switch speaks draft":  {portConfig{admin: "rxtx", evb: station, engine: vdp.Edition2012, remoteDraft: agreed}, ErrPortNotConfigured, 7},
		"draft VDP turned off": {portConfig{admin: "rxtx", draft: draft, vdp: map[string]string{"role": "station"}, engine: vdp.EditionDraft, remoteDraft: agreed}, ErrPortNotConfigured, 7},
	} {
		fix, err := c.p.diagnose("vs0", c.p.edition(), c.p.neighbor())
		require.ErrorIs(t, err, c.want, name)
		require.Len(t, fix, c.fix, name)
	}
	// What sends its TLV stops before anything else is turned on (trap 2).
	p := portConfig{admin: "rxtx", draft: draft, vdp: map[string]string{}, engine: vdp.EditionDraft}
	fix, _ := p.diagnose("vs0", p.edition(), p.neighbor())
	require.Equal(t, "lldptool -T -i vs0 -g ncb -V evbCfg -c enableTx=no", fix[0])
	require.Equal(t, "lldptool -T -i vs0 -g ncb -V evbCfg -c enableTx=yes", fix[len(fix)-2])
}
