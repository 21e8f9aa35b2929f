//go:build integration

package main

import (
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The same on Open vSwitch, whose ports are made in the same ways.

const switched = `[guests]
kind = ovs
bridge = ovsbr0
allow = uid:64321 uid:64322
anti-spoof = yes
mac = 52:54:00:*
[taps]
kind = ovs
bridge = ovsbr0
allow = uid:64321 uid:64322
`

// ovsFabric is the bridge ovsbr0 with a cable from b0 to b1.
func ovsFabric(t testing.TB) {
	t.Helper()
	wire(t, "b0", "b1")
	openvswitch(t)
	run(t, "ovs-vsctl", "--timeout=30", "add-port", "ovsbr0", "b0")
	profiles(t, switched)
}

// passed waits until the switch in user space passes on what comes in at a new port. It may take the first frame, learn
// its address and have no other port to flood it to (drop_action_of_pipeline in ovs-appctl coverage/show), although the
// database says that the port is in force.
func (g *nic) passed(t testing.TB, far int, mac string) {
	t.Helper()
	for end := time.Now().Add(waitLimit); ; {
		require.True(t, time.Now().Before(end), "the switch passes nothing on")
		g.says(t, eth(t, wayIsOpen, everybody, mac, experimental))
		for {
			if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(far), Events: unix.POLLIN}}, 200); n < 1 {
				break
			}
			b := make([]byte, 2048)
			n, _, _, _, err := receiveMsg(far, b, nil)
			require.NoError(t, err)
			if textOf(b[:n]) == wayIsOpen {
				return
			}
		}
	}
}

func TestStrangerSpeaksOnAPortOfOpenVSwitch(t *testing.T) {
	ovsFabric(t)
	for _, name := range []string{"guests/" + alicesMAC, "taps"} {
		t.Run(name, func(t *testing.T) {
			far := ear(t, "b1")
			a := granted(t, alice, name, "--queues=2")
			a.passed(t, far, alicesMAC)
			joined, err := joinTAP(t, stranger, a.name, unix.IFF_MULTI_QUEUE, 1)
			for _, fd := range joined {
				writeFrames(t, fd, eth(t, "the stranger as alice", everybody, alicesMAC, experimental))
				writeFrames(t, fd, a.end(t, alicesMAC))
			}
			a.says(t, a.end(t, alicesMAC))
			require.Empty(t, hears(t, far))
			require.Error(t, err)
		})
	}
}

func TestGuestSpeaksAsItsNeighbourOnOpenVSwitch(t *testing.T) {
	ovsFabric(t)
	far := ear(t, "b1")
	a := granted(t, alice, "guests/"+alicesMAC)
	a.passed(t, far, alicesMAC)
	a.says(t, eth(t, "as bob", everybody, bobsMAC, experimental), eth(t, "lacp", slowProtocols, alicesMAC, "88090101"))
	require.NoError(t, a.takes(t, bobsMAC))
	a.says(t, eth(t, "as bob", everybody, bobsMAC, experimental), eth(t, "vlan 66", everybody, alicesMAC, vlan66, experimental), a.end(t, alicesMAC))
	require.Empty(t, hears(t, far))
}

func TestGuestHearsOtherVLANsOfOpenVSwitch(t *testing.T) {
	ovsFabric(t)
	far := ear(t, "b1")
	a := granted(t, alice, "guests/"+alicesMAC)
	a.mac = alicesMAC
	a.passed(t, far, alicesMAC)
	require.Equal(t, []string{"untagged"}, a.reads(t, "b1",
		eth(t, "vlan 66", everybody, router, vlan66, experimental),
		eth(t, "unicast", alicesMAC, router, vlan66, experimental),
		eth(t, "service tag", everybody, router, ad66, experimental),
		eth(t, "untagged", everybody, router, experimental),
	))
}

func TestHolderGivesHisOpenVSwitchPortALifeOfItsOwn(t *testing.T) {
	ovsFabric(t)
	a := granted(t, alice, "guests/"+alicesMAC)
	_ = a.tun(t, unix.TUNSETPERSIST, 1)
	_ = a.tun(t, unix.TUNSETOWNER, stranger)
	a.close()
	requireNoPort(t, a.name)
	b := grantedSoon(t, bob, "guests/"+alicesMAC)
	require.ElementsMatch(t, []string{"b0", b.name}, ovsPorts(t))
}

// The switch in user space leaves what comes in at a port to the host's IP stack as well.
func TestGuestReachesTheHostThroughItsPortOfOpenVSwitch(t *testing.T) {
	ovsFabric(t)
	run(t, "ip", "addr", "add", "10.9.9.9/32", "dev", "lo")
	t.Cleanup(func() { run(t, "ip", "addr", "del", "10.9.9.9/32", "dev", "lo") })
	run(t, "ip", "route", "add", "10.8.8.0/24", "dev", "lo")
	t.Cleanup(func() { _ = exec.Command("ip", "route", "del", "10.8.8.0/24", "dev", "lo").Run() })
	service, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	defer unix.Close(service)
	require.NoError(t, unix.Bind(service, &unix.SockaddrInet4{Port: 7, Addr: [4]byte{10, 9, 9, 9}}))
	for _, name := range []string{"guests/" + alicesMAC, "taps"} {
		t.Run(name, func(t *testing.T) {
			far := ear(t, "b1")
			a := granted(t, alice, name)
			a.passed(t, far, alicesMAC)
			port, err := net.ParseMAC(hardwareAddress(t, a.name))
			require.NoError(t, err)
			me, err := net.ParseMAC(alicesMAC)
			require.NoError(t, err)
			frames := [][]byte{arpRequest(t), arpProbe(t), advertisement(t), datagram(t, "to the host", port.String())}
			for i, f := range frames {
				copy(f[6:12], me)
				if i < 2 {
					copy(f[22:28], me)
				}
			}
			a.says(t, append(frames, a.end(t, alicesMAC))...)
			heardFrames(t, far)
			for fd := a.fds(t)[0]; ; {
				b := make([]byte, 4096)
				n, err := unix.Read(fd, b)
				if err == unix.EINTR {
					continue
				}
				if err != nil {
					break
				}
				if n >= 24 {
					require.NotEqual(t, []byte(port), b[16:22], "the port itself answers: %x", b[:n])
				}
			}
			require.NotContains(t, run(t, "ip", "-6", "addr", "show", "dev", a.name), "inet6")
			_, _, err = unix.Recvfrom(service, make([]byte, 100), 0)
			require.Equal(t, unix.EAGAIN, err, "the host has taken a packet from the port")
		})
	}
}

func TestHolderLeavesAPersistentPortOfOpenVSwitchBehind(t *testing.T) {
	ovsFabric(t)
	a := granted(t, alice, "taps")
	require.NoError(t, a.tun(t, unix.TUNSETPERSIST, 1))
	a.close()
	require.True(t, linkExists(a.name), "the kernel lets a holder do this")
	b := granted(t, bob, "taps")
	requireNoPort(t, a.name)
	require.True(t, linkExists(b.name))
}
