package main

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/rtnl"
)

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

// The alias that libvirt-direct's hook gives to the VLAN sub-interfaces it makes, and what the helper gives to those that
// it has made or taken over.
const (
	hookAlias = "libvirt-direct"
	keptAlias = "libvirt-direct (in use by the helper)"
)

// addVLAN makes a VLAN sub-interface, which is down. It does not get the mark by which the hook's collector removes such
// devices: that asks the kernel for what stands on them, and is not told of macvtaps in other network namespaces.
func (s *session) addVLAN(name string, lower int, vid uint16) error {
	random, err := randomWords()
	if err != nil {
		return err
	}
	// In one system call, which no signal ends half-way: the alias tells later calls that the device is theirs to finish.
	var m rtnl.Batch
	index := newIndex(random[0])
	m.AddVLAN(name, index, lower, vid)
	m.SetAlias(index, keptAlias)
	if err := s.host.Do(&m, -1); !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil // another call was faster, or the VLAN has another name: the look-up that follows tells
}

// keep finishes a VLAN sub-interface of the helper's own, on which the host is not to speak before it is up and not after,
// and takes one over from the hook, which removes its own with their last domain: that a macvtap in another network
// namespace stands on it, nothing in this one tells.
func (s *session) keep(l rtnl.Link) error {
	finished := l.Alias == keptAlias && l.Flags&unix.IFF_UP != 0 && l.Flags&unix.IFF_NOARP != 0
	if l.Kind != "vlan" || l.Alias != keptAlias && l.Alias != hookAlias || finished {
		return nil
	}
	var m rtnl.Batch
	m.SetAlias(l.Index, keptAlias)
	m.NoARP(l.Index)
	if err := s.host.Do(&m, -1); err != nil {
		return err
	}
	if err := s.net.Mute(s.host, l.Index, l.Name); err != nil {
		return err
	}
	m = rtnl.Batch{}
	m.Up(l.Index)
	return s.host.Do(&m, -1)
}
