//go:build integration

package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// callOnce is a call, to which something may happen.
func (s *story) callOnce() {
	v := s.anyRequest()
	if s.chance(45) {
		s.spoil(v)
	}
	signal := s.chance(25)
	if signal && v.spoiled == "" {
		v.spoiled = "signal"
	}
	s.start(v)
	if signal {
		s.disturb(v)
	}
	s.collect(v)
}

// disturb sends signals.
func (s *story) disturb(v *visit) {
	send := func(sig syscall.Signal) { _ = v.cmd.Process.Signal(sig) }
	wait := func() { time.Sleep(time.Duration(s.rng.IntN(9000)) * time.Microsecond) }
	wait()
	how := oneOf(s, "kill", "kill", "terminate", "stop and continue", "stop and kill", "quit", "hang up")
	s.note("process %d: %s", v.cmd.Process.Pid, how)
	switch how {
	case "kill":
		v.signalled = true
		send(syscall.SIGKILL)
	case "terminate":
		v.signalled = true
		send(syscall.SIGTERM)
	case "quit":
		v.signalled, v.limited = true, true
		send(syscall.SIGQUIT)
	case "hang up":
		v.signalled = true
		send(syscall.SIGHUP)
	case "stop and continue":
		send(syscall.SIGSTOP)
		wait()
		send(syscall.SIGCONT)
	default:
		v.signalled = true
		send(syscall.SIGSTOP)
		wait()
		send(syscall.SIGKILL)
	}
}

// race is a number of calls at a time.
func (s *story) race() {
	var vs []*visit
	for range 2 + s.rng.IntN(3) {
		v := s.anyRequest()
		if len(vs) > 0 && s.chance(60) {
			v.name, v.mac = vs[0].name, vs[0].mac
		}
		v.spoiled = "race"
		vs = append(vs, v)
	}
	for _, v := range vs {
		s.start(v)
	}
	for _, v := range vs {
		s.collect(v)
	}
}

// leaveStopped stops a helper and leaves it so.
func (s *story) leaveStopped() {
	if len(s.visits) >= 2 {
		s.endStopped()
		return
	}
	v := s.anyRequest()
	v.spoiled = "stopped"
	s.start(v)
	time.Sleep(time.Duration(s.rng.IntN(9000)) * time.Microsecond)
	s.note("process %d: stop", v.cmd.Process.Pid)
	_ = v.cmd.Process.Signal(syscall.SIGSTOP)
}

func (s *story) endStopped() {
	for _, v := range slices.Clone(s.visits) {
		how := syscall.SIGCONT
		if s.chance(40) {
			how = syscall.SIGKILL
		}
		s.note("process %d: %v", v.cmd.Process.Pid, how)
		_ = v.cmd.Process.Signal(how)
		s.collect(v)
	}
}

// killAtCall kills a helper at a system call.
func (s *story) killAtCall() {
	if len(s.visits) > 0 {
		s.endStopped()
		return
	}
	v := s.anyRequest()
	if s.chance(70) {
		v.uid = oneOf(s, uint32(alice), bob)
	}
	name := ""
	for n, uid := range callers {
		if uid == v.uid {
			name = n
		}
	}
	call := oneOf(s, "openat", "fcntl", "pwrite64", "unshare", "capset", "sendto", "read", "ioctl", "socket", "connect", "setresuid", "sendmsg", "write", "close", "exit_group")
	when := 1 + s.rng.IntN(8)
	v.wrap = []string{"strace", "-f", "-o", "/dev/null", "-u", name, "-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, when)}
	v.strace, v.signalled, v.spoiled = true, true, fmt.Sprintf("killed at %s %d", call, when)
	s.start(v)
	s.collect(v)
}

// someDevice is one that somebody holds, nil if there is none.
func (s *story) someDevice(which func(*given) bool) *given {
	var some []*given
	for _, g := range s.devices {
		if which(g) {
			some = append(some, g)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return oneOf(s, some...)
}

func anyDevice(*given) bool { return true }

func (s *story) closeSome() {
	g := s.someDevice(anyDevice)
	if g == nil {
		return
	}
	if len(g.flights) > 0 && s.chance(50) {
		s.closeFlight(g, 0)
	} else if len(g.fds) > 0 {
		at := s.rng.IntN(len(g.fds))
		s.note("close one of %d of %s", len(g.fds), g.name)
		unix.Close(g.fds[at])
		g.fds = slices.Delete(g.fds, at, at+1)
	}
	s.ended(g)
}

func (s *story) closeFlight(g *given, at int) {
	s.note("close a socket with a descriptor of %s", g.name)
	unix.Close(g.flights[at][0])
	unix.Close(g.flights[at][1])
	g.flights = slices.Delete(g.flights, at, at+1)
}

func (s *story) closeDevice() {
	if g := s.someDevice(anyDevice); g != nil {
		s.closeAll(g)
	}
}

func (s *story) closeAll(g *given) {
	s.note("close %s", g.name)
	for _, fd := range g.fds {
		unix.Close(fd)
	}
	g.fds = nil
	for len(g.flights) > 0 {
		s.closeFlight(g, 0)
	}
	s.ended(g)
}

// ended notes what becomes of a device of which there is no descriptor any more.
func (s *story) ended(g *given) {
	if len(g.fds)+len(g.flights) > 0 {
		return
	}
	s.devices = slices.DeleteFunc(s.devices, func(o *given) bool { return o == g })
	if g.visible || g.tap() && (g.persistent || g.sacrificed) {
		s.left = append(s.left, &leftover{name: g.name, index: g.index, visible: g.visible, now: g.now, owner: g.owner, multi: g.multi})
	}
}

// reopen closes a device and asks for the same at once, which has to be given.
func (s *story) reopen() {
	g := s.someDevice(func(g *given) bool { return !g.sacrificed })
	if g == nil {
		return
	}
	name := g.profile
	if name == "" {
		name = "br0"
	}
	v := s.request(g.uid, name, "")
	o := s.conf.offers[name]
	same := o != nil && o.allows(g.uid) && g.known && o.rightMAC(g.uid, g.mac) && g.mac != systemMAC && (!g.whole || g.now == g.mac && g.mac == s.host[g.on].mac)
	if same {
		v.mac = g.mac
		his, all := 0, len(s.left)
		for _, d := range s.devices {
			if d != g && d.profile == name {
				all++
				if d.uid == g.uid {
					his++
				}
			}
			if d != g && d.on == g.on && d.now != d.mac && !d.isolated {
				same = false
			}
		}
		same = same && his+len(s.left) < o.perUser && all < o.max && !g.persistent && len(s.visits) == 0 && g.uid != 0
	}
	s.note("reopen %s as %s/%s", g.name, name, v.mac)
	s.closeAll(g)
	v.spoiled = "at once"
	s.start(v)
	v.must = same
	if d := s.collect(v); d == nil && same {
		s.must(false, "not given again")
	}
}

// passOn copies a descriptor, or sends it to somebody who has not taken it yet.
func (s *story) passOn() {
	g := s.someDevice(func(g *given) bool { return len(g.fds) > 0 || len(g.flights) > 0 })
	if g == nil {
		return
	}
	if len(g.flights) > 0 && s.chance(60) {
		p := g.flights[0]
		g.fds = append(g.fds, receiveAll(p[1])...)
		s.note("take a descriptor of %s", g.name)
		s.closeFlight(g, 0)
		s.ended(g)
		return
	}
	if len(g.fds) == 0 {
		return
	}
	if s.chance(40) {
		dup, err := unix.FcntlInt(uintptr(g.fds[0]), unix.F_DUPFD_CLOEXEC, 0)
		s.must(err == nil, "%v", err)
		s.note("copy a descriptor of %s", g.name)
		g.fds = append(g.fds, dup)
		return
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	s.must(err == nil, "%v", err)
	err = unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(g.fds[0]), nil, 0)
	s.must(err == nil, "%v", err)
	s.note("send a descriptor of %s", g.name)
	unix.Close(g.fds[0])
	g.fds = g.fds[1:]
	g.flights = append(g.flights, pair)
}

// takeAddress gives a device an address, as its holder.
func (s *story) takeAddress() {
	g := s.someDevice(func(g *given) bool { return len(g.fds) > 0 && !g.sacrificed })
	if g == nil {
		return
	}
	mac := s.someMAC()
	quiet := g.isolated && len(s.visits) == 0
	var before []string
	own := ""
	if quiet {
		before, own = s.permanent(""), s.portMAC(g)
	}
	err := s.as(g.uid, func() error { return setHardwareAddress(g.fds[0], mac) })
	s.note("%s takes %s: %v", g.name, mac, err)
	if err == nil {
		g.now = mac
	}
	if quiet {
		s.must(slices.Equal(before, s.permanent("")), "%s has taken %s: the bridge had %q, and has %q", g.name, mac, before, s.permanent(""))
		s.must(own == s.portMAC(g), "the port of %s had %s, and has %s", g.name, own, s.portMAC(g))
	}
}

// portMAC is the address that the host sees.
func (s *story) portMAC(g *given) string {
	l, err := net.InterfaceByName(g.name)
	if err != nil {
		return ""
	}
	return l.HardwareAddr.String()
}

func setHardwareAddress(fd int, mac string) error {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	var r struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		mac    [6]byte
		_      [16]byte
	}
	r.family = unix.ARPHRD_ETHER
	copy(r.mac[:], hw)
	if err := ioctl(uintptr(fd), unix.TUNGETIFF, &r.name); err != nil {
		return err
	}
	return ioctl(uintptr(fd), unix.SIOCSIFHWADDR, &r.name)
}

// tunIoctls are some of the driver's calls, by holders.
func (s *story) tunIoctls() {
	for range 1 + s.rng.IntN(4) {
		g := s.someDevice(func(g *given) bool { return len(g.fds) > 0 && g.tap() })
		if g == nil || s.chance(40) {
			g = s.someDevice(func(g *given) bool { return len(g.fds) > 0 })
		}
		if g != nil {
			s.tunIoctl(g)
		}
	}
}

func (s *story) tunIoctl(g *given) {
	fd := oneOf(s, g.fds...)
	name := oneOf(s, "persist", "persist", "persist", "owner", "owner", "group", "link", "queue", "queue", "carrier", "index", "sndbuf", "header", "offload", "interface")
	value := min(1, s.rng.IntN(3))
	err := s.as(g.uid, func() error {
		switch name {
		case "persist":
			return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, value)
		case "owner":
			value = oneOf(s, 0, alice, bob, stranger, -1)
			return unix.IoctlSetInt(fd, unix.TUNSETOWNER, value)
		case "group":
			value = oneOf(s, 0, alice, stranger)
			return unix.IoctlSetInt(fd, unix.TUNSETGROUP, value)
		case "link":
			value = oneOf(s, unix.ARPHRD_LOOPBACK, unix.ARPHRD_ETHER, unix.ARPHRD_NONE)
			return unix.IoctlSetInt(fd, unix.TUNSETLINK, value)
		case "carrier":
			return unix.IoctlSetPointerInt(fd, unix.TUNSETCARRIER, value)
		case "index":
			value = 1 << 30
			return unix.IoctlSetPointerInt(fd, unix.TUNSETIFINDEX, value)
		case "sndbuf":
			value = oneOf(s, 1, 1500, 1<<30)
			return unix.IoctlSetPointerInt(fd, unix.TUNSETSNDBUF, value)
		case "header":
			value = oneOf(s, 10, 12, 20, 100)
			return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, value)
		case "offload":
			value = oneOf(s, 0, 1, 3, 0x1f, 0xff)
			return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, value)
		}
		r, err := unix.NewIfreq(oneOf(s, "x", g.name, "eth0", "v0"))
		if err != nil {
			return err
		}
		if name == "queue" {
			value = oneOf(s, unix.IFF_ATTACH_QUEUE, unix.IFF_DETACH_QUEUE)
			r.SetUint16(uint16(value))
			return unix.IoctlIfreq(fd, unix.TUNSETQUEUE, r)
		}
		value = unix.IFF_TAP | oneOf(s, 0, unix.IFF_NO_PI, unix.IFF_VNET_HDR, unix.IFF_MULTI_QUEUE, unix.IFF_NO_PI|unix.IFF_VNET_HDR, 0x10)
		r.SetUint16(uint16(value))
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	})
	s.note("%s: %s %d: %v", g.name, name, value, err)
	if err != nil {
		return
	}
	switch name {
	case "persist":
		g.persistent = value != 0 && g.tap() // in a namespace of its own it has no effect
	case "owner":
		g.owner = uint32(value)
	case "header":
		g.vnet = false // or true: what it writes is rubbish from now on
	}
	if (name == "carrier" || name == "persist") && g.tap() && !g.multi {
		g.sacrificed = g.sacrificed || name == "carrier" && value == 0
	}
}

// joinByName tries to get a queue of another's device.
func (s *story) joinByName() {
	type target struct {
		name  string
		owner uint32
		multi bool
		g     *given
	}
	var targets []target
	for _, g := range s.devices {
		targets = append(targets, target{g.name, g.owner, g.multi, g})
	}
	for _, l := range s.left {
		targets = append(targets, target{l.name, l.owner, l.multi, nil})
	}
	if len(targets) == 0 {
		return
	}
	t := oneOf(s, targets...)
	if !s.linkExists(t.name) { // it would be made, which takes a right; and that of an anonymous namespace is not here
		return
	}
	uid := oneOf(s, uint32(alice), bob, stranger)
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if t.multi {
		flags |= unix.IFF_MULTI_QUEUE
	}
	var fd int
	err := s.as(uid, func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		r, err := unix.NewIfreq(t.name)
		if err == nil {
			r.SetUint16(flags)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
		}
		if err != nil {
			unix.Close(fd)
		}
		return err
	})
	s.note("%d joins %s: %v", uid, t.name, err)
	if err != nil {
		return
	}
	defer func() {
		if t.g != nil {
			t.g.fds = append(t.g.fds, fd)
		} else {
			unix.Close(fd)
		}
	}()
	s.must(t.owner == uid, "%d joins %s, whose owner is %d", uid, t.name, t.owner)
}

// frames are sent by holders, as themselves and as others, and to holders from the wire.
func (s *story) frames() {
	for range 1 + s.rng.IntN(4) {
		g := s.someDevice(func(g *given) bool { return len(g.fds) > 0 })
		if g == nil {
			return
		}
		var header []byte
		if g.vnet {
			header = make([]byte, 10)
		}
		dst := oneOf(s, everybody, s.someMAC())
		frames := [][]byte{eth(s.t, fmt.Sprint("of ", g.index), dst, g.mac, experimental)}
		if src := s.someMAC(); !g.spoof && src != g.mac {
			frames = append(frames, eth(s.t, fmt.Sprint("as another ", g.index), dst, src, experimental))
			if g.now != g.mac {
				frames = append(frames, eth(s.t, fmt.Sprint("as another ", g.index), dst, g.now, experimental))
			}
		}
		s.note("%s speaks", g.name)
		for _, f := range frames {
			_, _ = unix.Write(oneOf(s, g.fds...), append(slices.Clone(header), f...))
		}
		far := map[string]string{"v0": "v1", "v2": "v3", "v4": "v5", "br0": "b1"}[g.on]
		for _, dst := range []string{g.mac, g.now, s.someMAC()} {
			shout(s.t, far, eth(s.t, "for "+dst, dst, router, experimental))
		}
		if s.chance(30) { // rubbish
			b := make([]byte, s.rng.IntN(300))
			fillRandom(s.rng, b)
			_, _ = unix.Write(oneOf(s, g.fds...), b)
		}
	}
}

func fillRandom(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}
