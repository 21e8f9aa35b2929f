package main

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/account"
	"libvirt-direct/helper/internal/antispoof"
	"libvirt-direct/helper/internal/bridgeconf"
	"libvirt-direct/helper/internal/bridgeport"
	"libvirt-direct/helper/internal/cmdline"
	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/fdpass"
	"libvirt-direct/helper/internal/macvtap"
	"libvirt-direct/helper/internal/netns"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/port"
	"libvirt-direct/helper/internal/privilege"
	"libvirt-direct/helper/internal/registry"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/station"
	"libvirt-direct/helper/internal/sysctl"
	"libvirt-direct/helper/internal/tap"
	"libvirt-direct/helper/internal/trusted"
	"libvirt-direct/helper/internal/tundev"
	"libvirt-direct/helper/tapname"
)

// session is one call.
type session struct {
	request cmdline.Request
	caller  policy.Caller
	peer    fdpass.Peer
	home    int              // the caller's network namespace, open
	netns   uint64           // and its inode number
	host    *rtnl.Conn       // to it
	probe   int              // any socket of it
	net     *sysctl.Net      // its parameters
	anon    *netns.Namespace // the device's own, once it is entered
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
	last   func() error // what remains to be done and needs no privilege; nil for nothing
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
	if s.probe, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	s.net, err = sysctl.Open()
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
	_ = tap.Sweep(s.host, link.Index) // what stays keeps nobody from his own
	random, err := randomWords()
	if err != nil {
		return d, err
	}
	return s.openPort(d, policy.Plain, newIndex(random[0]), bridgeport.Port{Bridge: link})
}

// bridge hands out a port of a Linux bridge as a profile says.
func (s *session) bridge(p *policy.Profile) (device, error) {
	d := device{kind: p.Kind, link: p.Bridge}
	link, err := s.host.LinkByName(p.Bridge)
	if err != nil {
		return d, errors.New("bridge " + p.Bridge + ": " + err.Error())
	}
	place := bridgeport.Port{Bridge: link, VLAN: p.VLAN, Flags: true, Isolate: p.Isolated, Learn: p.Learning}
	c, err := s.claimPort(p, link)
	if err != nil {
		return d, err
	}
	d.mac, d.hasMAC = c.record.MAC, !c.none
	place.From, place.To = filters(p, d.mac, false)
	return s.openPort(d, p.Device, int(c.record.Index), place)
}

// claimPort takes a place for a port of a bridge. What others have left persistent counts until it is removed here.
func (s *session) claimPort(p *policy.Profile, link rtnl.Link) (c claim, err error) {
	if p.Device == policy.Plain {
		master := link.Index
		if p.Kind == policy.OVS { // whose ports have a master of their own
			master = 0
		}
		_ = tap.Sweep(s.host, master) // what stays counts, and keeps nobody else from his own
	}
	err = patiently(func() (err error) { c, err = s.claim(p, link, nil); return err })
	return c, err
}

// filters judge the frames from and to a guest. With address also those are kept from him that are for somebody else.
func filters(p *policy.Profile, mac ether.MAC, address bool) (from, to []unix.SockFilter) {
	vlans := policy.VLANSet{All: true}
	if p.AntiSpoof {
		vlans = p.GuestVLANs
		from = antispoof.Outgoing(mac, vlans, p.LinkProtocols)
	}
	if address {
		return from, antispoof.Incoming(&mac, vlans)
	}
	return from, antispoof.Incoming(nil, vlans)
}

// openPort makes a port of a bridge, and a TAP device or what stands for one.
func (s *session) openPort(d device, kind policy.Device, index int, place bridgeport.Port) (device, error) {
	random, err := randomWords()
	if err != nil {
		return d, err
	}
	own := ownMAC(random)
	d.index, d.name, place.Alias = index, tapname.Name(index), s.alias()
	if err := place.Check(); err != nil {
		return d, errors.New("bridge " + d.link + ": " + err.Error())
	}
	if kind == policy.Plain {
		if s.request.Queues > 1 {
			err = s.enter(index)
		}
		if err == nil {
			d.fds, err = tap.Open(s.host, s.anon, s.home, s.net, tap.Spec{
				Index: index, Name: d.name, Own: own, Port: place, Mode: s.mode(), Queues: s.request.Queues,
			})
		}
	} else if err = s.enter(index); err == nil {
		guest := own // of a guest whose address is not known
		if d.hasMAC {
			guest = d.mac
		}
		d.fds, err = port.Open(s.host, s.anon, s.net, port.Spec{
			Name: d.name, Own: own, Guest: guest, Port: place, Mode: s.mode(), Queues: s.request.Queues,
		})
	}
	if err != nil {
		err = errors.New("failed to add interface `" + d.name + "' to bridge `" + d.link + "': " + err.Error())
	}
	return d, err
}

// mode is how the caller wants his descriptors.
func (s *session) mode() tundev.Mode {
	return tundev.Mode{VNetHdr: s.request.VNetHdr, MultiQueue: s.request.Queues > 1}
}

// ownMAC is an address of the host's end of a device. With 0xfe in front it is higher than any other port's, so that a bridge
// does not take it for its own.
func ownMAC(random [3]uint32) ether.MAC {
	return ether.MAC{0xfe, byte(random[1]), byte(random[1] >> 8), byte(random[1] >> 16), byte(random[1] >> 24), byte(random[2])}
}

// alias tells who looks at a device whose it is. The request has no other characters than those of names and addresses.
func (s *session) alias() string {
	return program + ": uid " + strconv.FormatUint(uint64(s.caller.UID), 10) + ", " + s.request.Name
}

// enter moves the thread into a namespace that only the device's descriptors will keep alive, and that is known by the
// device's index.
func (s *session) enter(index int) (err error) {
	if s.anon == nil {
		s.anon, err = netns.Enter(s.host, index)
	}
	return err
}

// macvtap hands out a macvtap device as a profile says.
func (s *session) macvtap(p *policy.Profile) (d device, err error) {
	if p.Visible {
		s.sweepVisible()
	}
	err = patiently(func() (err error) {
		for _, name := range p.Lower {
			on, next, e := s.macvtapOn(p, name)
			if d = on; e == nil {
				return nil
			}
			// What another device of the pool lacks, such as the address, says less than that this one is in use.
			if err == nil || errors.Is(err, policy.ErrMACDenied) {
				err = e
			}
			if !next {
				break
			}
		}
		if passing(err) { // what nobody holds any more may be in the way
			s.sweepVisible()
		}
		return err
	})
	return d, err
}

// macvtapOn reports whether another lower device of a pool is worth a try.
func (s *session) macvtapOn(p *policy.Profile, lower string) (d device, next bool, err error) {
	d = device{kind: p.Kind, link: lower}
	whole := p.Mode == policy.Passthrough
	link, err := s.host.LinkByName(lower)
	if err == nil {
		link, err = s.checkLower(link, p)
	}
	if err != nil {
		return d, whole, errors.New("lower device " + lower + ": " + err.Error())
	}
	d.link = link.Name
	var taken []ether.MAC // by others than the helper's guests
	for {
		c, err := s.claim(p, link, taken)
		if err != nil {
			return d, whole && (errors.Is(err, registry.ErrLowerInUse) || errors.Is(err, policy.ErrMACDenied)), err
		}
		id := int(c.record.Index)
		d.mac, d.hasMAC, d.name = c.record.MAC, true, macvtap.Name(id)
		if err = s.enter(id); err == nil {
			err = s.openMacvtap(p, link, &d)
		}
		if err == nil {
			return d, false, nil
		}
		c.release()
		if errors.Is(err, unix.EADDRINUSE) {
			taken = append(taken, d.mac)
			continue
		}
		if whole && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL) || errors.Is(err, errAddressGone)) {
			return d, true, &busyError{link.Name, err}
		}
		return d, false, errors.New("macvtap on " + d.link + ": " + err.Error() + hint(err))
	}
}

// busyError is a lower device that somebody else has, or that is about to be given back.
type busyError struct {
	lower string
	err   error
}

func (e *busyError) Error() string {
	return "macvtap on " + e.lower + ": " + e.err.Error() + "; mode passthrough needs the device to itself, and not as a port of a bridge or bond"
}
func (e *busyError) Unwrap() error { return e.err }

// errAddressGone is an address of a lower device that its last holder had given it: the kernel has taken it back with his
// device, after it was read.
var errAddressGone = errors.New("its address has changed meanwhile")

func (s *session) openMacvtap(p *policy.Profile, link rtnl.Link, d *device) (err error) {
	isolated, whole := p.Device == policy.Isolated, p.Mode == policy.Passthrough
	random, err := randomWords()
	if err != nil {
		return err
	}
	// The station's macvlan gets nothing else, and who has a device whole without anti-spoof may have all that it gets.
	from, to := filters(p, d.mac, !isolated && (!whole || p.AntiSpoof))
	if isolated {
		d.fds, err = station.Open(s.host, s.anon, station.Spec{
			Name: d.name, MAC: d.mac, Own: ownMAC(random), From: from, To: to, Lower: link, Kind: p.Mode,
			LinkLocal: len(p.LinkProtocols.Protocols()) > 0, Mode: s.mode(), Queues: s.request.Queues,
		})
		return err
	}
	dev := macvtap.Device{Index: newIndex(random[0]), Name: d.name, MAC: d.mac}
	at, tid := s.anon.Conn, s.anon.TID
	if p.Visible {
		at, tid, d.index = s.host, 0, dev.Index
	}
	var m rtnl.Batch
	macvtap.Add(&m, dev, link, p.Mode, tid)
	if err := s.host.Do(&m, -1); err != nil {
		return err
	}
	if whole { // from here on nobody else changes it
		now, e := s.host.LinkByIndex(link.Index)
		if err = e; err == nil && now.MAC != link.MAC {
			err = errAddressGone
		}
	}
	m = rtnl.Batch{}
	m.Filter(dev.Index, to, from)
	if p.Visible {
		m.SetAlias(dev.Index, s.alias())
	}
	if whole && dev.MAC != link.MAC {
		m.SetMAC(dev.Index, dev.MAC)
	}
	if err == nil {
		err = at.Do(&m, -1)
	}
	if err == nil {
		err = s.silence(p, dev)
	}
	if err == nil {
		d.fds, err = macvtap.Open(at, dev, s.mode(), s.request.Queues)
	}
	if err != nil {
		m = rtnl.Batch{}
		m.Delete(dev.Index)
		_ = at.Do(&m, -1) // what failed first is what matters; a visible leftover is swept by the next call
	}
	return err
}

// silence keeps the host from speaking on a macvtap.
func (s *session) silence(p *policy.Profile, dev macvtap.Device) error {
	if p.Visible {
		return s.net.Mute(s.host, dev.Index, dev.Name)
	}
	return s.anon.Silence(dev.Index)
}

func hint(err error) string {
	switch {
	case errors.Is(err, unix.EBUSY):
		return "; the device is a port of a bridge or bond, or taken by a passthrough"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
		return "; the kernel lacks macvtap, bridge, sch_ingress or cls_bpf"
	}
	return ""
}

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
