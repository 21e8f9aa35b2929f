package main

import (
	"errors"

	"libvirt-direct/helper/internal/ovsdb"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/registry"
	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/internal/tap"
)

// ovs hands out a TAP device that is a port of Open vSwitch.
func (s *session) ovs(p *policy.Profile) (device, error) {
	d := device{kind: p.Kind, link: p.Bridge}
	// The bridge's own device also tells that this is the switch's network namespace.
	link, err := s.host.LinkByName(p.Bridge)
	if err != nil {
		return d, errors.New("Open vSwitch bridge " + p.Bridge + ": " + err.Error())
	}
	var r registry.Record
	var c policy.Candidate
	if err := patiently(func() (err error) { r, c, err = s.claim(p, link); return err }); err != nil {
		return d, err
	}
	db, err := ovsdb.Dial()
	if err != nil {
		return d, err
	}
	defer db.Close()
	if err := s.sweepPorts(db); err != nil {
		return d, err
	}
	d.mac, d.hasMAC = r.MAC, !c.None
	// The device first: a port without one is what the next call removes.
	if d, err = s.openTap(d, tap.Spec{Index: int(r.Index), Bridge: link, OVS: true}); err != nil {
		return d, err
	}
	port := ovsdb.Port{
		Bridge: p.Bridge, Name: d.name, UID: s.caller.UID, VLAN: p.VLAN, Trunks: p.Trunks, Ingress: p.Ingress,
	}
	if d.hasMAC {
		port.MAC = &d.mac
	}
	if err := db.Insert(port); err != nil {
		return d, errors.New("Open vSwitch bridge " + p.Bridge + ": " + err.Error())
	}
	return d, nil
}

// sweepPorts removes the ports whose device went with its guest.
func (s *session) sweepPorts(db *ovsdb.Conn) error {
	rows, err := db.Rows()
	if err != nil {
		return err
	}
	for _, r := range rows {
		if _, err := s.host.LinkByName(r.Name); !errors.Is(err, rtnl.ErrNoLink) {
			continue
		}
		if err := db.Remove(r); err != nil {
			return err
		}
	}
	return nil
}
