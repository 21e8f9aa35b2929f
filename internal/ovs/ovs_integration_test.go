//go:build integration

package ovs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

func TestMain(m *testing.M) { hosttest.Main(m) }

const (
	owner   = "11111111-2222-4333-8444-555555555555"
	another = "66666666-2222-4333-8444-555555555555"
)

// A world is a host with Open vSwitch and the bridge br0.
type world struct {
	*host.OVS
	peer *host.Peer
	db   *DB
	ctx  context.Context
	tb   testing.TB
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	hosttest.Require(tb, "ovsdb-server", "ovs-vswitchd", "ovs-vsctl")
	ctx, cancel := context.WithTimeout(tb.Context(), 3*time.Minute)
	tb.Cleanup(cancel)
	w := &world{peer: hosttest.NewPeer(ctx, tb, host.Options{Name: "ovs"}), ctx: ctx, tb: tb}
	var err error
	w.OVS, err = w.peer.StartOVS(ctx)
	require.NoError(tb, err)
	require.NoError(tb, w.AddBridge(ctx, "br0"))
	w.db = Open(w.peer.Path(host.OVSSocket))
	tb.Cleanup(w.db.Close)
	return w
}

func (w *world) vsctl(args ...string) string {
	w.tb.Helper()
	out, err := w.Vsctl(w.ctx, args...)
	require.NoError(w.tb, err)
	return out
}

func (w *world) tap(name string) {
	w.tb.Helper()
	_, err := w.peer.Run(w.ctx, "ip", "tuntap", "add", name, "mode", "tap")
	require.NoError(w.tb, err)
}

func TestAttachAndDetach(t *testing.T) {
	w := newWorld(t)
	w.tap("t0")
	w.tap("sink")
	require.NoError(t, w.db.Attach(w.ctx, Port{Name: "sink", Bridge: "br0", Owner: another}))
	tag := 7
	p := Port{
		Name: "t0", Bridge: "br0", Owner: owner, IDs: map[string]string{"iface-id": "a b\"c", "attached-mac": "52:54:00:00:00:01"},
		VLAN: &VLAN{Mode: "native-untagged", Tag: &tag, Trunks: []int{7, 8, 9}}, MTU: 1400, Protected: true, IngressRate: 10000, IngressBurst: 800,
		QoS: &QoS{Type: "linux-noop", MaxRate: 5_000_000}, Mirror: "sink",
	}
	for range 2 { // again is as good as once
		require.NoError(t, w.db.Attach(w.ctx, p))
		require.Equal(t, "7", w.vsctl("get", "Port", "t0", "tag"))
		require.Equal(t, "[7, 8, 9]", w.vsctl("get", "Port", "t0", "trunks"))
		require.Equal(t, "native-untagged", w.vsctl("get", "Port", "t0", "vlan_mode"))
		require.Equal(t, `{transient="true"}`, w.vsctl("get", "Port", "t0", "other_config"))
		require.Equal(t, fmt.Sprintf(`{libvirt-direct="%s"}`, owner), w.vsctl("get", "Port", "t0", "external_ids"))
		require.Equal(t, `{attached-mac="52:54:00:00:00:01", iface-id="a b\"c"}`, w.vsctl("get", "Interface", "t0", "external_ids"))
		require.Equal(t, "10000", w.vsctl("get", "Interface", "t0", "ingress_policing_rate"))
		require.Equal(t, "800", w.vsctl("get", "Interface", "t0", "ingress_policing_burst"))
		require.Equal(t, "true", w.vsctl("get", "Port", "t0", "protected"))
		require.Equal(t, "1400", w.vsctl("get", "Interface", "t0", "mtu_request"))
		for _, table := range []string{"QoS", "Queue", "Mirror"} {
			require.Len(t, strings.Fields(w.vsctl("--format=csv", "--no-headings", "--columns=_uuid", "find", table)), 1, table)
		}
		require.Equal(t, w.vsctl("get", "Port", "t0", "_uuid"), strings.Trim(w.vsctl("get", "Mirror", "libvirt-direct-t0", "select_src_port"), "[]"))
		require.Equal(t, w.vsctl("get", "Port", "sink", "_uuid"), w.vsctl("get", "Mirror", "libvirt-direct-t0", "output_port"))
	}
	owned, err := w.db.List(w.ctx)
	require.NoError(t, err)
	slices.SortFunc(owned, func(a, b Owned) int { return strings.Compare(a.Name, b.Name) })
	require.Equal(t, []Owned{{Name: "sink", Owner: another}, {Name: "t0", Owner: owner}}, owned)

	was, err := w.db.Detach(w.ctx, "t0", another)
	require.NoError(t, err)
	require.False(t, was, "it is somebody else's")
	was, err = w.db.Detach(w.ctx, "t0", owner)
	require.NoError(t, err)
	require.True(t, was)
	require.Equal(t, "sink", w.vsctl("list-ports", "br0"))
	for _, table := range []string{"QoS", "Queue", "Mirror"} {
		require.Empty(t, w.vsctl("--no-headings", "find", table), table)
	}
	was, err = w.db.Detach(w.ctx, "t0", owner)
	require.NoError(t, err)
	require.False(t, was)
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.tap("t0")
	p := Port{Name: "t0", Bridge: "nobridge", Owner: owner}
	require.ErrorIs(t, w.db.Attach(w.ctx, p), ErrNoBridge)
	require.Empty(t, w.vsctl("--no-headings", "find", "Interface", "name=t0"))

	err := w.db.Attach(w.ctx, Port{Name: "gone", Bridge: "br0", Owner: owner})
	require.ErrorIs(t, err, ErrInterface)
	require.ErrorContains(t, err, "could not open network device gone (No such device)", "vswitchd's own words")

	p = Port{Name: "t0", Bridge: "br0", Owner: owner, VLAN: &VLAN{Trunks: []int{5000}}}
	err = w.db.Attach(w.ctx, p)
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, "constraint violation")
	require.ErrorContains(t, err, "5000", "why, in the database's words")

	w.vsctl("add-port", "br0", "t0")
	p.VLAN = nil
	require.ErrorIs(t, w.db.Attach(w.ctx, p), ErrTaken)
	p.Mirror = "nowhere"
	require.ErrorIs(t, w.db.Amend(w.ctx, p), ErrNoPort)
	require.ErrorIs(t, w.db.Amend(w.ctx, Port{Name: "nothing", Owner: owner}), ErrNoPort)

	brief, cancel := context.WithTimeout(w.ctx, 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, w.db.Installed(brief, "t0"), ErrNotInstalled)
	w.vsctl("set", "Interface", "t0", "external_ids:ovn-installed=true")
	require.NoError(t, w.db.Installed(w.ctx, "t0"))

	absent := Open(w.peer.Path("/run/nothing.sock"))
	_, err = absent.List(brief)
	require.ErrorIs(t, err, ErrUnreachable)
}

// What somebody else has made keeps what is not spoken of.
func TestAmend(t *testing.T) {
	w := newWorld(t)
	w.tap("t0")
	w.vsctl("add-port", "br0", "t0", "tag=5", "--", "set", "Interface", "t0", "external_ids:iface-id=x", "external_ids:vm-id=y", "external_ids:ovn-installed=true",
		"--", "set", "Port", "t0", "external_ids:mine=1", "external_ids:libvirt-direct="+another)
	p := Port{Name: "t0", Owner: owner, IDs: map[string]string{"iface-id": "lsp"}, IngressRate: 100, QoS: &QoS{Type: "linux-noop"}}
	require.NoError(t, w.db.Amend(w.ctx, p))
	require.Equal(t, "5", w.vsctl("get", "Port", "t0", "tag"))
	require.Equal(t, fmt.Sprintf(`{libvirt-direct="%s", mine="1"}`, owner), w.vsctl("get", "Port", "t0", "external_ids"))
	require.Equal(t, `{iface-id=lsp, vm-id=y}`, w.vsctl("get", "Interface", "t0", "external_ids"), "another logical port was installed")
	w.vsctl("set", "Interface", "t0", "external_ids:ovn-installed=true")
	require.Equal(t, `{transient="true"}`, w.vsctl("get", "Port", "t0", "other_config"))
	mode := 6
	p.VLAN, p.QoS = &VLAN{Mode: "dot1q-tunnel", Tag: &mode}, nil
	require.NoError(t, w.db.Amend(w.ctx, p))
	require.Contains(t, w.vsctl("get", "Interface", "t0", "external_ids"), "ovn-installed", "and this one")
	require.Equal(t, "dot1q-tunnel", w.vsctl("get", "Port", "t0", "vlan_mode"))
	require.Equal(t, "[]", w.vsctl("get", "Port", "t0", "qos"))
	require.Empty(t, w.vsctl("--no-headings", "find", "QoS"))
}

// A name that libvirt uses again takes the old port's row with it (add-port --may-exist).
// The old owner's end must leave it its port, and take only his own things.
func TestReusedPortKeepsGoing(t *testing.T) {
	w := newWorld(t)
	w.tap("vnet0")
	require.NoError(t, w.db.Attach(w.ctx, Port{Name: "vnet0", Bridge: "br0", Owner: owner, QoS: &QoS{Type: "linux-noop"}}))
	w.vsctl("set", "Port", "vnet0", "external_ids:libvirt-direct="+another)
	was, err := w.db.Detach(w.ctx, "vnet0", owner)
	require.NoError(t, err)
	require.False(t, was)
	require.Equal(t, "vnet0", w.vsctl("list-ports", "br0"))
	require.Equal(t, "[]", w.vsctl("get", "Port", "vnet0", "qos"))
	require.Empty(t, w.vsctl("--no-headings", "find", "QoS"))
}

// The database is killed while a port is being attached, at whatever point that happens
// to hit, and started again.
func TestDatabaseKilledInTheMiddle(t *testing.T) {
	w := newWorld(t)
	w.tap("t0")
	p := Port{Name: "t0", Bridge: "br0", Owner: owner, IDs: map[string]string{"iface-id": "x"}}
	stop := make(chan struct{})
	kills := make(chan int, 1)
	go func() {
		n := 0
		defer func() { kills <- n }()
		for ; n < 8; n++ {
			if w.KillDB() != nil || w.StartDB(w.ctx) != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(n) * 3 * time.Millisecond):
			}
		}
	}()
	var last error
	attached := 0
	for len(kills) == 0 && last == nil {
		if last = w.db.Attach(w.ctx, p); last != nil {
			break
		}
		attached++
		_, last = w.db.Detach(w.ctx, p.Name, p.Owner)
	}
	close(stop)
	n := <-kills
	require.NoError(t, last)
	require.Equal(t, 8, n)
	t.Logf("%d ports attached and detached while the database was killed %d times", attached, n)
	require.NoError(t, w.db.Attach(w.ctx, p))
	require.Equal(t, "t0", w.vsctl("list-ports", "br0"))
}

func TestDatabaseThatStaysAway(t *testing.T) {
	w := newWorld(t)
	_, err := w.db.List(w.ctx)
	require.NoError(t, err)
	require.NoError(t, w.KillDB())
	begin := time.Now()
	require.ErrorIs(t, w.db.Attach(w.ctx, Port{Name: "t0", Bridge: "br0", Owner: owner}), ErrUnreachable)
	require.Less(t, time.Since(begin), 20*time.Second)
}

func TestSwitchThatDoesNotRun(t *testing.T) {
	w := newWorld(t)
	w.tap("t0")
	require.NoError(t, w.KillSwitch())
	brief, cancel := context.WithTimeout(w.ctx, 3*time.Second)
	defer cancel()
	p := Port{Name: "t0", Bridge: "br0", Owner: owner}
	require.ErrorIs(t, w.db.Attach(brief, p), ErrSwitch)
	was, err := w.db.Detach(w.ctx, p.Name, p.Owner)
	require.NoError(t, err)
	require.True(t, was, "what was left can be taken back")
	require.NoError(t, w.StartSwitch(w.ctx))
	require.NoError(t, w.db.Attach(w.ctx, p))
}

// BenchmarkAttach compares one attach with what `ovs-vsctl` needs for the same, on a
// bridge with few ports and with many.
func BenchmarkAttach(b *testing.B) {
	w := newWorld(b)
	have := 0
	for _, ports := range []int{10, 1000} {
		args := []string{"--no-wait"}
		for ; have < ports; have++ {
			// Without devices, which would measure the kernel.
			args = append(args, "--", "add-port", "br0", fmt.Sprintf("x%d", have))
		}
		w.vsctl(args...)
		w.tap(fmt.Sprintf("t%d", ports))
		name := fmt.Sprintf("t%d", ports)
		p := Port{Name: name, Bridge: "br0", Owner: owner, IDs: map[string]string{
			"attached-mac": "52:54:00:00:00:01", "iface-id": owner, "vm-id": owner, "iface-status": "active"}}
		require.NoError(b, w.db.Attach(w.ctx, p)) // vswitchd has seen the others by then
		_, err := w.db.Detach(w.ctx, name, owner)
		require.NoError(b, err)
		var ours, theirs time.Duration
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			ours, theirs = 0, 0
			for range b.N {
				begin := time.Now()
				db := Open(w.peer.Path(host.OVSSocket)) // as a hook does: connecting is part of it
				err := db.Attach(w.ctx, p)
				ours += time.Since(begin)
				require.NoError(b, err)
				_, err = db.Detach(w.ctx, name, owner)
				require.NoError(b, err)
				db.Close()
				begin = time.Now()
				w.vsctl("--", "--may-exist", "add-port", "br0", name, "--", "set", "Port", name, "other_config:transient=true",
					"--", "set", "Interface", name, "external_ids:attached-mac=\"52:54:00:00:00:01\"",
					"--", "set", "Interface", name, "external_ids:iface-id=\""+owner+"\"",
					"--", "set", "Interface", name, "external_ids:vm-id=\""+owner+"\"",
					"--", "set", "Interface", name, "external_ids:iface-status=active")
				theirs += time.Since(begin)
				w.vsctl("del-port", "br0", name)
			}
			b.ReportMetric(float64(ours.Microseconds())/float64(b.N), "ours-µs")
			b.ReportMetric(float64(theirs.Microseconds())/float64(b.N), "ovs-vsctl-µs")
			b.ReportMetric(float64(ours)/float64(theirs), "ratio")
		})
	}
}

func TestDeadlineHolds(t *testing.T) {
	w := newWorld(t)
	_, err := w.db.List(w.ctx)
	require.NoError(t, err)
	brief, cancel := context.WithTimeout(w.ctx, 200*time.Millisecond)
	defer cancel()
	pid := strings.TrimSpace(w.pid("ovsdb-server"))
	_, err = w.peer.Run(w.ctx, "kill", "-STOP", pid)
	require.NoError(t, err)
	defer w.peer.Run(w.ctx, "kill", "-CONT", pid)
	_, err = w.db.List(brief)
	require.True(t, errors.Is(err, ErrNoAnswer) && errors.Is(err, context.DeadlineExceeded), "%v", err)
}

func (w *world) pid(program string) string {
	w.tb.Helper()
	pid, err := os.ReadFile(w.peer.Path("/run/openvswitch/" + program + ".pid"))
	require.NoError(w.tb, err)
	return string(pid)
}
