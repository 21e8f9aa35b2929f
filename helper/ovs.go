package main

import (
	"errors"

	"libvirt-direct/helper/internal/bridgeport"
	"libvirt-direct/helper/internal/ovsdb"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/rtnl"
)

// ovs hands out a port of Open vSwitch.
func (s *session) ovs(p *policy.Profile) (device, error) {
	d := device{kind: p.Kind, link: p.Bridge}
	// The bridge's own device also tells that this is the switch's network namespace.
	link, err := s.host.LinkByName(p.Bridge)
	if err != nil {
		return d, errors.New("Open vSwitch bridge " + p.Bridge + ": " + err.Error())
	}
	c, err := s.claimPort(p, link)
	if err != nil {
		return d, err
	}
	db, err := ovsdb.Dial(p.OVSSocket) // which takes root
	if err != nil {
		return d, err
	}
	d.mac, d.hasMAC = c.record.MAC, !c.none
	place := bridgeport.Port{Bridge: link, OVS: true}
	place.From, place.To = filters(p, d.mac, false)
	// The device first: a port without one is what the next call removes.
	if d, err = s.openPort(d, p.Device, int(c.record.Index), place); err != nil {
		return d, err
	}
	row := ovsdb.Port{
		Bridge: p.Bridge, Name: d.name, UID: s.caller.UID, VLAN: p.VLAN, Trunks: p.Trunks, Ingress: p.Ingress,
	}
	if d.hasMAC {
		row.MAC = &d.mac
	}
	d.last = func() error {
		s.sweepPorts(db)
		if err := db.Insert(row); err != nil {
			return errors.New("Open vSwitch bridge " + p.Bridge + ": " + err.Error())
		}
		return nil
	}
	return d, nil
}

// sweepPorts removes the ports whose device went with its guest. One that stays keeps nobody from his own.
func (s *session) sweepPorts(db *ovsdb.Conn) {
	rows, err := db.Rows()
	if err != nil {
		return
	}
	for _, r := range rows {
		if _, err := s.host.LinkByName(r.Name); errors.Is(err, rtnl.ErrNoLink) {
			_ = db.Remove(r)
		}
	}
}
