//go:build integration

package main

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Who has a descriptor has the device, and nobody else has it, or any longer.

const guests = `[guests]
kind = bridge
bridge = br0
allow = uid:64321 uid:64322
anti-spoof = yes
mac = 52:54:00:*
`

const taps = `[taps]
kind = bridge
bridge = br0
allow = uid:64321 uid:64322
`

func TestStrangerReadsAnotherUsersQueue(t *testing.T) {
	fabric(t)
	acl(t, "allow br0\n")
	profiles(t, guests+taps)
	for _, name := range []string{"guests/" + alicesMAC, "taps", "br0"} {
		t.Run(name, func(t *testing.T) {
			a := granted(t, alice, name, "--queues=2")
			a.mac = alicesMAC // a TAP device's own address says nothing
			joined, err := joinTAP(t, stranger, a.name, unix.IFF_MULTI_QUEUE, 50)
			a.says(t, a.end(t, alicesMAC))
			var flows [][]byte
			var want []string
			for i := range 100 {
				want = append(want, "flow "+strconv.Itoa(i))
				flows = append(flows, udp(t, want[i], alicesMAC, router, i))
			}
			shout(t, "b1", flows...)
			require.Empty(t, drainQueues(joined))
			require.ElementsMatch(t, want, a.reads(t, "b1"))
			require.Error(t, err)
		})
	}
}

func TestStrangerSpeaksOnAnotherUsersQueue(t *testing.T) {
	fabric(t)
	acl(t, "allow br0\n")
	profiles(t, guests+taps)
	for _, name := range []string{"guests/" + alicesMAC, "taps", "br0"} {
		t.Run(name, func(t *testing.T) {
			far := ear(t, "b1")
			a := granted(t, alice, name, "--queues=2")
			joined, _ := joinTAP(t, stranger, a.name, unix.IFF_MULTI_QUEUE, 1)
			for _, fd := range joined {
				writeFrames(t, fd, eth(t, "the stranger as alice", everybody, alicesMAC, experimental))
			}
			a.says(t, a.end(t, alicesMAC))
			require.Empty(t, hears(t, far))
		})
	}
}

func TestStrangerTakesOverAPersistentDevice(t *testing.T) {
	fabric(t)
	acl(t, "allow br0\n")
	profiles(t, taps)
	for _, queues := range []string{"1", "2"} {
		for _, name := range []string{"taps", "br0"} {
			t.Run(name+" "+queues, func(t *testing.T) {
				far := ear(t, "b1")
				a := granted(t, alice, name, "--queues="+queues)
				require.NoError(t, a.tun(t, unix.TUNSETPERSIST, 1))
				a.close()
				var flags uint16
				if queues != "1" {
					flags = unix.IFF_MULTI_QUEUE
				}
				joined, err := joinTAP(t, stranger, a.name, flags, 1)
				for _, fd := range joined {
					writeFrames(t, fd, eth(t, "the stranger", everybody, router, experimental))
				}
				b := granted(t, bob, name)
				b.says(t, b.end(t, bobsMAC))
				require.Empty(t, hears(t, far))
				require.Error(t, err)
			})
		}
	}
}

// The device that the next grant finds without a queue goes, whoever asks.
func TestHolderLeavesAPersistentPortBehind(t *testing.T) {
	fabric(t)
	acl(t, "allow br0\n")
	profiles(t, taps+"max-per-user = 1\n")
	for _, name := range []string{"taps", "br0"} {
		t.Run(name, func(t *testing.T) {
			a := granted(t, alice, name)
			require.NoError(t, a.tun(t, unix.TUNSETPERSIST, 1))
			a.close()
			require.True(t, linkExists(a.name), "the kernel lets a holder do this")
			b := granted(t, bob, name)
			requireNoPort(t, a.name)
			require.True(t, linkExists(b.name))
			grantedSoon(t, alice, name)
		})
	}
}

func TestHolderKeepsMorePortsThanHisShare(t *testing.T) {
	fabric(t)
	profiles(t, taps+"max-per-user = 2\n")
	for range 6 {
		if a := ask(t, "taps"); a.granted() {
			g := holder(t, alice, a)
			require.NoError(t, g.tun(t, unix.TUNSETPERSIST, 1))
			g.close()
		}
		require.LessOrEqual(t, len(ports(t, "br0")), 2)
	}
}

func TestHolderHidesAPortByDetachingItsQueues(t *testing.T) {
	for _, persist := range []int{0, 1} {
		t.Run(strconv.Itoa(persist), func(t *testing.T) {
			fabric(t)
			profiles(t, taps+"max-per-user = 1\n")
			a := granted(t, alice, "taps", "--queues=2")
			require.NoError(t, a.tun(t, unix.TUNSETPERSIST, persist))
			require.NoError(t, a.queue(t, unix.IFF_DETACH_QUEUE))
			second := ask(t, "taps")
			if second.granted() {
				holder(t, alice, second)
			}
			_ = a.queue(t, unix.IFF_ATTACH_QUEUE)
			require.LessOrEqual(t, len(ports(t, "br0")), 1, "two ports for a share of one")
		})
	}
}

// What an isolated device's holder tries outlives neither him nor anybody.
func TestHolderGivesHisPortALifeOfItsOwn(t *testing.T) {
	fabric(t)
	profiles(t, guests)
	for _, queues := range []string{"1", "2"} {
		t.Run(queues, func(t *testing.T) {
			a := granted(t, alice, "guests/"+alicesMAC, "--queues="+queues)
			require.Equal(t, []string{a.name}, ports(t, "br0"))
			for _, try := range []struct {
				req uint
				v   int
			}{{unix.TUNSETPERSIST, 1}, {unix.TUNSETOWNER, alice}, {unix.TUNSETOWNER, stranger}, {unix.TUNSETGROUP, stranger}, {unix.TUNSETLINK, unix.ARPHRD_LOOPBACK}} {
				_ = a.tun(t, try.req, try.v)
			}
			a.close()
			requireNoPort(t, a.name)
		})
	}
}

func TestHolderHandsHisPortToAStranger(t *testing.T) {
	fabric(t)
	profiles(t, guests)
	far := ear(t, "b1")
	a := granted(t, alice, "guests/"+alicesMAC)
	_ = a.tun(t, unix.TUNSETPERSIST, 1)
	_ = a.tun(t, unix.TUNSETOWNER, stranger)
	a.close()
	joined, _ := joinTAP(t, stranger, a.name, 0, 1)
	for _, fd := range joined {
		writeFrames(t, fd, eth(t, "the stranger", everybody, alicesMAC, experimental))
	}
	b := granted(t, bob, "guests/"+bobsMAC)
	b.says(t, b.end(t, bobsMAC))
	require.Empty(t, hears(t, far))
}

func TestKilledHoldersPortStaysInTheBridge(t *testing.T) {
	fabric(t)
	profiles(t, guests)
	for _, queues := range []string{"1", "4"} {
		t.Run(queues, func(t *testing.T) {
			a := granted(t, alice, "guests/"+alicesMAC, "--queues="+queues)
			_ = a.tun(t, unix.TUNSETPERSIST, 1)
			vm := userCommand(t, alice, a.files, "sleep", "600")
			require.NoError(t, vm.Start())
			a.close()
			granted(t, bob, "guests/"+bobsMAC).close()
			require.True(t, linkExists(a.name), "it is held")
			end9(vm)
			requireNoPort(t, a.name)
		})
	}
}

func TestStrangerOpensTheNodeOfAnotherUsersDevice(t *testing.T) {
	fabric(t)
	wire(t, "v0", "v1")
	profiles(t, "[lan]\nkind = macvtap\ndevice = macvtap\nlower = v0\nmac = 52:54:00:*\nallow = everyone\n[seen]\nvisible = yes\nkind = macvtap\nlower = v0\nmac = 52:54:00:*\nallow = everyone\n")
	for name, dev := range map[string]string{"lan": "v1", "seen": "v1"} {
		t.Run(name, func(t *testing.T) {
			a := granted(t, alice, name+"/"+alicesMAC)
			a.mac = alicesMAC
			_, err := os.Lstat(a.node(t))
			require.NoError(t, err)
			for _, uid := range []uint32{stranger, bob, alice} {
				err := as(uid, func() error {
					fd, err := unix.Open(a.node(t), unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
					if err == nil {
						t.Cleanup(func() { unix.Close(fd) })
					}
					return err
				})
				require.Error(t, err)
			}
			var flows [][]byte
			for i := range 50 {
				flows = append(flows, udp(t, "flow", alicesMAC, router, i))
			}
			require.Len(t, a.reads(t, dev, flows...), 50)
		})
	}
}

// No user opens a device by its name, not even whose it was.
func TestHolderReturnsToAPersistentDevice(t *testing.T) {
	fabric(t)
	acl(t, "allow br0\n")
	profiles(t, taps)
	for _, name := range []string{"taps", "br0"} {
		t.Run(name, func(t *testing.T) {
			a := granted(t, alice, name)
			require.NoError(t, a.tun(t, unix.TUNSETPERSIST, 1))
			a.close()
			_, err := joinTAP(t, alice, a.name, 0, 1)
			require.Error(t, err)
		})
	}
}

// The helper chooses the number of a macvtap's node at random; here it is known before, and the node is the stranger's.
func TestStrangerIsThereBeforeTheNode(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, macvtaps["plain"])
	addUser(t)
	squat(t, 1<<30)
	ours, theirs := socketpairAs(t, alice)
	defer unix.Close(ours)
	cmd := strace(t, "-f", "-o", "/dev/null", "-u", "helperalice", "-e", "trace=getrandom", "-e", "inject=getrandom:retval=12",
		helper, "--use-vnet", "--fd=3", "--br=lan")
	cmd.ExtraFiles = []*os.File{theirs}
	var stdout, stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	theirs.Close()
	requireRefused(t, finish(t, cmd, ours, &stdout, &stderr), "the node below /dev belongs to another device")
}

// What its holder has made persistent is there while he holds it, and what is not the helper's is left alone.
func TestHeldPersistentDeviceIsSwept(t *testing.T) {
	fabric(t)
	acl(t, "allow br0\n")
	t.Run("held", func(t *testing.T) {
		a := granted(t, alice, "br0")
		require.NoError(t, a.tun(t, unix.TUNSETPERSIST, 1))
		granted(t, bob, "br0")
		require.True(t, linkExists(a.name))
	})
	t.Run("detached", func(t *testing.T) {
		a := granted(t, alice, "br0", "--queues=2")
		require.NoError(t, a.tun(t, unix.TUNSETPERSIST, 1))
		require.NoError(t, a.queue(t, unix.IFF_DETACH_QUEUE))
		granted(t, bob, "br0")
		require.True(t, linkExists(a.name))
	})
	t.Run("system", func(t *testing.T) {
		run(t, "ip", "tuntap", "add", "dev", "sys0", "mode", "tap")
		t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "sys0").Run() })
		run(t, "ip", "link", "set", "sys0", "master", "br0")
		granted(t, bob, "br0")
		require.True(t, linkExists("sys0"))
	})
}

func TestUserHasMoreQueuesThanTheProfile(t *testing.T) {
	fabric(t)
	wire(t, "v0", "v1")
	for _, kind := range []string{"macvtap isolated", "macvtap plain", "bridge isolated", "bridge tap"} {
		profiles(t, filtered[kind].profile+"queues = 2\n")
		requireRefused(t, ask(t, "net/"+alicesMAC, "--queues=3"), "at most 2 queues")
	}
}

// What one leaves, another has not to clear up at once: it takes the kernel so long that his deadline passes.
func TestHolderHasAnotherUserClearUp(t *testing.T) {
	fabric(t)
	acl(t, "allow br0\n")
	const left = 20
	var all []*nic
	for range left {
		a := granted(t, alice, "br0")
		require.NoError(t, a.tun(t, unix.TUNSETPERSIST, 1))
		all = append(all, a)
	}
	for _, a := range all {
		a.close()
	}
	granted(t, bob, "br0")
	require.Greater(t, len(ports(t, "br0")), left/2)
	for range 3 {
		granted(t, bob, "br0").close()
	}
	require.LessOrEqual(t, len(ports(t, "br0")), 2)
}
