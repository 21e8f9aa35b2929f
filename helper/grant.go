package main

import (
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/account"
	"libvirt-direct/helper/internal/bridgeconf"
	"libvirt-direct/helper/internal/cmdline"
	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/fdpass"
	"libvirt-direct/helper/internal/macvtap"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/privilege"
	"libvirt-direct/helper/internal/registry"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/tap"
	"libvirt-direct/helper/internal/trusted"
	"libvirt-direct/helper/internal/tundev"
)

// session is one call.
type session struct {
	request cmdline.Request
	caller  policy.Caller
	peer    fdpass.Peer
	host    *rtnl.Conn // to the caller's network namespace
	probe   int        // any socket of that namespace
}

// device is what is handed out.
type device struct {
	kind   policy.Kind
	link   string // lower device or bridge
	name   string
	index  int
	mac    ether.MAC
	hasMAC bool
	fds    []int
}

// deniedError is a decision of the configuration's, not a failure.
type deniedError struct{ err error }

func (e *deniedError) Error() string { return e.err.Error() }
func (e *deniedError) Unwrap() error { return e.err }

func denied(text string) error { return &deniedError{errors.New(text)} }

// grant decides over the request and makes the device.
func (s *session) grant() (device, error) {
	p, err := s.profile()
	if err != nil {
		return device{}, err
	}
	if p == nil {
		return s.plainBridge()
	}
	d := device{kind: p.Kind}
	if s.request.Queues > p.Queues {
		return d, denied("at most " + strconv.Itoa(p.Queues) + " queues")
	}
	if err := s.dial(); err != nil {
		return d, err
	}
	switch p.Kind {
	case policy.Macvtap:
		return s.macvtap(p)
	case policy.Bridge:
		return s.bridge(p)
	case policy.OVS:
		return s.ovs(p)
	}
	return d, errors.New("unknown kind of profile")
}

// profile finds the profile that the caller named, checks that he may use it, and returns nil if there is none of that
// name.
func (s *session) profile() (*policy.Profile, error) {
	c, err := config()
	if err != nil {
		return nil, &deniedError{err}
	}
	p := c.Profile(s.request.Name)
	if p == nil {
		return nil, nil
	}
	ok, err := p.Allows(s.caller, names())
	if err != nil {
		return nil, &deniedError{err}
	}
	if !ok {
		return nil, denied("the profile is not for you")
	}
	return p, nil
}

// config reads the profiles. A host without the file has none.
func config() (*policy.Config, error) {
	b, err := trusted.Read(policy.Path)
	if errors.Is(err, unix.ENOENT) {
		return &policy.Config{}, nil
	}
	if err != nil {
		return nil, err
	}
	return policy.Parse(b)
}

func names() policy.Names {
	in := func(path string) func(string) (uint32, bool, error) {
		return func(name string) (uint32, bool, error) {
			b, err := trusted.Read(path)
			if err != nil {
				return 0, false, err
			}
			id, ok := account.ID(b, name)
			return id, ok, nil
		}
	}
	return policy.Names{User: in("/etc/passwd"), Group: in("/etc/group")}
}

func (s *session) dial() (err error) {
	if s.host, err = rtnl.Dial(); err != nil {
		return err
	}
	s.probe, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return err
}

// aclFiles reads bridge.conf and its includes.
type aclFiles struct{}

func (aclFiles) ReadAsRoot(path string) ([]byte, error) { return trusted.Read(path) }

func (aclFiles) ReadAsCaller(path string) (b []byte, err error) {
	if e := privilege.AsCaller(func() { b, err = trusted.Read(path) }); e != nil {
		return nil, e
	}
	return b, err
}

// plainBridge is what qemu-bridge-helper does: a name that is no profile's is a bridge's.
func (s *session) plainBridge() (device, error) {
	d := device{kind: policy.Bridge, link: s.request.Name}
	if !policy.ValidDevice(s.request.Name) {
		return d, denied("no such profile, and no name for a bridge")
	}
	if err := s.dial(); err != nil {
		return d, err
	}
	// The rules are about the device, whatever name of it was asked for. For a name without a device they are read all the
	// same, so that a denial does not tell whether there is one.
	named := bridgeconf.Device{Names: []string{s.request.Name}}
	link, missing := s.host.LinkByName(s.request.Name)
	if missing == nil {
		named = bridgeconf.Device{Names: link.Names(), Alias: link.Alias}
	}
	if err := bridgeconf.Check(aclFiles{}, bridgeconf.Paths, named); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = errors.New("no such profile, and " + err.Error())
		}
		return d, &deniedError{err}
	}
	if s.request.Queues > policy.DefaultQueues {
		return d, denied("at most " + strconv.Itoa(policy.DefaultQueues) + " queues")
	}
	if missing != nil {
		return d, missing
	}
	return s.openTap(d, tap.Spec{Bridge: link})
}

// bridge hands out a TAP device as a profile says.
func (s *session) bridge(p *policy.Profile) (device, error) {
	d := device{kind: p.Kind, link: p.Bridge}
	link, err := s.host.LinkByName(p.Bridge)
	if err != nil {
		return d, errors.New("bridge " + p.Bridge + ": " + err.Error())
	}
	var r registry.Record
	var c policy.Candidate
	if err := patiently(func() (err error) { r, c, err = s.claim(p, link); return err }); err != nil {
		return d, err
	}
	spec := tap.Spec{
		Index: int(r.Index), Bridge: link, VLAN: p.VLAN, VLANs: p.GuestVLANs,
		Port: true, Isolate: p.Isolated, Learn: p.Learning,
	}
	d.mac, d.hasMAC = r.MAC, !c.None
	if p.AntiSpoof {
		spec.Guest = &d.mac
	}
	return s.openTap(d, spec)
}

func (s *session) openTap(d device, spec tap.Spec) (device, error) {
	random, err := randomWords()
	if err != nil {
		return d, err
	}
	if spec.Index == 0 {
		spec.Index = newIndex(random[0])
	}
	// With 0xfe in front it is higher than any other port's, so that the bridge does not take it for its own.
	spec.Own = ether.MAC{0xfe, byte(random[1]), byte(random[1] >> 8), byte(random[1] >> 16), byte(random[1] >> 24), byte(random[2])}
	spec.VNetHdr, spec.Queues = s.request.VNetHdr, s.request.Queues
	d.index, d.name = spec.Index, tap.Name(spec.Index)
	d.fds, err = tap.Open(s.host, spec)
	if err != nil {
		err = errors.New("failed to add interface `" + d.name + "' to bridge `" + d.link + "': " + err.Error())
	}
	return d, err
}

// macvtap hands out a macvtap device as a profile says.
func (s *session) macvtap(p *policy.Profile) (d device, err error) {
	err = patiently(func() (err error) {
		for _, name := range p.Lower {
			var retry bool
			d, retry, err = s.macvtapOn(p, name)
			if err == nil || !retry {
				break
			}
		}
		return err
	})
	return d, err
}

// macvtapOn reports whether another lower device is worth a try.
func (s *session) macvtapOn(p *policy.Profile, lower string) (d device, retry bool, err error) {
	d = device{kind: p.Kind, link: lower}
	link, err := s.host.LinkByName(lower)
	if err == nil {
		link, err = s.checkLower(link, p)
	}
	if err != nil {
		return d, p.Mode == policy.Passthrough, errors.New("lower device " + lower + ": " + err.Error())
	}
	d.link = link.Name
	r, _, err := s.claim(p, link)
	if err != nil {
		return d, errors.Is(err, registry.ErrMACInUse), err
	}
	d.mac, d.hasMAC, d.index, d.name = r.MAC, true, int(r.Index), macvtap.Name(int(r.Index))
	d.fds, err = macvtap.Open(s.host, macvtap.Spec{
		Index: d.index, Lower: link, Mode: p.Mode, MAC: r.MAC, Filter: p.AntiSpoof, VLANs: p.GuestVLANs,
		VNetHdr: s.request.VNetHdr, Queues: s.request.Queues, Visible: p.Visible,
	})
	if err != nil {
		return d, false, errors.New("macvtap on " + d.link + ": " + err.Error() + hint(err, p))
	}
	return d, false, nil
}

func hint(err error, p *policy.Profile) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return "; another guest or the host has the MAC address"
	case errors.Is(err, unix.EBUSY):
		return "; the device is a port of a bridge or bond, or taken by a passthrough"
	case errors.Is(err, unix.EINVAL) && p.Mode == policy.Passthrough:
		return "; passthrough needs the device to itself"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
		return "; the kernel lacks macvtap, sch_ingress or cls_bpf"
	}
	return ""
}

// Errors of a lower device.
var (
	errNotEthernet = errors.New("not an Ethernet device that can carry a macvtap")
	errOtherVLAN   = errors.New("exists, but is not the VLAN sub-interface that the profile needs")
)

// checkLower returns the device on which the macvtap is made: the lower device itself or its VLAN sub-interface.
func (s *session) checkLower(l rtnl.Link, p *policy.Profile) (rtnl.Link, error) {
	if l.Type != unix.ARPHRD_ETHER || l.Flags&unix.IFF_LOOPBACK != 0 {
		return l, errNotEthernet
	}
	l, err := s.belowMacvlan(l, p)
	if err != nil {
		return l, err
	}
	if p.VLAN == 0 {
		return l, s.keep(l)
	}
	name := l.Name + "." + strconv.Itoa(int(p.VLAN))
	if !policy.ValidDevice(name) {
		return l, errors.New("the name " + name + " is too long; make the sub-interface under another one and name that as lower, without vlan")
	}
	v, err := s.host.LinkByName(name)
	if errors.Is(err, rtnl.ErrNoLink) {
		if err := s.addVLAN(name, l.Index, p.VLAN); err != nil {
			return l, errors.New("VLAN " + strconv.Itoa(int(p.VLAN)) + ": " + err.Error())
		}
		v, err = s.host.LinkByName(name)
	}
	if err != nil {
		return l, err
	}
	if v.Kind != "vlan" || v.Lower != l.Index || v.VLAN != p.VLAN || v.VLANTPID != unix.ETH_P_8021Q {
		return l, errors.New(name + " " + errOtherVLAN.Error())
	}
	return v, s.keep(v)
}

// The alias that libvirt-direct's hook gives to the VLAN sub-interfaces it makes, and what the helper makes of it.
const (
	hookAlias = "libvirt-direct"
	keptAlias = "libvirt-direct (in use by the helper)"
)

// keep takes a VLAN sub-interface over from the hook, which removes its own with their last domain: that a macvtap in
// another network namespace stands on it, nothing in this one tells.
func (s *session) keep(l rtnl.Link) error {
	if l.Kind != "vlan" || l.Alias != hookAlias {
		return nil
	}
	if err := privilege.Raise(privilege.NetAdmin); err != nil {
		return err
	}
	var m rtnl.Batch
	m.SetAlias(l.Index, keptAlias)
	err := s.host.Do(&m, -1)
	if e := privilege.Lower(); e != nil {
		return e
	}
	return err
}

// addVLAN makes a VLAN sub-interface that is up and on which the host itself does not speak IPv6. It does not get the
// mark by which the hook's collector removes such devices: that asks the kernel for what stands on them, and is not told
// of macvtaps in other network namespaces.
func (s *session) addVLAN(name string, lower int, vid uint16) error {
	random, err := randomWords()
	if err != nil {
		return err
	}
	if err := privilege.Raise(privilege.NetAdmin); err != nil {
		return err
	}
	// In one system call, which no signal ends half-way: a device that is down would be of no use to those who come later.
	var m rtnl.Batch
	index := newIndex(random[0])
	m.AddVLAN(name, index, lower, vid)
	m.NoIPv6Address(index)
	m.Up(index)
	err = s.host.Do(&m, 1)
	if err == nil {
		err = disableIPv6(name)
	} else if errors.Is(err, unix.EEXIST) {
		err = nil // another call was faster, or the VLAN has another name: the look-up that follows tells
	}
	if e := privilege.Lower(); e != nil {
		return e
	}
	return err
}

// disableIPv6 keeps router advertisements from giving a device an address; a kernel without IPv6 has no such file.
func disableIPv6(device string) error {
	path := "/proc/sys/net/ipv6/conf/" + device + "/disable_ipv6"
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err == nil {
		_, err = unix.Write(fd, []byte("1"))
		unix.Close(fd)
	}
	if err != nil {
		return errors.New(path + ": " + err.Error())
	}
	return nil
}

// Patience with limits: a device goes some milliseconds after its last descriptor was closed, and two calls that race
// for the last place may see each other.
const (
	patience = time.Second
	pause    = 20 * time.Millisecond
)

// patiently repeats f while a limit is in the way.
func patiently(f func() error) error {
	for end := time.Now().Add(patience); ; {
		err := f()
		limit := errors.Is(err, registry.ErrUserLimit) || errors.Is(err, registry.ErrProfileLimit) || errors.Is(err, registry.ErrMACInUse)
		if !limit || time.Now().After(end) {
			return err
		}
		random, err := randomWords()
		if err != nil {
			return err
		}
		time.Sleep(pause + time.Duration(random[0]%uint32(pause)))
	}
}

// claim takes a place within the profile's limits.
func (s *session) claim(p *policy.Profile, link rtnl.Link) (registry.Record, policy.Candidate, error) {
	var mac *ether.MAC
	if s.request.HasMAC {
		mac = &s.request.MAC
	}
	derive, err := s.deriver(p)
	if err != nil {
		return registry.Record{}, policy.Candidate{}, err
	}
	candidates, err := p.MACs(mac, link.MAC, derive)
	if err != nil {
		return registry.Record{}, policy.Candidate{}, &deniedError{err}
	}
	reg, err := registry.Open(registry.Dir, s.deviceExists)
	if err != nil {
		return registry.Record{}, policy.Candidate{}, errors.New(registry.Dir + ": " + err.Error())
	}
	if p.Visible {
		if err := s.sweep(reg); err != nil {
			return registry.Record{}, policy.Candidate{}, err
		}
	}
	random, err := randomWords()
	if err != nil {
		return registry.Record{}, policy.Candidate{}, err
	}
	r, err := reg.Claim(registry.Want{
		Profile: p, UID: s.caller.UID, Link: uint32(link.Index), Candidates: candidates,
		Index: uint32(newIndex(random[0])), Start: random[1], Peer: uint32(s.peer.PID),
	})
	if err != nil {
		return r, policy.Candidate{}, &deniedError{err}
	}
	return r, candidates[0], nil
}

// deriver returns the function that makes the caller's addresses of a profile, nil if the profile has no use for it.
func (s *session) deriver(p *policy.Profile) (func(int) ether.MAC, error) {
	for _, r := range p.MACRules {
		if r.Kind != policy.DerivedMAC {
			continue
		}
		id, err := trusted.Read("/etc/machine-id")
		if err != nil {
			return nil, err
		}
		for len(id) > 0 && id[len(id)-1] == '\n' {
			id = id[:len(id)-1]
		}
		uid := strconv.FormatUint(uint64(s.caller.UID), 10)
		return func(slot int) ether.MAC { return ether.Derive(string(id), p.Name, uid, strconv.Itoa(slot)) }, nil
	}
	return nil, nil
}

// deviceExists asks the kernel for the device of a claim.
func (s *session) deviceExists(r *registry.Record) bool {
	if r.Kind == policy.Macvtap {
		var st unix.Stat_t
		return unix.Lstat(macvtap.Node(int(r.Index)), &st) != unix.ENOENT
	}
	return tundev.Exists(s.probe, int(r.Index))
}

func (s *session) sweep(reg *registry.Registry) error {
	records, err := reg.Records()
	if err != nil {
		return err
	}
	var indexes []int
	for _, r := range records {
		if r.Kind == policy.Macvtap {
			indexes = append(indexes, int(r.Index))
		}
	}
	if err := privilege.Raise(privilege.NetAdmin); err != nil {
		return err
	}
	err = macvtap.Sweep(s.host, indexes)
	if e := privilege.Lower(); e != nil {
		return e
	}
	return err
}

// newIndex is an interface index far above those the kernel counts up from 1 in each network namespace: the device nodes
// of macvtaps are named after it, and have one name space for all of them.
func newIndex(random uint32) int { return int(1<<30 | random&(1<<30-1)) }

func randomWords() ([3]uint32, error) {
	var b [12]byte
	if n, err := unix.Getrandom(b[:], 0); err != nil || n != len(b) {
		return [3]uint32{}, errors.New("no random numbers")
	}
	var w [3]uint32
	for i := range w {
		w[i] = uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24
	}
	return w, nil
}
