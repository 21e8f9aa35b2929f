//go:build integration

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/client"
	"libvirt-direct/helper/internal/macvtap"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/registry"
	"libvirt-direct/helper/tapname"
)

// helperLife is how long a helper may live: five seconds, and what it takes to begin and to end.
const helperLife = 6 * time.Second

// collect waits for the end of a call and judges it. It returns the device, nil if there is none.
func (s *story) collect(v *visit) *given {
	select {
	case <-v.done:
	case <-time.After(time.Until(v.began.Add(helperLife))):
		// Who stops it before its first own instruction is not stopped by its timer, and has taken nobody's place.
		s.must(strings.Contains(v.spoiled, "stopped"), "process %d has not ended after %v", v.cmd.Process.Pid, helperLife)
		_ = v.cmd.Process.Kill()
		<-v.done
	}
	s.visits = slices.DeleteFunc(s.visits, func(o *visit) bool { return o == v })
	s.readLog()
	if s.logOff != "" {
		s.setLog("")
	}
	lines := s.linesOf(v)
	files := receiveAll(v.ours)
	unix.Close(v.ours)
	kept := false
	defer func() {
		for _, fd := range files {
			if !kept { // the story breaks off
				unix.Close(fd)
			}
		}
	}()
	s.judgeEnd(v, len(files), lines)
	if len(files) == 0 {
		return nil
	}
	g := s.judgeGrant(v, files, lines)
	s.devices, kept = append(s.devices, g), true
	s.judgeShares(v, g)
	s.judgeSweep(v, g)
	return g
}

// linesOf are the lines that a call's process wrote. That of a program under strace is known by being nobody else's.
func (s *story) linesOf(v *visit) (out []logLine) {
	for pid, lines := range s.lines {
		theirs := slices.ContainsFunc(s.visits, func(o *visit) bool { return o.cmd.Process.Pid == pid })
		if pid == v.cmd.Process.Pid || v.strace && !theirs {
			out = append(out, lines...)
			delete(s.lines, pid)
		}
	}
	return out
}

// receiveAll takes the descriptors that were sent.
func receiveAll(socket int) (fds []int) {
	for {
		b, oob := make([]byte, 4096), make([]byte, 1024)
		n, oobn, _, _, err := unix.Recvmsg(socket, b, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return fds
		}
		msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for i := range msgs {
			got, _ := unix.ParseUnixRights(&msgs[i])
			fds = append(fds, got...)
		}
	}
}

// judgeEnd compares how the call ended with the log.
func (s *story) judgeEnd(v *visit, files int, lines []logLine) {
	status := v.cmd.ProcessState.Sys().(syscall.WaitStatus)
	code, text := v.cmd.ProcessState.ExitCode(), v.stderr.String()
	s.note("process %d: %v, %d descriptors, %d lines, %.300q", v.cmd.Process.Pid, v.cmd.ProcessState, files, len(lines), text)
	grants, stopped := 0, v.spoiled == "stopped"
	for _, l := range lines {
		s.must(l.uid == v.uid, "a line about another user: %q", l.text)
		if l.granted {
			grants++
		}
	}
	s.must(len(lines) <= 1, "%d lines for one call: %+v", len(lines), lines)
	s.must(files == 0 || grants == 1, "descriptors without a line")
	s.must(v.logOff == "" || files == 0, "descriptors, though nobody takes the log's line")
	list := slices.Contains(v.arguments(), "--list")
	switch {
	case status.Signaled():
		s.must(v.signalled || stopped || v.limited, "ended by %v", status.Signal())
	case code == 0 && !list:
		s.must(files > 0, "status 0 without a descriptor")
	case code == 126 || code == 127:
		s.must(len(v.wrap) > 0 && v.limited, "status %d", code)
	case code == 0 || code == 1 || code == 2:
		s.must(files == 0 || code == 0, "status %d and %d descriptors", code, files)
		s.must(code != 2 || v.limited || v.env != nil, "status 2: %s", text)
	default:
		s.must(false, "status %d: %s", code, text)
	}
	if files == 0 && grants > 0 {
		s.must(v.signalled || stopped || v.peer != "", "a line without descriptors: %q", lines[0].text)
	}
	if v.must {
		s.must(files > 0, "nothing stood against it, and it was refused: %d %s", code, text)
	}
	if v.mute || code != 1 || v.strace || v.limited {
		return
	}
	s.must(strings.Count(text, "\n") == 1 && strings.HasSuffix(text, "\n"), "not one line: %q", text)
	for _, c := range strings.TrimSuffix(text, "\n") {
		s.must(c >= ' ' && c <= '~', "a control character in %q", text)
	}
	decided := strings.HasPrefix(text, program+": access denied by acl file: ") || v.argv == nil && strings.HasPrefix(text, program+": "+v.name+": ")
	if decided && v.logOff == "" {
		s.must(len(lines) == 1 && grants == 0, "refused without a line: %s", text)
	}
}

// judgeGrant compares a device with what the configuration and the log say.
func (s *story) judgeGrant(v *visit, fds []int, lines []logLine) *given {
	g := &given{uid: v.uid, fds: fds, vnet: v.vnet}
	for _, fd := range fds {
		_ = unix.SetNonblock(fd, true)
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		s.must(err == nil, "%v", err)
		f := os.NewFile(uintptr(dup), "tap")
		d, err := client.Inspect(f)
		f.Close()
		s.must(err == nil, "the descriptor is of no device: %v", err)
		s.must(g.name == "" || g.name == d.Name, "descriptors of two devices: %s and %s", g.name, d.Name)
		g.name, g.mac = d.Name, d.MAC.String()
	}
	index, err := strconv.ParseInt(g.name[3:], 16, 32)
	s.must(err == nil && index >= tapname.MinIndex, "a device called %s", g.name)
	g.index, g.now, g.multi = int(index), g.mac, len(fds) > 1
	l := lines[0]
	if strings.HasPrefix(g.name, "tap") {
		s.must(l.index == g.index, "the log has index %d, the device %d", l.index, g.index)
	}
	for _, o := range s.devices {
		s.must(o.index != g.index, "%s was given twice", g.name)
	}
	if v.argv != nil { // what was asked for is in what the arguments have become
		for _, a := range v.argv {
			if n, ok := strings.CutPrefix(a, "--br="); ok {
				v.name, v.mac, _ = strings.Cut(n, "/")
			}
		}
		g.vnet = slices.Contains(v.argv, "--use-vnet")
	} else {
		s.must(len(fds) == v.queues, "%d descriptors instead of %d", len(fds), v.queues)
	}
	var why []string
	for _, c := range v.confs {
		o := c.offers[v.name]
		switch {
		case o == nil && (v.name == "br0" || v.name == "alt0") && c.allowed():
			g.family, g.profile, g.on = &plain, "", "br0"
		case o == nil:
			why = append(why, "no such profile or bridge")
			continue
		case !o.allows(v.uid):
			why = append(why, "not for him")
			continue
		default:
			g.family, g.profile = o.family, o.name
			g.on = o.lowers[0]
			if o.whole {
				for _, lower := range o.lowers {
					if strings.EqualFold(s.lineValue(l, "lower"), lower) {
						g.on = lower
					}
				}
			}
			if g.kind == "macvtap" || l.mac != "" {
				g.known = true
			}
			if l.mac != "" && !o.rightMAC(v.uid, l.mac) {
				why = append(why, "not his address: "+l.mac)
				continue
			}
		}
		why = nil
		break
	}
	s.must(why == nil && g.family != nil, "given against the configuration: %v", why)
	if g.profile != "" && v.mac != "" {
		s.must(strings.EqualFold(l.mac, v.mac), "asked for %s, logged %s", v.mac, l.mac)
	}
	if g.kind == "macvtap" {
		s.must(l.mac == g.mac, "the log has %s, the device %s", l.mac, g.mac)
		s.must(g.name[:3] == "mvt", "%s", g.name)
	} else {
		s.must(g.name[:3] == "tap", "%s", g.name)
		if g.profile != "" && l.mac != "" {
			g.mac = l.mac
			g.now = l.mac
		}
	}
	return g
}

func (s *story) lineValue(l logLine, key string) string {
	_, rest, _ := strings.Cut(l.text, " "+key+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// judgeShares looks at limits and addresses after a grant.
func (s *story) judgeShares(v *visit, g *given) {
	if g.profile == "" {
		return
	}
	perUser, most := 0, 0
	for _, c := range v.confs {
		if o := c.offers[g.profile]; o != nil {
			perUser, most = max(perUser, o.perUser), max(most, o.max)
		}
	}
	his, all := 0, 0
	for _, o := range s.devices {
		if o.profile == g.profile && !o.sacrificed {
			all++
			if o.uid == g.uid {
				his++
			}
		}
		if o != g && o.profile != "" && o.known && g.known && o.on == g.on && !o.sacrificed {
			s.must(o.mac != g.mac, "%s and %s on %s both have %s", o.name, g.name, g.on, g.mac)
			s.must(!o.whole, "%s and %s both have %s whole", o.name, g.name, g.on)
		}
	}
	s.must(his <= perUser, "%d devices of %s for user %d, who may have %d", his, g.profile, g.uid, perUser)
	s.must(all <= most, "%d devices of %s, of which there may be %d", all, g.profile, most)
}

// judgeSweep says that a grant removes what others of its kind have left.
func (s *story) judgeSweep(v *visit, g *given) {
	taps := 0
	for _, l := range v.before {
		if !l.visible {
			taps++
		}
	}
	for _, l := range v.before {
		if l.visible && g.visible || !l.visible && g.tap() && taps <= 8 {
			s.must(!s.linkExists(l.name), "%s is still there after the grant of %s", l.name, g.name)
		}
	}
}

// linkExists asks the story's own network, of which /sys knows nothing.
func (s *story) linkExists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// mustGrant reports whether nothing stands against a request. The host is settled.
func (s *story) mustGrant(v *visit) bool {
	if len(s.visits) > 0 || v.peer != "" || v.queues > 8 {
		return false
	}
	o := s.conf.offers[v.name]
	if o == nil {
		return (v.name == "br0" || v.name == "alt0") && s.conf.allowed()
	}
	if !o.allows(v.uid) {
		return false
	}
	his, all, lowers := 0, len(s.left), slices.Clone(o.lowers)
	for _, g := range s.devices {
		if g.profile == o.name {
			all++
			if g.uid == v.uid {
				his++
			}
		}
		if g.whole {
			lowers = slices.DeleteFunc(lowers, func(l string) bool { return l == g.on })
		}
		if g.on == o.lowers[0] && !g.isolated && g.now != g.mac && g.kind == "macvtap" {
			return false // he may have an address that this one needs
		}
	}
	switch {
	case his+len(s.left) >= o.perUser || all >= o.max || len(lowers) == 0:
		return false
	case v.mac != "":
		return strings.HasPrefix(v.mac, "52:54:00:10:") && v.mac == fmt.Sprintf("52:54:00:10:%02x:%02x", s.macs>>8, s.macs&0xff) && o.rightMAC(v.uid, v.mac) && !(o.whole && !strings.Contains(o.rule, "*"))
	case strings.Contains(o.rule, "derived"):
		// Somebody may have asked for one of them by name.
		return !slices.ContainsFunc(s.devices, func(g *given) bool { return g.profile != o.name && slices.Contains(derivedFor(v.uid, o.name), g.mac) })
	case o.rule == "any":
		return o.spoof
	}
	return strings.HasPrefix(o.rule, "lower")
}

// existing is what the kernel has.
type existing struct {
	links  map[string]net.Interface
	spaces map[int]bool // ids of network namespaces
}

func (s *story) look() existing {
	k := existing{links: map[string]net.Interface{}, spaces: map[int]bool{}}
	links, err := net.Interfaces()
	s.must(err == nil, "%v", err)
	for _, l := range links {
		k.links[l.Name] = l
		if l.Index >= tapname.MinIndex {
			s.known[l.Index] = true
		}
	}
	for line := range strings.Lines(run(s.t, "ip", "netns", "list-id")) {
		var id int
		if _, err := fmt.Sscanf(line, "nsid %d", &id); err == nil {
			k.spaces[id] = true
			s.known[id] = true
		}
	}
	for _, r := range s.records() {
		s.known[int(r.index)] = true
	}
	return k
}

// settle waits until the kernel has what it has to have, and nothing else.
func (s *story) settle() {
	s.overdue()
	s.readLog()
	if len(s.visits) == 0 {
		s.must(len(s.lines) == 0, "lines of nobody's: %v", s.lines)
	}
	for end := time.Now().Add(waitLimit); ; time.Sleep(2 * time.Millisecond) {
		k := s.look()
		wrong := s.compare(k)
		if wrong == "" {
			s.compareRecords(k)
			break
		}
		s.must(time.Now().Before(end), "%s", wrong)
	}
	s.listen()
}

// overdue says that no helper lives for too long.
func (s *story) overdue() {
	for _, v := range s.visits {
		if time.Since(v.began) < helperLife {
			continue
		}
		select {
		case <-v.done:
		case <-time.After(100 * time.Millisecond): // to be noticed
			s.must(false, "process %d has not ended after %v", v.cmd.Process.Pid, time.Since(v.began))
		}
	}
}

// compare says what is not as it has to be, and may yet become so.
func (s *story) compare(k existing) string {
	s.left = slices.DeleteFunc(s.left, func(l *leftover) bool { _, ok := k.links[l.name]; return !ok })
	links, spaces := map[string]bool{}, map[int]bool{}
	held := map[string]string{} // lower devices that somebody has whole
	var lost string
	for _, g := range s.devices {
		if g.sacrificed {
			links[g.name] = true
			continue
		}
		if g.kind == "bridge" || g.visible {
			links[g.name] = true
			if _, ok := k.links[g.name]; !ok {
				lost = g.name + " is gone, which somebody holds"
			}
		}
		spaces[g.index] = true
		if g.pinned() {
			if !k.spaces[g.index] {
				lost = fmt.Sprintf("the namespace of %s is gone, which somebody holds", g.name)
			}
		}
		if g.whole {
			held[g.on] = g.name
		}
	}
	s.must(lost == "", "%s", lost)
	for _, l := range s.left {
		links[l.name] = true
	}
	var noted []string
	for name, l := range k.links {
		if was, ok := s.host[name]; ok {
			s.must(l.Index == was.index && (l.Flags&net.FlagUp != 0) == was.up, "%s has changed: %+v", name, l)
			if l.HardwareAddr.String() != was.mac && held[name] == "" {
				if name != "v2" && name != "v4" {
					s.must(false, "%s has the address %s", name, l.HardwareAddr)
				}
				noted = append(noted, name+" has the address "+l.HardwareAddr.String())
			}
			continue
		}
		switch {
		case links[name]:
		case s.seen && len(s.visits) == 0 && strings.HasPrefix(name, "mvt") && !k.spaces[macvtap.ID(name)]:
			// Of a call that was killed.
			s.left = append(s.left, &leftover{name: name, index: l.Index, visible: true, now: l.HardwareAddr.String()})
		default:
			noted = append(noted, name)
		}
	}
	for name := range s.host {
		if _, ok := k.links[name]; !ok {
			s.must(false, "%s is gone", name)
		}
	}
	for id := range k.spaces {
		if !spaces[id] {
			noted = append(noted, fmt.Sprint("namespace ", id))
		}
	}
	if len(s.visits) > 0 || len(noted) == 0 { // a call in progress may have a device
		return ""
	}
	return fmt.Sprintf("there is what nobody holds: %q", noted)
}

// record is one of the registry's, read as its documentation says.
type record struct {
	index, uid, link uint32
	slot, kind       uint8
	mac, profile     string
}

func (s *story) records() (out []record) {
	b, _ := os.ReadFile(registry.Dir + "/" + registry.File + strconv.FormatUint(s.inode, 10))
	for ; len(b) >= 64; b = b[64:] {
		r := record{
			index: binary.NativeEndian.Uint32(b), uid: binary.NativeEndian.Uint32(b[4:]), link: binary.NativeEndian.Uint32(b[8:]),
			slot: b[12], kind: b[13], mac: net.HardwareAddr(b[14:20]).String(), profile: unix.ByteSliceToString(b[24:56]),
		}
		if r.index != 0 {
			out = append(out, r)
		}
	}
	return out
}

// compareRecords says that there is one living record for each device of a profile's, and no other.
func (s *story) compareRecords(k existing) {
	if len(s.visits) > 0 {
		return
	}
	exists := map[int]bool{}
	for _, l := range k.links {
		exists[l.Index] = true
	}
	byIndex, slots, macs := map[int]record{}, map[string]bool{}, map[string]bool{}
	for _, r := range s.records() {
		if !k.spaces[int(r.index)] && !exists[int(r.index)] {
			continue
		}
		_, twice := byIndex[int(r.index)]
		s.must(!twice, "two records of %x", r.index)
		byIndex[int(r.index)] = r
		slot, mac := fmt.Sprint(r.uid, r.profile, r.slot), fmt.Sprint(r.link, r.mac)
		s.must(!slots[slot], "one slot twice: %+v", r)
		s.must(!macs[mac] || r.mac == "00:00:00:00:00:00", "one address twice: %+v", r)
		slots[slot], macs[mac] = true, true
	}
	for _, g := range s.devices {
		r, ok := byIndex[g.index]
		delete(byIndex, g.index)
		if g.profile == "" || g.sacrificed {
			s.must(!ok || g.sacrificed, "%s is counted: %+v", g.name, r)
			continue
		}
		s.must(ok, "%s has no record", g.name)
		kind := policy.Macvtap
		if g.kind == "bridge" {
			kind = policy.Bridge
		}
		mac := "00:00:00:00:00:00"
		if g.known {
			mac = g.mac
		}
		s.must(r.uid == g.uid && r.profile == g.profile && r.mac == mac && policy.Kind(r.kind) == kind && int(r.link) == s.host[g.on].index,
			"%s, address %s, of user %d, profile %s on %s, is recorded as %+v", g.name, mac, g.uid, g.profile, g.on, r)
	}
	for _, l := range s.left {
		delete(byIndex, l.index)
	}
	s.must(len(byIndex) == 0, "records of nobody's: %+v", byIndex)
}

// listen says that the wire has not heard what nobody may say.
func (s *story) listen() {
	for dev, fd := range s.ears {
		for {
			b := make([]byte, 2048)
			n, from, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				break
			}
			if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			s.must(!strings.HasPrefix(textOf(b[:n]), "as another"), "heard on %s: %q", dev, b[:n])
		}
	}
	for _, g := range s.devices {
		for _, text := range drainQueues(g.fds) {
			mac, ok := strings.CutPrefix(text, "for ")
			s.must(!ok || g.kind != "macvtap" || mac == g.mac, "%s, whose address is %s, reads what is for %s", g.name, g.mac, mac)
		}
	}
}

// permanent is what the bridge never forgets, apart from a device.
func (s *story) permanent(except string) (out []string) {
	for line := range strings.Lines(run(s.t, "bridge", "fdb", "show", "br", "br0")) {
		if strings.Contains(line, "permanent") && !strings.Contains(line, " dev "+except+" ") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	slices.Sort(out)
	return out
}

// systemGuest stops root's guest and starts it again.
func (s *story) systemGuest() {
	for _, g := range s.devices {
		if g.on == "v0" && (g.mac == systemMAC || g.now == systemMAC && !g.isolated) {
			return // he was given it, or has a device without isolation
		}
	}
	for _, l := range s.left {
		if l.visible && l.now == systemMAC {
			return
		}
	}
	if len(s.visits) > 0 {
		return
	}
	s.note("guest0 stops and starts")
	run(s.t, "ip", "link", "set", "guest0", "down")
	out, err := exec.Command("ip", "link", "set", "guest0", "up").CombinedOutput()
	s.must(err == nil, "guest0 cannot be started: %s", out)
}
