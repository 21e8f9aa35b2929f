package plan

import (
	"fmt"

	"libvirt-direct/internal/config"
	"libvirt-direct/xmlfilter"
)

// Describe says for a person who makes a NIC's device, and what is notable of it.
func Describe(d *xmlfilter.Domain, cfg *config.Config, host Snapshot, n *xmlfilter.NIC) string {
	tagging := ""
	if t := CanTag(cfg, host, n); t != nil {
		tagging = "; " + t.String()
	}
	if !InScope(n) {
		return fmt.Sprintf("type='%s', not ours%s", n.Type, tagging)
	}
	s, err := SettingsOf(cfg, host, n)
	if err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("type='%s', ", n.Type)
	switch {
	case s.Own && (onOVS(n) || WasOnOVS(n) != nil):
		text += "hook-owned: the hook makes its tap and its Open vSwitch port"
	case s.Own:
		text += "hook-owned: the hook makes its macvtap"
	case onOVS(n):
		text += "assisted: libvirt makes its Open vSwitch port"
	case n.Type == "direct":
		text += "assisted: libvirt makes its macvtap"
	case n.Type == "hostdev":
		text += "assisted: libvirt gives the guest the virtual function"
	case n.Type == "network" && s.choosesNothing():
		text += "assisted: libvirt chooses and makes its device"
	case onBridge(n) && s.choosesNothing():
		text += fmt.Sprintf("assisted: libvirt makes its tap in bridge %s", n.Source.Bridge)
	default:
		text += "which its settings in <metadata> do not fit"
	}
	if s.Uplink != nil {
		text += fmt.Sprintf(", uplink %q", s.Uplink.Name)
	}
	for _, o := range host.Obstacles[n.ID()] {
		text += "; on its device: " + o.String()
	}
	text += tagging
	if n.Type == "direct" && !n.RxFilters && !s.AllMulti {
		text += "; for IPv6 it needs trustGuestRxFilters='yes' or allmulticast"
	}
	return text
}

// Loses lists what a hook-owned NIC cannot have, for explain.
func Loses(n *xmlfilter.NIC) []string {
	lost := []string{
		"virsh suspend, save and migration do not take the device down: it is up from start, at the destination of a migration too, until the guest has ended",
		"libvirt and its tools show type='ethernet': what looks for type='direct' does not see it",
	}
	if n.Settings != nil && n.Settings.Was != nil && isQbg(n.Settings.Was.VirtualPort) {
		lost = append(lost, "802.1Qbg: an incoming migration associates the VSI before the memory has arrived, where libvirt pre-associates it")
	}
	if n.Settings != nil && n.Settings.PortProfile != "" {
		lost = append(lost, "802.1Qbh: an incoming migration associates the port before the memory has arrived, where libvirt pre-associates it")
	}
	if WasOnOVS(n) != nil {
		return append(lost, "<bandwidth>: libvirt applies it by tc, not by Open vSwitch; say ingressrate and maxrate in the profile")
	}
	rx := n.RxFilters || n.Settings != nil && n.Settings.Was != nil && n.Settings.Was.RxFilters
	if rx {
		lost = append(lost, "trustGuestRxFilters: libvirt does not carry the guest's MAC and multicast filters to this device; say allmulticast='yes'")
	}
	if n.Bandwidth {
		lost = append(lost, "<bandwidth>: libvirt takes the device for a tap and applies inbound and outbound the wrong way round; swap them")
	}
	return lost
}
