//go:build integration

package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
)

// callers are those who call: two whom profiles name, and one whom they name at times.
var callers = map[string]uint32{"helperalice": alice, "helperbob": bob, "helperstranger": stranger}

// systemMAC is the address of a system guest's device on v0.
const systemMAC = "52:54:00:99:99:99"

// story is a host, and what has happened on it.
type story struct {
	t       *testing.T
	seed    uint64
	step    int
	rng     *rand.Rand
	began   time.Time
	trace   []string
	netns   int // the host's network namespace
	inode   uint64
	dev     int // the machine's /dev
	log     *logSocket
	logOff  string             // why nobody takes the log's lines; empty if somebody does
	lines   map[int][]logLine  // by the helper's process
	conf    *configuration     // now
	visits  []*visit           // in progress
	devices []*given           // that somebody holds
	left    []*leftover        // that nobody holds and the kernel keeps
	known   map[int]bool       // indexes of devices that were made here
	host    map[string]hostDev // devices that are none of the helper's, as they were at first
	ears    map[string]int
	macs    int
	seen    bool // a visible device was asked for
}

// hostDev is what must not change.
type hostDev struct {
	index int
	mac   string
	up    bool
}

// newStory gives the calling goroutine a host of its own: network, /dev, log, configuration and claims.
func newStory(t *testing.T, seed uint64) *story {
	t.Helper()
	s := &story{t: t, seed: seed, step: -1, began: time.Now(), lines: map[int][]logLine{}, known: map[int]bool{}, host: map[string]hostDev{}, ears: map[string]int{}}
	open := func(path string, flags int) int {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	s.dev = open("/dev", unix.O_PATH|unix.O_DIRECTORY)
	runtime.LockOSThread()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	s.netns = open("/proc/thread-self/ns/net", unix.O_RDONLY)
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(s.netns, &st))
	s.inode = st.Ino
	s.log = ownDev(t, true)
	for _, dir := range []string{"/etc/libvirt-direct", "/etc/qemu", "/run/libvirt-direct"} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"))
	}
	run(t, "sh", "-ec", `
		ip link set lo up
		ip link add br0 address 52:54:00:00:00:01 type bridge
		ip link property add dev br0 altname alt0
		ip link set br0 addrgenmode none mtu 1450 up
		for n in "v0 v1" "v2 v3" "v4 v5" "b0 b1" "r0 r1"; do
			set -- $n
			ip link add $1 type veth peer name $2
			ip link set $1 addrgenmode none up
			ip link set $2 addrgenmode none up
		done
		ip link set b0 master br0
		ip link add link v0 name guest0 address `+systemMAC+` type macvtap mode bridge
		ip link set guest0 addrgenmode none up`)
	links, err := net.Interfaces()
	require.NoError(t, err)
	for _, l := range links {
		s.host[l.Name] = hostDev{l.Index, l.HardwareAddr.String(), l.Flags&net.FlagUp != 0}
	}
	for _, dev := range []string{"v1", "v3", "v5", "b1"} {
		s.ears[dev] = listener(t, dev)
		require.NoError(t, unix.SetNonblock(s.ears[dev], true))
	}
	return s
}

// end leaves nothing behind, whatever happened.
func (s *story) end() {
	for _, v := range s.visits {
		_ = v.cmd.Process.Kill()
		<-v.done
		unix.Close(v.ours)
	}
	for _, g := range s.devices {
		for _, fd := range g.fds {
			unix.Close(fd)
		}
		for _, p := range g.flights {
			unix.Close(p[0])
			unix.Close(p[1])
		}
	}
}

// family is how a profile is made.
type family struct {
	name, text               string // what does not vary
	lowers                   []string
	kind                     string
	isolated, visible, spoof bool // spoof: the guest may use any source address
	whole                    bool
	macs                     []string // rules, the first of which is everything's
}

var macvtapMACs = []string{"derived 52:54:00:*", "derived", "any", "52:54:00:*", alicesMAC + " " + bobsMAC}

var families = []family{
	{name: "iso", kind: "macvtap", lowers: []string{"v0"}, isolated: true, macs: macvtapMACs, text: "lower = v0\n"},
	{name: "vepa", kind: "macvtap", lowers: []string{"v0"}, isolated: true, macs: macvtapMACs, text: "lower = v0\nmode = vepa\n"},
	{name: "flat", kind: "macvtap", lowers: []string{"v0"}, macs: macvtapMACs, text: "lower = v0\ndevice = macvtap\n"},
	{name: "seen", kind: "macvtap", lowers: []string{"v0"}, visible: true, macs: macvtapMACs, text: "lower = v0\nvisible = yes\n"},
	{name: "vf", kind: "macvtap", lowers: []string{"v2", "v4"}, whole: true, macs: []string{"lower", "lower 52:54:00:*"}, text: "lower = v2 v4\nmode = passthrough\n"},
	{name: "port", kind: "bridge", lowers: []string{"br0"}, isolated: true, macs: macvtapMACs, text: "bridge = br0\nanti-spoof = yes\n"},
	{name: "free", kind: "bridge", lowers: []string{"br0"}, isolated: true, spoof: true, macs: []string{"any", "derived"}, text: "bridge = br0\ndevice = isolated\n"},
	{name: "tap", kind: "bridge", lowers: []string{"br0"}, spoof: true, macs: []string{"any", "derived", "52:54:00:*"}, text: "bridge = br0\n"},
	{name: "taps", kind: "bridge", lowers: []string{"br0"}, macs: macvtapMACs, text: "bridge = br0\nanti-spoof = yes\ndevice = tap\n"},
}

// plain is what bridge.conf gives.
var plain = family{kind: "bridge", lowers: []string{"br0"}, spoof: true}

func (f *family) tap() bool    { return f.kind == "bridge" && !f.isolated }
func (f *family) pinned() bool { return !f.tap() }

// offer is a profile of a configuration.
type offer struct {
	*family
	perUser, max int
	rule         string
	allow        []uint32 // nil for everyone
}

func (o *offer) allows(uid uint32) bool { return o.allow == nil || slices.Contains(o.allow, uid) }

// rightMAC reports whether the profile has the address for the user.
func (o *offer) rightMAC(uid uint32, mac string) bool {
	for _, w := range strings.Fields(o.rule) {
		prefix, isPrefix := strings.CutSuffix(w, "*")
		switch {
		case w == "any", w == "lower", w == mac, isPrefix && strings.HasPrefix(mac, prefix):
			return true
		case w == "derived" && slices.Contains(derivedFor(uid, o.name), mac):
			return true
		}
	}
	return false
}

func derivedFor(uid uint32, profile string) (out []string) {
	for slot := range 4 {
		out = append(out, ether.Derive("0123456789abcdef0123456789abcdef", profile, fmt.Sprint(uid), fmt.Sprint(slot)).String())
	}
	return out
}

// configuration is what the files say.
type configuration struct {
	offers map[string]*offer
	acl    string
}

// allowed says by which of the bridge's names bridge.conf allows it.
func (c *configuration) allowed() bool {
	return strings.HasPrefix(c.acl, "allow") && !strings.Contains(c.acl, "deny br0") && !strings.Contains(c.acl, "deny alt0")
}

func everything() *configuration {
	c := &configuration{offers: map[string]*offer{}, acl: "allow br0\n"}
	for i := range families {
		c.offers[families[i].name] = &offer{family: &families[i], perUser: 4, max: 8, rule: families[i].macs[0]}
	}
	return c
}

// configure has root change the configuration.
func (s *story) configure() {
	c := &configuration{offers: map[string]*offer{}, acl: oneOf(s, "allow br0\n", "allow alt0\n", "allow all\n", "allow all\ndeny secret\n", "allow br0\ndeny alt0\n", "allow alt0\ndeny br0\n", "deny br0\n")}
	for i := range families {
		if s.chance(15) {
			continue
		}
		f := &families[i]
		o := &offer{family: f, perUser: 1 + s.rng.IntN(4), rule: oneOf(s, f.macs...)}
		o.max = o.perUser + s.rng.IntN(4)
		if s.chance(50) {
			o.allow = []uint32{alice, bob}
		}
		c.offers[f.name] = o
	}
	s.useConfiguration(c)
}

func (s *story) useConfiguration(c *configuration) {
	text, short := "passthrough = v2 v4\n", ""
	for _, f := range families {
		o := c.offers[f.name]
		if o == nil {
			continue
		}
		allow := "everyone"
		if o.allow != nil {
			allow = "uid:64321 uid:64322"
		}
		text += fmt.Sprintf("[%s]\nkind = %s\n%sallow = %s\nmax-per-user = %d\nmax = %d\nmac = %s\n", f.name, f.kind, f.text, allow, o.perUser, o.max, o.rule)
		short += fmt.Sprintf(" %s(%d/%d %s %v)", f.name, o.perUser, o.max, o.rule, o.allow)
	}
	for path, text := range map[string]string{"/etc/libvirt-direct/helper.conf": text, "/etc/qemu/bridge.conf": c.acl} {
		// In one step, as an editor does: half a configuration is another one.
		require.NoError(s.t, os.WriteFile(path+".new", []byte(text), 0o644))
		require.NoError(s.t, os.Rename(path+".new", path))
	}
	s.conf = c
	for _, v := range s.visits {
		v.confs = append(v.confs, c)
	}
	s.note("configure%s; %q", short, c.acl)
}

// visit is a call of the helper's that has not ended, or what became of it.
type visit struct {
	uid    uint32
	name   string // of a profile or a bridge
	mac    string
	queues int
	vnet   bool
	confs  []*configuration // while it ran

	argv    []string // instead of what the fields above say
	env     []string
	wrap    []string
	spoiled string // by what, if anything: then it need not succeed
	peer    string // what is wrong with the socket
	limited bool   // it may be ended by a limit
	mute    bool   // its standard error is not heard
	logOff  string
	strace  bool
	prepare func(*exec.Cmd)

	cmd       *exec.Cmd
	ours      int
	began     time.Time
	done      chan struct{}
	stderr    bytes.Buffer
	signalled bool
	before    []*leftover // when it began
	must      bool        // it has to be granted
}

func (s *story) freshMAC() string {
	s.macs++
	return fmt.Sprintf("52:54:00:10:%02x:%02x", s.macs>>8, s.macs&0xff)
}

// request is an honest one.
func (s *story) request(uid uint32, name, mac string) *visit {
	return &visit{uid: uid, name: name, mac: mac, queues: 1, vnet: true}
}

// anyRequest is one that a user may make.
func (s *story) anyRequest() *visit {
	names := []string{"br0", "alt0"}
	for _, f := range families {
		names = append(names, f.name, f.name)
	}
	if s.chance(3) {
		names = []string{"v0", "br9", "guest0", "none"}
	}
	v := s.request(oneOf(s, alice, alice, bob, bob, uint32(stranger)), oneOf(s, names...), "")
	o := s.conf.offers[v.name]
	switch n := s.rng.IntN(100); {
	case n < 60 && o != nil:
		v.mac = s.suitableMAC(o)
	case n < 75:
		v.mac = s.freshMAC()
	case n < 90:
		v.mac = s.someMAC()
	}
	v.queues = oneOf(s, 1, 1, 1, 1, 2, 2, 3, 8)
	v.vnet = s.chance(80)
	return v
}

// suitableMAC is one that a profile may have, or none where it has its own.
func (s *story) suitableMAC(o *offer) string {
	switch {
	case strings.Contains(o.rule, alicesMAC):
		return oneOf(s, "", alicesMAC, bobsMAC)
	case strings.Contains(o.rule, "*") && (!strings.Contains(o.rule, " ") || s.chance(50)), o.rule == "any" && (!o.spoof || s.chance(50)):
		return s.freshMAC()
	}
	return ""
}

// someMAC is an address that means something to somebody.
func (s *story) someMAC() string {
	out := []string{systemMAC, s.host["v0"].mac, s.host["br0"].mac, s.host["b1"].mac, s.host["v2"].mac, "02:00:00:00:00:99", s.freshMAC()}
	for _, g := range s.devices {
		out = append(out, g.mac)
	}
	for _, uid := range []uint32{alice, bob} {
		for _, f := range []string{"iso", "flat", "port"} {
			out = append(out, derivedFor(uid, f)[0])
		}
	}
	return oneOf(s, out...)
}

// spoil makes a request harder to answer.
func (s *story) spoil(v *visit) {
	switch s.rng.IntN(12) {
	case 0:
		v.env = []string{oneOf(s, "GODEBUG=gctrace=1", "GOTRACEBACK=crash", "GOMAXPROCS=1", "GOGC=1", "GOMEMLIMIT=1", "LD_PRELOAD=/nonexistent.so",
			"LD_LIBRARY_PATH=/tmp", "PATH=/tmp", "GO", "=", "GOX="+strings.Repeat("x", 100000), "NOTIFY_SOCKET=/dev/log", "LANG=xx")}
		v.mute = strings.HasPrefix(v.env[0], "GODEBUG") // the runtime has said something before
		s.note("environment %.30s", v.env[0])
	case 1, 2:
		limit := oneOf(s, "--fsize=0", "--fsize=63", "--nproc=0", "--nproc=1", "--stack=65536", "--data=1000000", "--as=1000000", "--as=700000000", "--memlock=0",
			"--sigpending=0", "--locks=0", "--msgqueue=0", fmt.Sprint("--nofile=", 3+s.rng.IntN(40)), fmt.Sprint("--nofile=", 3+s.rng.IntN(12)))
		v.wrap, v.limited, v.spoiled = []string{"prlimit", limit, "--"}, true, limit
	case 3:
		closed := oneOf(s, "0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", "0<&- 2>&-", "2>/dev/full", "1>/dev/full 2>/dev/full")
		v.wrap = []string{"/bin/sh", "-c", `exec "$0" "$@" ` + closed}
		v.mute = strings.Contains(closed, "2>")
		s.note("with %s", closed)
	case 4:
		v.mute, v.spoiled = true, "full pipe"
		pipe := blockedPipe(s.t)
		v.prepare = func(cmd *exec.Cmd) { cmd.Stdout, cmd.Stderr = pipe, pipe }
	case 5, 6:
		v.peer = oneOf(s, "gone", "full", "another's", "datagram", "file", "number")
		v.spoiled = "socket " + v.peer
	case 7, 8:
		s.mutate(v)
		v.spoiled = "arguments"
	case 9, 10:
		if len(s.visits) == 0 {
			v.logOff = oneOf(s, "absent", "full", "closed", "absent, kmsg full")
			v.spoiled = "log " + v.logOff
		}
	default:
		n := s.rng.IntN(50)
		v.spoiled, v.limited = fmt.Sprint("room for ", n, " descriptors"), true
		c := crowded(n)
		v.wrap, v.prepare = c.wrap, c.before
	}
}

// mutate changes the arguments.
func (s *story) mutate(v *visit) {
	v.argv = v.arguments()
	for range 1 + s.rng.IntN(3) {
		at := s.rng.IntN(len(v.argv))
		switch s.rng.IntN(7) {
		case 0:
			v.argv = slices.Delete(v.argv, at, at+1)
		case 1:
			v.argv = append(v.argv, v.argv[at])
		case 2:
			v.argv = append(v.argv, oneOf(s, "--help", "--list", "--fd=0", "--fd=2", "--fd=77", "--queues=0", "--queues=9", "--queues=64", "--queues=65", "--br=", "--br=br0", "--br=lan", "--use-vnet", "", "x"))
		case 3:
			v.argv[at] += oneOf(s, "x", "\n", "/", ":", "\xff", "0", strings.Repeat("a", 5000), "\" kind=\"x", "/"+systemMAC)
		case 4, 5:
			if b := []byte(v.argv[at]); len(b) > 0 {
				b[s.rng.IntN(len(b))] = byte(1 + s.rng.IntN(255))
				v.argv[at] = string(b)
			}
		default:
			s.rng.Shuffle(len(v.argv), func(i, j int) { v.argv[i], v.argv[j] = v.argv[j], v.argv[i] })
		}
		if len(v.argv) == 0 {
			v.argv = []string{""}
		}
	}
}

func (v *visit) arguments() []string {
	if v.argv != nil {
		return v.argv
	}
	name := v.name
	if v.mac != "" {
		name += "/" + v.mac
	}
	args := []string{"--fd=3", "--br=" + name}
	if v.vnet {
		args = append(args, "--use-vnet")
	}
	if v.queues != 1 {
		args = append(args, "--queues="+strconv.Itoa(v.queues))
	}
	return args
}

// start starts the helper.
func (s *story) start(v *visit) {
	v.confs = []*configuration{s.conf}
	v.before = slices.Clone(s.left)
	v.must = v.spoiled == "" && s.mustGrant(v)
	ours, theirs := socketpairAs(s.t, v.uid)
	v.ours = ours
	socket := s.spoilSocket(v, ours, theirs)
	args := append(slices.Clone(v.wrap), append([]string{helper}, v.arguments()...)...)
	v.cmd = exec.Command(args[0], args[1:]...)
	if v.strace {
		v.cmd = strace(s.t, args[1:]...)
	} else {
		v.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: v.uid, Gid: v.uid}}
	}
	v.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, v.env...)
	v.cmd.ExtraFiles = []*os.File{socket}
	v.cmd.Stderr = &v.stderr
	if v.prepare != nil {
		v.prepare(v.cmd)
	}
	s.setLog(v.logOff)
	v.began, v.done = time.Now(), make(chan struct{})
	err := v.cmd.Start()
	socket.Close()
	theirs.Close()
	require.NoError(s.t, err, "%q", args)
	s.seen = s.seen || strings.Contains(strings.Join(args, " "), "seen")
	s.visits = append(s.visits, v)
	go func() { _ = v.cmd.Wait(); close(v.done) }()
	s.note("%d calls %q, process %d; %s", v.uid, v.arguments(), v.cmd.Process.Pid, v.spoiled)
}

// spoilSocket does what is to be wrong with the socket.
func (s *story) spoilSocket(v *visit, ours int, theirs *os.File) *os.File {
	switch v.peer {
	case "gone":
		require.NoError(s.t, unix.Shutdown(ours, unix.SHUT_RDWR))
	case "full":
		raw, err := theirs.SyscallConn()
		require.NoError(s.t, err)
		require.NoError(s.t, raw.Control(func(fd uintptr) {
			for unix.Sendto(int(fd), make([]byte, 4096), unix.MSG_DONTWAIT, nil) == nil {
			}
		}))
	case "another's":
		end, other := socketpairAs(s.t, oneOf(s, uint32(0), 64300))
		unix.Close(end)
		return other
	case "datagram":
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(s.t, err)
		unix.Close(pair[1])
		return os.NewFile(uintptr(pair[0]), "datagram")
	case "file":
		f, err := os.Open("/dev/null")
		require.NoError(s.t, err)
		return f
	case "number":
		v.argv = append(v.arguments(), oneOf(s, "--fd=0", "--fd=1", "--fd=2", "--fd=4", "--fd=9", "--fd=1048576", "--fd=-3", "--fd=03"))
	}
	return theirs
}

// setLog has the log take lines, or not.
func (s *story) setLog(off string) {
	if s.logOff == off {
		return
	}
	s.readLog()
	require.NoError(s.t, os.RemoveAll("/dev/kmsg"))
	if strings.HasPrefix(s.logOff, "absent") || s.logOff == "closed" { // it was
		require.NoError(s.t, os.RemoveAll("/dev/log"))
		require.NoError(s.t, os.Rename("/dev/log.off", "/dev/log"))
	}
	if off != "" && off != "full" {
		require.NoError(s.t, os.Rename("/dev/log", "/dev/log.off"))
	}
	switch off {
	case "closed":
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(s.t, err)
		require.NoError(s.t, unix.Bind(fd, &unix.SockaddrUnix{Name: "/dev/log"}))
		require.NoError(s.t, os.Chmod("/dev/log", 0o666))
		unix.Close(fd)
	case "absent, kmsg full":
		require.NoError(s.t, unix.Mknod("/dev/kmsg", unix.S_IFCHR|0o644, int(unix.Mkdev(1, 7))))
	case "full":
		s.log.fill(s.t)
	}
	s.logOff = off
}

// logLine is one that the helper wrote.
type logLine struct {
	text    string
	granted bool
	uid     uint32
	mac     string
	index   int
}

var (
	lineForm  = regexp.MustCompile(`^<8[56]>qemu-direct-helper\[(\d+)\]: (granted|denied) uid=(\d+) [ -~]*$`)
	lineMAC   = regexp.MustCompile(` mac="([^"]*)"`)
	lineIndex = regexp.MustCompile(` ifindex=(\d+)`)
)

// readLog takes what has been logged.
func (s *story) readLog() {
	for _, text := range s.log.lines() {
		if text == "noise" {
			continue
		}
		m := lineForm.FindStringSubmatch(text)
		s.must(m != nil, "a line of another form: %q", text)
		pid, _ := strconv.Atoi(m[1])
		uid, _ := strconv.Atoi(m[3])
		l := logLine{text: text, granted: m[2] == "granted", uid: uint32(uid)}
		if m := lineMAC.FindStringSubmatch(text); m != nil {
			l.mac = m[1]
		}
		if m := lineIndex.FindStringSubmatch(text); m != nil {
			l.index, _ = strconv.Atoi(m[1])
			s.known[l.index] = true
		}
		s.lines[pid] = append(s.lines[pid], l)
	}
}

// given is a device, and who holds it.
type given struct {
	*family
	uid        uint32
	profile    string // empty for bridge.conf's
	fds        []int
	flights    [][2]int // sockets in which a descriptor is on its way
	index      int
	name       string
	mac        string // that was granted
	known      bool   // the helper knows the guest's address
	now        string // that the holder has given it
	on         string // lower device or bridge
	vnet       bool
	multi      bool
	persistent bool
	owner      uint32 // who may join it by name, of a TAP device
	sacrificed bool   // the holder has made it look as if nobody held it
}

// leftover is a device without a holder.
type leftover struct {
	name    string
	index   int
	visible bool // a macvtap; else a persistent TAP device
	now     string
	owner   uint32
	multi   bool
}

// as runs f as a user, in the story's network.
func (s *story) as(uid uint32, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if unix.Gettid() == unix.Getpid() {
			result <- s.as(uid, f)
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Setns(s.netns, unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		id := uintptr(uid)
		for _, c := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, id, id, id}, {unix.SYS_SETRESUID, id, id, id}} {
			if _, _, errno := unix.RawSyscall(c[0], c[1], c[2], c[3]); errno != 0 {
				result <- errno
				return
			}
		}
		result <- f()
	}()
	return <-result
}
