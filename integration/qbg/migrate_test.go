//go:build vm

package qbg

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/vdp"
)

// A guest moves between two ports of a switch, and back. Each host's NIC is a tap
// whose other end is the switch: unlike a veth it has no IFLA_LINK, which libvirt
// takes for the NIC below, and the machine's two cards are one wire.
func TestMigration(t *testing.T) {
	requireMachine(t)
	ctx := hosttest.Deadline(t, 6*time.Minute)
	out, err := exec.CommandContext(ctx, "modprobe", "tun").CombinedOutput()
	require.NoError(t, err, "%s", out)
	hosts, bridges := map[string]*fixture{}, map[string]*bridge{}
	for _, name := range []string{"a", "b"} {
		h := newFixture(ctx, t, name)
		bridges[name] = newTapBridge(t, "tap"+name)
		h.take("tap" + name)
		h.startVDPD()
		hosts[name] = h
	}
	a, b := hosts["a"], hosts["b"]
	require.NoError(t, host.Wire(ctx, a.Peer, "mgmt", b.Peer, "mgmt"))
	require.NoError(t, a.SetAddress(ctx, "mgmt", "10.99.0.1/24"))
	require.NoError(t, b.SetAddress(ctx, "mgmt", "10.99.0.2/24"))
	a.startLibvirtd()
	b.startLibvirtd()
	require.NoError(t, a.Define(ctx, domain("g").XML()))

	for _, test := range []struct {
		ed       vdp.Edition
		from, to string
		addr     string
	}{
		{vdp.EditionDraft, "a", "b", "10.99.0.2"},
		{vdp.Edition2012, "b", "a", "10.99.0.1"},
	} {
		t.Run(test.ed.String(), func(t *testing.T) {
			from, to := hosts[test.from].in(t), hosts[test.to].in(t)
			left, arrived := &bridge{bridges[test.from].Server, t}, &bridge{bridges[test.to].Server, t}
			left.set(test.ed)
			arrived.set(test.ed)
			from.ready(test.ed)
			to.ready(test.ed)
			if test.from == "a" {
				from.MustVirsh("start", "g")
			}
			from.established()
			capture, err := to.Capture(ctx, nic)
			require.NoError(t, err)
			defer capture.Close()

			begin := time.Now()
			require.NoError(t, from.Migrate(ctx, "g", test.addr))
			t.Logf("moved to %s in %v", test.to, time.Since(begin))
			require.NoError(t, to.WaitState(ctx, "g", libvirt.DomainRunning))
			require.Equal(t, vdp.Associate, arrived.mode())
			require.Zero(t, left.mode())

			there, here := arrived.log(), left.log()
			require.Equal(t, []vdp.Mode{vdp.PreAssociate, vdp.Associate}, modes(there))
			require.Equal(t, []vdp.Mode{vdp.Associate, vdp.DeAssociate}, modes(here))
			for _, r := range append(there, here...) {
				require.Equal(t, vsi, r.Message.VSI)
			}
			require.True(t, there[0].At.After(begin))
			require.True(t, here[1].At.After(there[1].At), "the old port is given up last")
			t.Logf("after the start of the migration: pre-associate %v, associate %v, de-associate of the old port %v",
				there[0].At.Sub(begin), there[1].At.Sub(begin), here[1].At.Sub(begin))

			require.NoError(t, capture.Close())
			require.Equal(t, []string{
				"preassociate request", "preassociate answer", "associate request", "associate answer",
			}, exchange(t, test.ed, capture.Frames()))
		})
	}
	a.MustVirsh("destroy", "g")
	require.Zero(t, bridges["a"].mode())
}

// exchange is what went over the wire about the VSI, without keepalives.
func exchange(t *testing.T, ed vdp.Edition, frames [][]byte) (lines []string) {
	t.Helper()
	for _, b := range frames {
		var f vdp.Frame
		if f.UnmarshalBinary(b) != nil || f.EtherType != vdp.EtherTypeECP && f.EtherType != vdp.EtherTypeECPDraft {
			continue
		}
		p, err := vdp.UnmarshalECPDU(ed, f.Payload)
		require.NoError(t, err, "% x", b)
		if p.Ack {
			continue
		}
		msgs, err := vdp.UnmarshalMessages(ed, p.Payload)
		require.NoError(t, err, "% x", b)
		for _, m := range msgs {
			line := m.Mode.String() + " request"
			if f.Src == bridgeMAC {
				line = m.Mode.String() + " answer"
				require.Zero(t, m.Status.Reason())
			}
			if m.VSI.ID == vsi.ID && !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// A tap is the switch's end of a wire that ends in a network interface.
type tap struct{ *os.File }

func (t tap) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := t.Read(b)
	return n, nil, err
}

func (t tap) WriteTo(b []byte, _ net.Addr) (int, error) {
	n, err := t.Write(b)
	if errors.Is(err, unix.EIO) {
		err = unix.ENETDOWN // as from a packet socket
	}
	return n, err
}

func (t tap) LocalAddr() net.Addr { return nil }

// newTapBridge makes a network interface and runs a bridge at its other end.
func newTapBridge(t *testing.T, name string) *bridge {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	ifr, err := unix.NewIfreq(name)
	require.NoError(t, err)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	return serve(t, tap{os.NewFile(uintptr(fd), name)}, nil)
}
