package main

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/macvtap"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/registry"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/trusted"
	"libvirt-direct/helper/internal/tundev"
	"libvirt-direct/helper/tapname"
)

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
		if !passing(err) || time.Now().After(end) {
			return err
		}
		random, err := randomWords()
		if err != nil {
			return err
		}
		// Not time.Sleep, for which the runtime makes threads and descriptors that the caller may have limited.
		wait := unix.NsecToTimespec(int64(pause) + int64(random[0]%uint32(pause)))
		_ = unix.Nanosleep(&wait, nil)
	}
}

// passing reports whether the reason may be one that passes.
func passing(err error) bool {
	for _, e := range [...]error{
		registry.ErrUserLimit, registry.ErrProfileLimit, registry.ErrMACInUse, registry.ErrLowerInUse, errMACInUse,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var busy *busyError
	return errors.As(err, &busy)
}

// claim is a place within the profile's limits.
type claim struct {
	record registry.Record
	none   bool // the guest chooses its address
	reg    *registry.Registry
}

// release gives the place back, and the file with it: a call that is patient makes many claims.
func (c *claim) release() {
	c.reg.Release()
	c.reg.Close()
}

// claim takes a place. except are addresses that are taken by others than the helper's guests.
func (s *session) claim(p *policy.Profile, link rtnl.Link, except []ether.MAC) (claim, error) {
	var mac *ether.MAC
	if s.request.HasMAC {
		mac = &s.request.MAC
	}
	derive, err := s.deriver(p)
	if err != nil {
		return claim{}, err
	}
	candidates, err := p.MACs(mac, link.MAC, derive)
	if err != nil {
		return claim{}, &deniedError{err}
	}
	candidates = slices.DeleteFunc(candidates, func(c policy.Candidate) bool { return !c.None && slices.Contains(except, c.MAC) })
	reg, err := registry.Open(registry.Dir, s.netns, s.lives)
	if err != nil {
		return claim{}, errors.New(registry.Dir + ": " + err.Error())
	}
	random, err := randomWords()
	if err != nil {
		return claim{}, err
	}
	index := newIndex(random[0])
	if s.anon != nil {
		index = s.anon.ID
	}
	r, err := reg.Claim(registry.Want{
		Profile: p, UID: s.caller.UID, Link: uint32(link.Index), Candidates: candidates,
		Index: uint32(index), Start: random[1], Peer: uint32(s.peer.PID),
		Pinned: p.Kind == policy.Macvtap || p.Device == policy.Isolated,
		Whole:  p.Kind == policy.Macvtap && p.Mode == policy.Passthrough,
	})
	if err != nil {
		defer reg.Close()
		switch {
		case len(except) > 0:
			return claim{}, s.inUse(reg, link, except[0])
		case errors.Is(err, registry.ErrMACInUse) && s.request.HasMAC:
			return claim{}, s.inUse(reg, link, s.request.MAC)
		}
		return claim{}, &deniedError{err}
	}
	none := slices.ContainsFunc(candidates, func(c policy.Candidate) bool { return c.None && r.MAC == c.MAC })
	return claim{record: r, none: none, reg: reg}, nil
}

// lives asks the kernel for what a claim is about. A stranger can make neither: an id of a namespace takes CAP_NET_ADMIN
// over the namespace in which it is one.
func (s *session) lives(r *registry.Record) bool {
	if r.Pinned {
		return s.host.HasNamespace(int(r.Index))
	}
	return tundev.Exists(s.probe, int(r.Index))
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

// errMACInUse is an address that something else on the lower device or the bridge has.
var errMACInUse = errors.New("the MAC address is in use")

// macError says by what.
type macError struct{ who string }

func (e *macError) Error() string { return errMACInUse.Error() + " by " + e.who }
func (e *macError) Unwrap() error { return errMACInUse }

// inUse says who has an address, and whose that is only to those whom it concerns.
func (s *session) inUse(reg *registry.Registry, link rtnl.Link, mac ether.MAC) error {
	if mac == link.MAC {
		return &macError{link.Name + " itself"}
	}
	if r, ok := reg.Find(func(r *registry.Record) bool { return r.Link == uint32(link.Index) && r.MAC == mac }); ok {
		return s.usedBy(&r)
	}
	links, err := s.host.Links(0, "")
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.MAC != mac || l.Lower != link.Index {
			continue
		}
		// The holder of a visible macvtap has given it the address.
		if r, ok := reg.Find(func(r *registry.Record) bool { return macvtap.Name(int(r.Index)) == l.Name }); ok {
			return s.usedBy(&r)
		}
		return &macError{"device " + l.Name + " on " + link.Name}
	}
	return &macError{"a device on " + link.Name + " in another network namespace"}
}

// usedBy says that the device of a claim has the address.
func (s *session) usedBy(r *registry.Record) error {
	name := tapname.Name(int(r.Index))
	if r.Kind == policy.Macvtap {
		name = macvtap.Name(int(r.Index))
	}
	switch {
	case r.UID == s.caller.UID:
		return &macError{"your own device " + name}
	case s.caller.UID == 0:
		return &macError{"device " + name + " of uid " + strconv.FormatUint(uint64(r.UID), 10)}
	}
	return &macError{"device " + name + " of another user"}
}

// sweepVisible removes the visible macvtaps that nobody holds any more: those whose namespace has ended. One that is called
// by its own index was made by a helper that did not keep a namespace for it, and may be in use. What cannot be removed
// keeps nothing else from being, nor the caller from his device.
func (s *session) sweepVisible() {
	links, err := s.host.Links(0, "macvtap")
	if err != nil {
		return
	}
	for _, l := range links {
		id := macvtap.ID(l.Name)
		if l.Index < tapname.MinIndex || id < tapname.MinIndex || id == l.Index || s.host.HasNamespace(id) {
			continue
		}
		var m rtnl.Batch
		m.Delete(l.Index)
		_ = s.host.Do(&m, -1)
	}
}

// newIndex is an interface index far above those that the kernel counts up from 1 in each network namespace: the device
// nodes of macvtaps are named after it, and have one name space for all of them.
func newIndex(random uint32) int { return int(tapname.MinIndex | random&(tapname.MinIndex-1)) }
