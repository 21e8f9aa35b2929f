//go:build integration || vm

package daemon

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"libvirt-direct/vdp"
)

// A namespace has interfaces, and a daemon without wires that follows them through a socket
// with a small buffer.
type namespace struct {
	*testing.T
	*netlink.Handle
	ns      netns.NsHandle
	other   netns.NsHandle
	mu      sync.Mutex // the daemon's
	d       *Daemon
	changed chan struct{}
	lost    int
	hold    chan struct{} // while not closed, the daemon is busy
}

func newNamespace(t *testing.T, buffer int) *namespace {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	n := &namespace{T: t, d: newFollower("eth0", "eth1", "bond0"), changed: make(chan struct{}, 1), hold: make(chan struct{})}
	close(n.hold)
	var w *linkWatch
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var err error
		if n.other, err = netns.New(); err == nil {
			n.ns, err = netns.New()
		}
		if err == nil {
			n.Handle, err = netlink.NewHandle()
		}
		if err == nil {
			w, err = newLinkWatch(buffer)
		}
		done <- err
	}()
	require.NoError(t, <-done)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		done <- w.follow(ctx, func(steps []linkStep) {
			n.mu.Lock()
			hold := n.hold
			n.d.linkSteps(ctx, time.Now(), steps)
			for _, s := range steps {
				if s.typ == listLost {
					n.lost++
				}
			}
			n.mu.Unlock()
			select {
			case n.changed <- struct{}{}:
			default:
			}
			<-hold
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		n.Close()
		n.ns.Close()
		n.other.Close()
	})
	return n
}

// busy keeps the daemon from reading, until the function that it returns is called.
func (n *namespace) busy() (done func()) {
	hold := make(chan struct{})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hold = hold
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		close(hold)
	}
}

// settled waits until the daemon knows all that has happened, and checks it.
func (n *namespace) settled(mark int) {
	n.Helper()
	name := fmt.Sprint("mark", mark)
	require.NoError(n, n.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	timeout := time.After(20 * time.Second)
	for {
		n.mu.Lock()
		known := n.d.links.whole && n.d.links.byName(name) != nil
		n.mu.Unlock()
		if known {
			break
		}
		select {
		case <-n.changed:
		case <-timeout:
			n.Fatal("the daemon does not learn of an interface")
		}
	}
	l, err := n.LinkByName(name)
	require.NoError(n, err)
	all, err := n.LinkList()
	require.NoError(n, err)
	n.mu.Lock()
	require.Len(n, n.d.links.all, len(all))
	for _, l := range all {
		a, got := l.Attrs(), n.d.links.byIndex(l.Attrs().Index)
		require.NotNil(n, got, a.Name)
		require.Equal(n, a.Name, got.name)
		require.Equal(n, a.MasterIndex, got.master)
		if a.HardwareAddr != nil {
			require.Equal(n, vdp.MAC(a.HardwareAddr), got.mac)
		}
		for _, p := range n.d.ports {
			if p.cfg.Name == a.Name {
				require.Equal(n, a.Index, p.ifindex, a.Name)
				require.Equal(n, got.mac, p.mac)
				require.Equal(n, got.up, !p.upSince.IsZero())
			}
		}
	}
	for _, p := range n.d.ports {
		require.True(n, p.ifindex == 0 || n.d.links.byIndex(p.ifindex) != nil, "an interface that exists")
	}
	n.mu.Unlock()
	require.NoError(n, n.LinkDel(l))
}

// change makes a random change; the kernel may refuse it.
func (n *namespace) change(r *rand.Rand) {
	names := []string{"eth0", "eth1", "wan0", "wan1", fmt.Sprint("d", r.IntN(40))}
	name := names[r.IntN(len(names))]
	l, err := n.LinkByName(name)
	if err != nil {
		_ = n.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: name}})
		return
	}
	switch r.IntN(8) {
	case 0, 1:
		_ = n.LinkDel(l)
	case 2:
		_ = n.LinkSetName(l, names[r.IntN(len(names))])
	case 3:
		_ = n.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, byte(r.IntN(256)), 1})
	case 4:
		_ = n.LinkSetNsFd(l, int(n.other))
	case 5:
		if br, err := n.LinkByName("br0"); err == nil {
			_ = n.LinkSetMaster(l, br)
		}
	case 6:
		_ = n.LinkSetNoMaster(l)
	default:
		_ = n.LinkSetUp(l)
	}
}
