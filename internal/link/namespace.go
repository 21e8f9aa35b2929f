package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Upper is a device of another network namespace.
type Upper struct {
	Name string
	Kind string // "macvlan", "vlan" …
	Mode string // a macvlan's or macvtap's, in libvirt's words
	// Where names the namespace for a person: "the network namespace of process 7
	// (nginx)".
	Where string
}

// Elsewhere is what other network namespaces have to do with the devices of one. The
// zero value, and nil, know of nothing.
type Elsewhere struct {
	// Uppers are the devices in other namespaces that stand on a device of this one, by
	// its index.
	Uppers map[int][]Upper
	// Devices are the network devices in other namespaces that a driver has made, by the
	// name of the device on its bus, "0000:03:10.0".
	Devices map[string]Upper
	// Unknown tells of namespaces that could not be looked into: each is a possible use
	// of every device.
	Unknown []Use
}

// Uses lists what stands on the device with that index, and Unknown.
func (e *Elsewhere) Uses(index int) []Use {
	if e == nil {
		return nil
	}
	var uses []Use
	for _, u := range e.Uppers[index] {
		uses = append(uses, u.use())
	}
	return append(uses, e.Unknown...)
}

func (u Upper) use() Use {
	what := strings.TrimSpace(u.Kind + " " + u.Name)
	if u.Mode != "" {
		what += " (" + u.Mode + ")"
	}
	return Use{Kind: UseElsewhere, Evidence: what + " stands on it in " + u.Where}
}

func (e *Elsewhere) device(onBus string) (Upper, bool) {
	if e == nil {
		return Upper{}, false
	}
	u, ok := e.Devices[onBus]
	return u, ok
}

// UppersEverywhere lists what stands on a device in this network namespace and in every
// other one that can be found. sysfs, and so Uppers, shows this namespace's alone, but
// with a device the kernel removes the macvlans, ipvlans and VLANs on it wherever they
// are. A namespace that cannot be looked into is a use of kind UseUnknown.
//
// It costs about as much as Elsewhere: some milliseconds. A device that is not there is
// an error matching ErrNotFound.
func (c *Conn) UppersEverywhere(ctx context.Context, name string) ([]Use, error) {
	d, err := c.device(ctx, name)
	if err != nil {
		return nil, err
	}
	fail := func(err error) ([]Use, error) {
		return nil, &OpError{Op: "list what stands on", Link: name, Err: mapErrno(err)}
	}
	uses, err := c.masterUse(ctx, d)
	if err != nil {
		return fail(err)
	}
	uppers, err := sys.upperUses(d.Name)
	if err != nil {
		return fail(err)
	}
	uses = append(uses, uppers...)
	uses = append(uses, c.Elsewhere(ctx).Uses(d.Index)...)
	if len(uses) == 0 {
		if uses, err = c.filterUses(ctx, d); err != nil {
			return fail(err)
		}
	}
	return uses, nil
}

// Elsewhere looks into the network namespaces other than this one: those of processes
// that /proc shows, those that are mounted (`ip netns`, container runtimes), and those
// to which the kernel has given an identifier here, as it does when a device moves
// there. Not found is what neither of the three shows: one that only another thread than
// a process's first is in, or only an open file or a socket holds.
//
// It takes CAP_NET_ADMIN and neither ptrace nor setns: the kernel lists the links of a
// namespace that has an identifier here (IFLA_TARGET_NETNSID, Linux 4.15), and one that
// has none yet is given one, which stays as long as it does (`ip netns list-id`).
//
// The cost is a look at each process, and a list of links for each namespace. What
// cannot be looked into, or not before ctx ends, is in Unknown.
func (c *Conn) Elsewhere(ctx context.Context) *Elsewhere {
	e := &Elsewhere{Uppers: map[int][]Upper{}, Devices: map[string]Upper{}}
	own, err := c.ownSpace()
	if err != nil {
		e.unknown("other network namespaces", err)
		return e
	}
	defer unix.Close(own)
	spaces := c.spaces(ctx, e)
	self, err := c.spaceID(ctx, nl.NewRtAttr(unix.NETNSA_FD, nl.Uint32Attr(uint32(own))))
	if err != nil {
		e.unknown("this network namespace", err)
		return e
	}
	delete(spaces, self)
	links := map[int][]device{}
	for _, id := range slices.Sorted(maps.Keys(spaces)) {
		devices, err := c.linksOf(ctx, id)
		switch {
		case errors.Is(err, unix.EINVAL): // it has gone meanwhile
		case err != nil:
			e.unknown(spaces[id].String(), err)
		default:
			links[id] = devices
		}
	}
	// The kernel gives this namespace an identifier when it first has to mention it,
	// which may have been in these lists.
	if self == noSpace {
		if self, err = c.spaceID(ctx, nl.NewRtAttr(unix.NETNSA_FD, nl.Uint32Attr(uint32(own)))); err != nil {
			e.unknown("this network namespace", err)
			return e
		}
	}
	for _, id := range slices.Sorted(maps.Keys(links)) {
		for _, d := range links[id] {
			upper := self != noSpace && d.ParentElsewhere && d.parentSpace == self && !peer(d.Kind)
			if !upper && d.parentDevice == "" {
				continue
			}
			u := Upper{Name: d.Name, Kind: d.Kind, Mode: d.Mode, Where: spaces[id].String()}
			if upper {
				e.Uppers[d.Parent] = append(e.Uppers[d.Parent], u)
			}
			if d.parentDevice != "" {
				e.Devices[d.parentDevice] = u
			}
		}
	}
	return e
}

// peer reports whether a kind's IFLA_LINK is its other end and nothing that it stands on.
func peer(kind string) bool { return kind == "veth" || kind == "netkit" || kind == "vxcan" }

func (e *Elsewhere) unknown(what string, err error) {
	err = fmt.Errorf("look into %s: %w", what, err)
	e.Unknown = append(e.Unknown, Use{
		Kind: UseUnknown, Evidence: "whether something stands on it there cannot be told: " + err.Error(), Err: err,
	})
}

// ownSpace opens the connection's own network namespace.
func (c *Conn) ownSpace() (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.sock.GetFd()), unix.SIOCGSKNS, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("SIOCGSKNS", errno)
	}
	unix.CloseOnExec(int(fd))
	return int(fd), nil
}

// noSpace is NETNSA_NSID_NOT_ASSIGNED.
const noSpace = unix.NETNSA_NSID_NOT_ASSIGNED

// space is a network namespace as a person knows it, by the first of these that is set.
type space struct {
	path string // where it is mounted
	pid  int    // a process in it
	id   int    // its identifier here
}

func (s space) String() string {
	switch {
	case s.path != "":
		return "the network namespace " + s.path
	case s.pid != 0:
		return "the network namespace of " + process("/proc", s.pid)
	}
	return fmt.Sprintf("a network namespace without a name (id %d in `ip netns list-id`)", s.id)
}

// spaces finds network namespaces, by their identifiers here. This one can be among
// them.
func (c *Conn) spaces(ctx context.Context, e *Elsewhere) map[int]space {
	found := map[int]space{}
	add := func(s space, peer *nl.RtAttr) error {
		id, err := c.identify(ctx, peer)
		if _, known := found[id]; err == nil && !known {
			found[id] = s
		}
		return err
	}
	mounts, err := mountedSpaces("/proc/thread-self/mountinfo")
	if err != nil {
		e.unknown("mounted network namespaces", err)
	}
	for _, m := range mounts {
		s := space{path: m.path}
		err := m.open(func(fd int) error { return add(s, nl.NewRtAttr(unix.NETNSA_FD, nl.Uint32Attr(uint32(fd)))) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			e.unknown(s.String(), err)
		}
	}
	processes, err := processSpaces("/proc")
	if err != nil {
		e.unknown("the processes' network namespaces", err)
	}
	for _, pids := range processes {
		s, err := space{}, error(unix.ESRCH)
		for _, s.pid = range pids { // the next, when one has ended
			if err = add(s, nl.NewRtAttr(unix.NETNSA_PID, nl.Uint32Attr(uint32(s.pid)))); !errors.Is(err, unix.ESRCH) {
				break
			}
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			e.unknown(s.String(), err)
		}
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETNSID, 0)
	req.AddData(family(unix.AF_UNSPEC))
	out, err := c.dump(ctx, req)
	for _, b := range out {
		var id int
		if id, err = parseSpaceID(b); err != nil {
			break
		}
		if _, known := found[id]; id != noSpace && !known {
			found[id] = space{id: id}
		}
	}
	if err != nil {
		e.unknown("network namespaces with an identifier", err)
	}
	return found
}

// identify returns the identifier that a namespace has here, and gives it one first
// where it has none.
func (c *Conn) identify(ctx context.Context, peer *nl.RtAttr) (int, error) {
	id, err := c.spaceID(ctx, peer)
	if err != nil || id != noSpace {
		return id, err
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWNSID, unix.NLM_F_ACK)
	req.AddData(family(unix.AF_UNSPEC))
	req.AddData(peer)
	choose := int32(noSpace) // which one is left to the kernel
	req.AddData(nl.NewRtAttr(unix.NETNSA_NSID, nl.Uint32Attr(uint32(choose))))
	if _, err := c.exchange(ctx, req); err != nil && !errors.Is(err, unix.EEXIST) {
		return noSpace, err
	}
	return c.spaceID(ctx, peer)
}

// spaceID asks for the identifier of a namespace here; noSpace where it has none.
func (c *Conn) spaceID(ctx context.Context, peer *nl.RtAttr) (int, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNSID, 0)
	req.AddData(family(unix.AF_UNSPEC))
	req.AddData(peer)
	b, err := c.exchange(ctx, req)
	if err != nil {
		return noSpace, err
	}
	return parseSpaceID(b)
}

// parseSpaceID reads the payload of an RTM_NEWNSID message, struct rtgenmsg and its
// attributes.
func parseSpaceID(b []byte) (id int, err error) {
	const header = 4 // of one octet, aligned
	if len(b) < header {
		return noSpace, fmt.Errorf("%w: %d octets", ErrMalformed, len(b))
	}
	id = noSpace
	err = EachAttr(b[header:], func(typ uint16, v []byte) error {
		var err error
		if typ == unix.NETNSA_NSID {
			id, err = u32(v)
		}
		return err
	})
	return id, err
}

// linksOf lists the links of the namespace with that identifier.
func (c *Conn) linksOf(ctx context.Context, id int) ([]device, error) {
	req := message(unix.RTM_GETLINK, 0, 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(id))))
	// No IFLA_EXT_MASK: with one the kernel first adds up how much it could have to say
	// of each link of this namespace (rtnl_calcit), which can have thousands.
	out, err := c.dump(ctx, req)
	if err != nil {
		return nil, err
	}
	devices := make([]device, 0, len(out))
	for _, b := range out {
		d, err := parseDevice(b)
		if err != nil {
			return nil, err
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// mountedSpace is a network namespace that is mounted.
type mountedSpace struct {
	path  string
	inode uint64
}

// mountedSpaces reads a mountinfo file of proc(5).
func mountedSpaces(file string) ([]mountedSpace, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseMountInfo(b), nil
}

func parseMountInfo(b []byte) []mountedSpace {
	var found []mountedSpace
	for line := range bytes.Lines(b) {
		// ID, parent, device, root and mount point; the root of a namespace is its name.
		fields := strings.Fields(string(line))
		if len(fields) < 5 {
			continue
		}
		name, isNet := strings.CutPrefix(fields[3], "net:[")
		inode, err := strconv.ParseUint(strings.TrimSuffix(name, "]"), 10, 64)
		if isNet && err == nil {
			found = append(found, mountedSpace{path: unescape(fields[4]), inode: inode})
		}
	}
	return found
}

// unescape undoes the octal escapes of proc(5).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (m mountedSpace) open(use func(fd int) error) error {
	fd, err := unix.Open(m.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Ino != m.inode {
		return errors.New("something else is mounted over it")
	}
	return use(fd)
}

// processSpaces sorts the processes by network namespace, the caller's own left out. It
// compares an inode of /proc/PID/net, of which each namespace has its own, since
// /proc/PID/ns/net may be read only by who may trace the process.
func processSpaces(proc string) ([][]int, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	own, err := spaceInode(proc + "/thread-self")
	if err != nil {
		return nil, err
	}
	at := map[uint64]int{}
	var found [][]int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		inode, err := spaceInode(proc + "/" + e.Name())
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) { // it has ended, or is about to
			continue
		}
		if err != nil {
			return found, fmt.Errorf("process %d: %w", pid, err)
		}
		if inode == own {
			continue
		}
		i, known := at[inode]
		if !known {
			i = len(found)
			at[inode] = i
			found = append(found, nil)
		}
		found[i] = append(found[i], pid)
	}
	return found, nil
}

func spaceInode(process string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(process+"/net/dev", &st)
	return st.Ino, os.NewSyscallError("stat", err)
}

func process(proc string, pid int) string {
	text := "process " + strconv.Itoa(pid)
	if name := word(filepath.Join(proc, strconv.Itoa(pid)), "comm"); name != "" {
		text += " (" + name + ")"
	}
	return text
}
