//go:build integration || vm

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/client"
)

// The attacks of attack_*_test.go have the same cast: alice and bob, whom profiles name, a stranger, and whoever is at
// the far end of a cable. A forbidden frame is followed by an allowed one that says "end": what was not heard until then
// does not come.

// waitLimit is how long a busy machine may take for what is certain to come.
const waitLimit = 20 * time.Second

const (
	stranger = 64399 // no profile names him

	everybody    = "ff:ff:ff:ff:ff:ff"
	router       = "02:00:00:00:00:99" // an address beyond the cable
	alicesMAC    = "52:54:00:00:00:0a"
	bobsMAC      = "52:54:00:00:00:0b"
	experimental = "88b5" // local experimental EtherType
)

// as runs f as uid, without any capability, on a thread that then ends.
func as(uid uint32, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end; what /proc says of the process is its.
			result <- as(uid, f)
			runtime.UnlockOSThread()
			return
		}
		id := uintptr(uid)
		for _, c := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, id, id, id}, {unix.SYS_SETRESUID, id, id, id}} {
			if _, _, errno := unix.RawSyscall(c[0], c[1], c[2], c[3]); errno != 0 {
				result <- os.NewSyscallError("setresuid", errno)
				return
			}
		}
		result <- f()
	}()
	return <-result
}

// userCommand is an ordinary program of a user's, which ends with the test.
func userCommand(t testing.TB, uid uint32, files []*os.File, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	cmd.ExtraFiles = files
	t.Cleanup(func() {
		if cmd.Process != nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return cmd
}

// eth is a frame: header in hexadecimal, the text in angle brackets, padding.
func eth(t testing.TB, text string, header ...string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(header, ""), ":", ""))
	require.NoError(t, err)
	return append(b, "<"+text+">"+strings.Repeat(".", 50)...)
}

// udp is an IPv6 frame, without a checksum, of the flow from port 1000+flow to port 2000+flow.
func udp(t testing.TB, text, dst, src string, flow int) []byte {
	t.Helper()
	host := "fd00000000000000000000000000000"
	return eth(t, text, dst, src, "86dd", "60000000"+"0028"+"1140", host+"1", host+"2", fmt.Sprintf("%04x%04x", 1000+flow, 2000+flow), "00280000")
}

// inOrder keeps what f sends on one processor: each has its own queue of frames to be received.
func inOrder(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &all))
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	require.NoError(t, unix.SchedSetaffinity(0, &one))
	defer unix.SchedSetaffinity(0, &all)
	f()
}

// shout sends frames out of a device of the host's or of the far end's.
func shout(t testing.TB, dev string, frames ...[]byte) {
	t.Helper()
	l, err := net.InterfaceByName(dev)
	require.NoError(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	inOrder(t, func() {
		for _, f := range frames {
			require.NoError(t, unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: l.Index}))
		}
	})
}

// ear is a listener with patience.
func ear(t testing.TB, dev string) int {
	t.Helper()
	fd := listener(t, dev)
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(waitLimit / time.Second)}))
	return fd
}

// heardFrames are the frames that come in until one says "end".
func heardFrames(t testing.TB, fd int) (out [][]byte) {
	t.Helper()
	for {
		b, oob := make([]byte, 2048), make([]byte, 256)
		n, _, _, from, err := receiveMsg(fd, b, oob)
		require.NoError(t, err, "the last frame did not come; heard %q", out)
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if bytes.Contains(b[:n], []byte("<end>")) {
			return out
		}
		out = append(out, b[:n])
	}
}

// wayIsOpen is the text of frames that only show that there is a way.
const wayIsOpen = "the way is open"

// hears returns the texts that come in until one is "end".
func hears(t testing.TB, fd int) (out []string) {
	t.Helper()
	for _, f := range heardFrames(t, fd) {
		if text := textOf(f); text != "" && text != wayIsOpen {
			out = append(out, text)
		}
	}
	return out
}

func textOf(frame []byte) string {
	i, j := bytes.LastIndexByte(frame, '<'), bytes.LastIndexByte(frame, '>')
	if i < 0 || j < i {
		return ""
	}
	return string(frame[i+1 : j])
}

// nic is a device that was granted, and whoever holds it.
type nic struct {
	answer
	uid   uint32
	name  string
	path  string // that the descriptors were opened by
	mac   string
	moved bool // the holder gave the device another address
}

// granted is a request that has to be granted.
func granted(t testing.TB, uid uint32, name string, more ...string) *nic {
	t.Helper()
	return holder(t, uid, askAs(t, uid, name, more...))
}

// grantedSoon is a request that has to be granted once the kernel has taken down what nobody holds.
func grantedSoon(t testing.TB, uid uint32, name string) *nic {
	t.Helper()
	for deadline := time.Now().Add(waitLimit); ; {
		if a := askAs(t, uid, name); a.granted() || time.Now().After(deadline) {
			return holder(t, uid, a)
		}
	}
}

func holder(t testing.TB, uid uint32, a answer) *nic {
	t.Helper()
	d, err := client.Inspect(requireGranted(t, a))
	require.NoError(t, err)
	g := &nic{answer: a, uid: uid, name: d.Name, mac: d.MAC.String()}
	g.path, err = os.Readlink(fmt.Sprint("/proc/self/fd/", g.fds(t)[0]))
	require.NoError(t, err)
	t.Cleanup(func() {
		g.close()
		_ = exec.Command("ip", "link", "del", g.name).Run() // visible, or persistent
	})
	return g
}

// index is the number of the node below /dev, which is not the one in the device's name, or where there is none that one.
func (g *nic) index(t testing.TB) int {
	t.Helper()
	number, base := g.name[3:], 16
	if node, ok := strings.CutPrefix(g.path, "/dev/tap"); ok {
		number, base = node, 10
	}
	i, err := strconv.ParseInt(number, base, 32)
	require.NoError(t, err)
	return int(i)
}

func (g *nic) node(t testing.TB) string { return fmt.Sprint("/dev/tap", g.index(t)) }

// fds are the descriptors' numbers. Fd(2) would make them block.
func (g *nic) fds(t testing.TB) (out []int) {
	t.Helper()
	for _, f := range g.files {
		raw, err := f.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) { out = append(out, int(fd)) }))
	}
	return out
}

// says writes frames to the first queue.
func (g *nic) says(t testing.TB, frames ...[]byte) {
	t.Helper()
	writeFrames(t, g.fds(t)[0], frames...)
}

func writeFrames(t testing.TB, fd int, frames ...[]byte) {
	t.Helper()
	inOrder(t, func() {
		for _, f := range frames {
			_, err := unix.Write(fd, append(make([]byte, 10), f...)) // after a struct virtio_net_hdr
			require.NoError(t, err)
		}
	})
}

// end is the frame that ends what the wire hears of a guest.
func (g *nic) end(t testing.TB, mac string) []byte {
	return eth(t, "end", everybody, mac, experimental)
}

// reads sends frames out of dev and returns what the guest reads of them. The last one is for all: it overtakes
// nothing, since a macvlan hands on what is for one at once, and what is for all later.
func (g *nic) reads(t testing.TB, dev string, frames ...[]byte) (out []string) {
	t.Helper()
	missing := []string{"for all"}
	frames = append(slices.Clone(frames), eth(t, "for all", everybody, router, experimental))
	if !g.moved {
		missing = append(missing, "for one")
		frames = append(frames, eth(t, "for one", g.mac, router, experimental))
	}
	shout(t, dev, frames...)
	fds := g.fds(t)
	var poll []unix.PollFd
	for _, fd := range fds {
		poll = append(poll, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	deadline := time.Now().Add(waitLimit)
	for len(missing) > 0 {
		require.True(t, time.Now().Before(deadline), "%q did not come; read %q", missing, out)
		_, _ = unix.Poll(poll, 100)
		for _, fd := range fds {
			for {
				b := make([]byte, 4096)
				n, err := unix.Read(fd, b)
				if err == unix.EINTR {
					continue
				}
				if err == unix.EAGAIN {
					break
				}
				require.NoError(t, err)
				text := textOf(b[:n])
				if i := slices.Index(missing, text); i >= 0 {
					missing = slices.Delete(missing, i, i+1)
				} else if text != "" && text != "for all" && text != "for one" && text != "end" {
					out = append(out, text)
				}
			}
		}
	}
	return out
}

// drainQueues reads what is in a queue.
func drainQueues(fds []int) (out []string) {
	for _, fd := range fds {
		for {
			b := make([]byte, 4096)
			n, err := unix.Read(fd, b)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				break
			}
			if text := textOf(b[:n]); text != "" {
				out = append(out, text)
			}
		}
	}
	return out
}

// takes gives the device an address, as its holder.
func (g *nic) takes(t testing.TB, mac string) error {
	t.Helper()
	err := as(g.uid, func() error { return setMAC(g.files[0], mac) })
	g.moved = err == nil
	return err
}

// tun is an ioctl of linux/if_tun.h with a number for an argument, by whoever holds the device.
func (g *nic) tun(t testing.TB, req uint, v int) error {
	t.Helper()
	fd := g.fds(t)[0]
	return as(g.uid, func() error { return unix.IoctlSetInt(fd, req, v) })
}

// queue attaches or detaches each queue of a TAP device.
func (g *nic) queue(t testing.TB, flag uint16) error {
	t.Helper()
	for _, fd := range g.fds(t) {
		r, err := unix.NewIfreq("x")
		require.NoError(t, err)
		r.SetUint16(flag)
		if err := as(g.uid, func() error { return unix.IoctlIfreq(fd, unix.TUNSETQUEUE, r) }); err != nil {
			return err
		}
	}
	return nil
}

// joinTAP attaches a queue of uid's to a TAP device that exists, as often as it can up to n times.
func joinTAP(t testing.TB, uid uint32, name string, flags uint16, n int) (fds []int, err error) {
	t.Helper()
	for range n {
		fd := -1
		err = as(uid, func() (err error) {
			if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
				return err
			}
			r, err := unix.NewIfreq(name)
			if err != nil {
				return err
			}
			r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | flags)
			return unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
		})
		if fd >= 0 {
			t.Cleanup(func() { unix.Close(fd) })
		}
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// fabric is the bridge br0 with a cable from b0 to b1.
func fabric(t testing.TB) {
	t.Helper()
	bridge(t, "br0")
	wire(t, "b0", "b1")
	run(t, "ip", "link", "set", "b0", "master", "br0")
}

// ports are the devices in a bridge that the helper made.
func ports(t testing.TB, bridge string) (out []string) {
	t.Helper()
	all, err := filepath.Glob("/sys/class/net/" + bridge + "/brif/tap*")
	require.NoError(t, err)
	for _, p := range all {
		out = append(out, filepath.Base(p))
	}
	return out
}

func linkExists(name string) bool {
	_, err := os.Lstat("/sys/class/net/" + name)
	return err == nil
}

func requireGone(t testing.TB, path string) {
	t.Helper()
	require.Eventually(t, func() bool { _, err := os.Lstat(path); return os.IsNotExist(err) }, waitLimit, 2*time.Millisecond, "%s is still there", path)
}

func requireNoPort(t testing.TB, name string) {
	t.Helper()
	requireGone(t, "/sys/class/net/"+name)
}

func requireNoPorts(t testing.TB, bridge string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(ports(t, bridge)) == 0 }, waitLimit, 2*time.Millisecond)
}

// derivedMACs are the addresses that a profile has for a user.
func derivedMACs(t testing.TB, uid uint32, profile string) []string {
	t.Helper()
	for line := range strings.Lines(call{uid: uid, args: []string{"--list"}}.do(t).stdout) {
		if f := strings.Fields(line); f[0] == profile {
			return f[3:]
		}
	}
	require.Fail(t, "no such profile for the user")
	return nil
}

func hardwareAddress(t testing.TB, dev string) string {
	t.Helper()
	l, err := net.InterfaceByName(dev)
	require.NoError(t, err)
	return l.HardwareAddr.String()
}

// ownDev gives the calling goroutine a /dev of its own in which device nodes still appear, with a log socket or without,
// and without the kernel's log.
func ownDev(t testing.TB, withLog bool) *logSocket {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test's goroutine
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755"))
	tun, err := os.OpenFile("/dev/net/tun", unix.O_PATH, 0)
	require.NoError(t, err)
	defer tun.Close()
	for _, d := range []string{"/mnt/upper", "/mnt/work"} {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	require.NoError(t, unix.Mount("overlay", "/dev", "overlay", 0, "lowerdir=/dev,upperdir=/mnt/upper,workdir=/mnt/work"), "overlayfs is needed")
	require.NoError(t, unix.Mount(fmt.Sprintf("/proc/self/task/%d/fd/%d", unix.Gettid(), tun.Fd()), "/dev/net/tun", "", unix.MS_BIND, ""))
	for _, f := range []string{"/dev/log", "/dev/kmsg"} {
		if err := os.Remove(f); !os.IsNotExist(err) {
			require.NoError(t, err)
		}
	}
	if !withLog {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: "/dev/log"}))
	require.NoError(t, os.Chmod("/dev/log", 0o666))
	return &logSocket{fd}
}

// logSocket is where the system log would listen.
type logSocket struct{ fd int }

// lines are what has been logged since the last time.
func (l *logSocket) lines() (out []string) {
	for {
		b := make([]byte, 4096)
		n, err := unix.Read(l.fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return out
		}
		out = append(out, string(b[:n]))
	}
}

// fill leaves no room for a line.
func (l *logSocket) fill(t testing.TB) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Connect(fd, &unix.SockaddrUnix{Name: "/dev/log"}))
	for {
		if _, err := unix.Write(fd, []byte("noise")); err == unix.EAGAIN {
			return
		} else if err != unix.EINTR {
			require.NoError(t, err)
		}
	}
}

// lockStorm has the stranger take and release locks in great number, so that whoever reads /proc/locks misses some.
func lockStorm(t testing.TB) {
	t.Helper()
	stop := make(chan struct{})
	done := make(chan error)
	const storms = 2
	for n := range storms {
		go func() {
			done <- as(stranger, func() error {
				if n == 0 {
					var first unix.CPUSet
					first.Set(0)
					_ = unix.SchedSetaffinity(0, &first)
				}
				var fds []int
				defer func() {
					for _, fd := range fds {
						unix.Close(fd)
					}
				}()
				for range 400 {
					fd, err := unix.Open("/dev/shm", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
					if err != nil {
						return err
					}
					fds = append(fds, fd)
				}
				for {
					select {
					case <-stop:
						return nil
					default:
					}
					for _, how := range []uintptr{unix.LOCK_EX, unix.LOCK_UN} {
						for _, fd := range fds {
							_, _, _ = syscall.RawSyscall(unix.SYS_FLOCK, uintptr(fd), how, 0)
						}
						slices.Reverse(fds)
					}
				}
			})
		}()
	}
	t.Cleanup(func() {
		close(stop)
		for range storms {
			require.NoError(t, <-done)
		}
	})
}

// squat has the stranger make a macvtap in a network namespace of his own. Its node has the number that the caller
// chooses, and is the host's.
func squat(t testing.TB, index int) *exec.Cmd {
	t.Helper()
	cmd := userCommand(t, stranger, nil, "unshare", "-Urn", "sh", "-c",
		fmt.Sprintf("ip link add d0 type veth peer name d1 && ip link add link d0 name x index %d type macvtap && echo made && exec sleep 600", index))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	b := make([]byte, 5)
	_, err = io.ReadFull(out, b)
	require.NoError(t, err, "the stranger has no namespace of his own")
	require.Equal(t, "made\n", string(b))
	return cmd
}

// end9 ends a program of the test's at once.
func end9(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

// arpRequest asks who has 10.9.9.9.
func arpRequest(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(everybody+router+"0806"+"0001080006040001"+router+"0a080808"+"000000000000"+"0a090909"+strings.Repeat("00", 18), ":", ""))
	require.NoError(t, err)
	return b
}

// arpProbe asks so before an address is used (RFC 5227): no test of the sender's address keeps the answer back.
func arpProbe(t testing.TB) []byte {
	t.Helper()
	b := arpRequest(t)
	copy(b[28:32], []byte{0, 0, 0, 0})
	return b
}

// internetChecksum is the internet checksum.
func internetChecksum(parts ...[]byte) uint16 {
	var sum uint32
	b := bytes.Join(parts, nil)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// advertisement is a router's, of the prefix 2001:db8:bad::/64.
func advertisement(t testing.TB) []byte {
	t.Helper()
	src, dst, prefix := net.ParseIP("fe80::bad"), net.ParseIP("ff02::1"), net.ParseIP("2001:db8:bad::")
	ra := append([]byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 1, 0x51, 0x80, 0, 0, 0, 0}, prefix...)
	binary.BigEndian.PutUint16(ra[2:], internetChecksum(src, dst, []byte{0, 0, 0, byte(len(ra)), 0, 0, 0, 58}, ra))
	header, err := hex.DecodeString("333300000001" + strings.ReplaceAll(router, ":", "") + "86dd" + "60000000" + fmt.Sprintf("%04x", len(ra)) + "3aff")
	require.NoError(t, err)
	return bytes.Join([][]byte{header, src, dst, ra}, nil)
}

// requireNoVoice says that a device is down, or has neither ARP nor IPv6.
func requireNoVoice(t testing.TB, name string) {
	t.Helper()
	l, err := net.InterfaceByName(name)
	require.NoError(t, err)
	if l.Flags&net.FlagUp == 0 {
		return
	}
	flags, err := os.ReadFile("/sys/class/net/" + name + "/flags")
	require.NoError(t, err)
	var bits uint
	_, err = fmt.Sscanf(string(flags), "0x%x", &bits)
	require.NoError(t, err)
	require.NotZero(t, bits&unix.IFF_NOARP, "%s answers ARP", name)
	v6, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
	require.NoError(t, err)
	require.Equal(t, "1\n", string(v6), "%s has IPv6", name)
}

// killAt has strace kill the helper, called by alice for name, as it makes a system call for the when-th time, and
// reports whether that happened.
func killAt(t testing.TB, name, call string, when int) bool {
	t.Helper()
	ours, theirs := socketpairAs(t, alice)
	defer unix.Close(ours)
	defer theirs.Close()
	cmd := strace(t, "-f", "-o", "/dev/null", "-u", "helperalice", "-e", "trace="+call,
		"-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, when), helper, "--use-vnet", "--fd=3", "--br="+name)
	cmd.ExtraFiles = []*os.File{theirs}
	_ = cmd.Run()
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// addUser gives alice a name and a group.
func addUser(t testing.TB) {
	t.Helper()
	addUserAs(t, "helperalice", alice)
}

// addUserAs does so for any user, in the test's own /etc.
func addUserAs(t testing.TB, name string, uid int) {
	t.Helper()
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%d::/tmp:/bin/sh\n", name, uid, uid),
		"/etc/group":  fmt.Sprintf("%s:x:%d:\n", name, uid),
	} {
		old, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, append(slices.Clone(old), line...), 0o644))
		t.Cleanup(func() { os.WriteFile(file, old, 0o644) })
	}
}
