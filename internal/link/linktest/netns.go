package linktest

import (
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

// Netns is a Host in a network namespace of this machine.
type Netns struct {
	t    *testing.T
	conn *link.Conn
}

// NewNetns puts the test, on a thread of its own, into fresh network and mount
// namespaces with a sysfs that shows them. It needs root.
func NewNetns(t *testing.T) *Netns {
	t.Helper()
	require.Zero(t, os.Geteuid(), "needs root: network namespaces")
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET|unix.CLONE_NEWNS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount("sysfs", "/sys", "sysfs", 0, ""))
	c, err := link.Open()
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return &Netns{t, c}
}

// Conn is a connection in the namespace.
func (n *Netns) Conn() *link.Conn { return n.conn }

// Kernel is the same.
func (n *Netns) Kernel() Kernel { return n.conn }

// Do runs a command in the namespace and returns what it prints.
func (n *Netns) Do(command string, args ...string) string {
	n.t.Helper()
	out, err := exec.CommandContext(n.t.Context(), command, args...).CombinedOutput()
	require.NoError(n.t, err, "%s %s: %s", command, strings.Join(args, " "), out)
	return string(out)
}

// Card makes one end of a veth.
func (n *Netns) Card(name string) {
	n.t.Helper()
	n.Do("ip", "link", "add", name, "up", "type", "veth", "peer", "name", name+"-wire")
	n.Up(name + "-wire")
	// The carrier, and with it the kernel's own address, comes a moment later.
	n.Do("sh", "-c", "until ip -6 addr show dev "+name+" scope link | grep -q fe80; do :; done")
}

// Add implements Host.
func (n *Netns) Add(kind, name, lower string, options ...string) {
	n.t.Helper()
	switch kind {
	case "openvswitch":
		n.Do("ovs-dpctl", "add-dp", name)
	case "tun":
		n.Do("ip", "tuntap", "add", "mode", "tun", "name", name)
	default:
		n.add(nil, kind, name, lower, options)
	}
}

func (n *Netns) add(where []string, kind, name, lower string, options []string) {
	n.t.Helper()
	args := []string{"link", "add"}
	if lower != "" {
		args = append(args, "link", lower)
	}
	args = append(append(append(args, "name", name), where...), "type", kind)
	n.Do("ip", append(args, options...)...)
}

// Join implements Host.
func (n *Netns) Join(port, master string) {
	n.t.Helper()
	if strings.HasPrefix(master, "dp") {
		n.Do("ovs-dpctl", "add-if", master, port)
		return
	}
	n.Do("ip", "link", "set", port, "down") // as bonds and teams want it
	n.Do("ip", "link", "set", port, "master", master)
	n.Up(port)
}

// Up implements Host.
func (n *Netns) Up(name string) { n.t.Helper(); n.Do("ip", "link", "set", name, "up") }

// Address implements Host.
func (n *Netns) Address(name, prefix string) {
	n.t.Helper()
	n.Do("ip", "addr", "add", prefix, "dev", name)
}

// Route implements Host.
func (n *Netns) Route(args ...string) {
	n.t.Helper()
	n.Do("ip", append([]string{"route", "add"}, args...)...)
}

// Container starts a process in a network namespace of its own; its name is the
// process's number.
func (n *Netns) Container() string {
	n.t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	require.NoError(n.t, cmd.Start())
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return strconv.Itoa(cmd.Process.Pid)
}

// Move implements Host.
func (n *Netns) Move(name, container string) {
	n.t.Helper()
	n.Do("ip", "link", "set", name, "netns", container)
}

// AddIn implements Host.
func (n *Netns) AddIn(container, kind, name, lower string, options ...string) {
	n.t.Helper()
	n.add([]string{"netns", container}, kind, name, lower, options)
}

// UpIn implements Host.
func (n *Netns) UpIn(container, name string) {
	n.t.Helper()
	n.Do("nsenter", "--net=/proc/"+container+"/ns/net", "ip", "link", "set", name, "up")
}

// XDP implements Host.
func (n *Netns) XDP(name string) {
	n.t.Helper()
	const pass = 2 // XDP_PASS
	fd := n.program(unix.BPF_PROG_TYPE_XDP, pass)
	defer unix.Close(fd)

	l, err := n.conn.ByName(n.t.Context(), name)
	require.NoError(n.t, err)
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Index)
	req.AddData(msg)
	xdp := nl.NewRtAttr(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
	xdp.AddRtAttr(unix.IFLA_XDP_FD, binary.NativeEndian.AppendUint32(nil, uint32(fd)))
	req.AddData(xdp)
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	require.NoError(n.t, err)
}

// TCX has a BPF program see what comes in by a device, in a way that tc does not list, until
// the test ends.
func (n *Netns) TCX(name string) {
	n.t.Helper()
	const pass = 0 // TCX_PASS
	fd := n.program(unix.BPF_PROG_TYPE_SCHED_CLS, pass)
	defer unix.Close(fd)
	l, err := n.conn.ByName(n.t.Context(), name)
	require.NoError(n.t, err)
	const ingress = 46 // BPF_TCX_INGRESS
	attr := [16]uint32{uint32(fd), uint32(l.Index), ingress}
	made, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	require.Zero(n.t, errno, "%v", errno)
	n.t.Cleanup(func() { unix.Close(int(made)) })
}

// program loads a BPF program that returns a number.
func (n *Netns) program(typ uint32, result byte) int {
	n.t.Helper()
	// r0 = result; exit (struct bpf_insn of include/uapi/linux/bpf.h)
	program := [16]byte{0: 0xb7, 4: result, 8: 0x95}
	licence := [...]byte{'G', 'P', 'L', 0}
	attr := struct {
		typ, count        uint32
		program, licence  uint64
		logLevel, logSize uint32
		log               uint64
		version, flags    uint32
	}{
		typ: typ, count: 2,
		program: uint64(uintptr(unsafe.Pointer(&program))), licence: uint64(uintptr(unsafe.Pointer(&licence))),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&program)
	runtime.KeepAlive(&licence)
	require.Zero(n.t, errno, "%v", errno)
	return int(fd)
}
