package config

import (
	"fmt"
	"slices"
)

// OVS is what a profile says of ports of Open vSwitch. Zero values leave it to libvirt
// and Open vSwitch (ovs-vswitchd.conf.db(5)).
type OVS struct {
	// Tunnel puts all of the guest's frames, with their own tags, into the port's VLAN
	// (vlan_mode dot1q-tunnel).
	Tunnel bool `toml:"tunnel"`
	// IngressRate and IngressBurst bound what the guest sends, in kbit/s and kbit.
	IngressRate  int `toml:"ingressrate"`
	IngressBurst int `toml:"ingressburst"`
	// MinRate and MaxRate are for what the guest receives, in Mbit/s; QoS is the kind
	// of queueing, "linux-htb" where it is empty.
	MinRate int    `toml:"minrate"`
	MaxRate int    `toml:"maxrate"`
	QoS     string `toml:"queueing"`
	// MTU is the interface's mtu_request.
	MTU int `toml:"mtu"`
	// Mirror is the port that gets a copy of the guest's frames.
	Mirror string `toml:"mirror"`
	// OVN makes a start wait until ovn-controller has bound the port.
	OVN bool `toml:"ovn"`
}

// check returns the first fault, or "".
func (o *OVS) check() string {
	if o == nil {
		return ""
	}
	for name, v := range map[string]int{"ingressrate": o.IngressRate, "ingressburst": o.IngressBurst, "minrate": o.MinRate, "maxrate": o.MaxRate} {
		if v < 0 || v > 1<<30 {
			return fmt.Sprintf("%s = %d is out of range", name, v)
		}
	}
	switch {
	case o.MaxRate > 0 && o.MinRate > o.MaxRate:
		return fmt.Sprintf("minrate = %d is more than maxrate", o.MinRate)
	case o.QoS != "" && !slices.Contains([]string{"linux-htb", "linux-hfsc", "egress-policer"}, o.QoS):
		return fmt.Sprintf("queueing = %q: want linux-htb, linux-hfsc or egress-policer", o.QoS)
	case o.MTU != 0 && (o.MTU < 68 || o.MTU > 65535):
		return fmt.Sprintf("mtu = %d: want 68 to 65535", o.MTU)
	case o.Mirror != "" && !ValidIfname(o.Mirror):
		return fmt.Sprintf("mirror = %q is no port's name", o.Mirror)
	}
	return ""
}
