package hooks

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"libvirt-direct/internal/config"
	setting "libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// Rewrite returns what is to be changed in a domain's XML, so that libvirt takes it
// on this host. It is pure, like Plan, and allocates nothing.
//
// For migrate and restore the XML comes from a host where devices may have other
// names: they are mapped by uplink. With keep, at define time, what is changed is
// kept in the metadata for undoing.
func Rewrite(d *xmlfilter.Domain, cfg *config.Config, host Host, keep bool) ([]xmlfilter.Change, error) {
	changes, _, err := remap(d, cfg, host, keep)
	return changes, err
}

// remap is Rewrite with what is to be reserved for the start that follows.
func remap(d *xmlfilter.Domain, cfg *config.Config, host Host, keep bool) ([]xmlfilter.Change, []Step, error) {
	r := rewriter{planner: newPlanner(Migrate, d, cfg, host), keep: keep}
	var changes []xmlfilter.Change
	for i := range d.NICs {
		n := &d.NICs[i]
		if !ours(n) {
			continue
		}
		c, err := r.nic(n)
		if err != nil {
			return nil, nil, &NICError{Domain: d.Name, NIC: n.String(), Err: err}
		}
		if c.SourceDev != "" || c.SourceBridge != "" || c.SourceMode != "" || c.DropVLAN || c.DropVirtualPort || c.Ethernet != "" || c.WasDev != "" || len(c.Settings) > 0 {
			c.NIC, c.Keep = i, c.Keep || keep
			changes = append(changes, c)
		}
	}
	return changes, r.steps, nil
}

type rewriter struct {
	planner
	keep bool
}

func (r *rewriter) nic(n *xmlfilter.NIC) (xmlfilter.Change, error) {
	none := xmlfilter.Change{}
	if err := n.Err(); err != nil {
		return none, err
	}
	s, err := r.settings(n)
	if err != nil {
		return none, err
	}
	if err := portSettingsFit(n, s); err != nil {
		return none, err
	}
	if c, handled, err := r.ovs(n, s); handled {
		return c, err
	}
	if c, handled, err := r.bridge(n, s); handled {
		return c, err
	}
	if c, handled, err := r.vf(n, s); handled {
		return c, err
	}
	switch {
	case n.Type == "direct" && n.Source.Network != "":
		return none, nil
	case n.Type == "direct" && s.own:
		return r.toHookOwned(n, s)
	case n.Type == "direct":
		return r.assisted(n, s)
	case n.Type == "ethernet" && s.own:
		return r.hookOwned(n, s)
	}
	return none, remedy(ErrUnsuitable, "its settings in <metadata> are for type='direct', this is type='%s'; remove its <nic>", n.Type)
}

// place is where a NIC stands: on a device of this host, or on a VLAN of it.
type place struct {
	dev    Device
	uplink *config.Uplink // nil where none is concerned
	vid    int            // 0: on the device itself
}

// locate finds out where a NIC stands from its settings and its <source dev=>, which
// may be this host's name, an uplink's, or another host's.
func (r *rewriter) locate(n *xmlfilter.NIC, s settings) (place, error) {
	pl := place{vid: s.vlan, uplink: s.uplink}
	source := n.Source.Dev
	if n.VLAN != nil {
		switch {
		case len(n.VLAN.Tags) != 1 || n.VLAN.Trunk:
			return pl, remedy(ErrUnsuitable, "<vlan> has %d tags; a macvtap stands on one VLAN", len(n.VLAN.Tags))
		case n.VLAN.Tags[0] == 0 || n.VLAN.Tags[0] > 4094:
			return pl, remedy(ErrUnsuitable, "<vlan> tag %d; VLANs are 1 to 4094", n.VLAN.Tags[0])
		case pl.vid != 0 && pl.vid != n.VLAN.Tags[0]:
			return pl, remedy(ErrUnsuitable, "<vlan> says %d and its settings say %d", n.VLAN.Tags[0], pl.vid)
		}
		pl.vid = n.VLAN.Tags[0]
	}
	name := cmp.Or(s.dev, source)
	if parent, vid, ok := splitVLAN(name); ok && r.cfg.UplinkCalled(name) == nil {
		whole, there := r.host.Devices[name]
		isVLAN := !there || whole.Kind == "vlan"
		if isVLAN && (pl.vid == 0 || pl.vid == vid) {
			name, pl.vid = parent, vid
		}
	}
	if pl.uplink == nil {
		pl.uplink = r.cfg.UplinkCalled(name)
	}
	var err error
	if pl.uplink != nil {
		pl.dev, err = r.uplink(pl.uplink)
		return pl, err
	}
	dev, ok := r.host.Devices[name]
	if !ok {
		return pl, noDevice(name)
	}
	pl.dev = dev
	return pl, nil
}

// words are the settings that say a place.
func (pl place) words() map[string]string {
	w := map[string]string{}
	if pl.uplink != nil {
		w[setting.NameUplink] = pl.uplink.Name
	} else {
		w[setting.NameDev] = pl.dev.Name
	}
	if pl.vid != 0 {
		w[setting.NameVLAN] = strconv.Itoa(pl.vid)
	}
	return w
}

// assisted maps the source device, and turns <vlan> and the settings' VLAN into the
// sub-interface that libvirt understands.
func (r *rewriter) assisted(n *xmlfilter.NIC, s settings) (xmlfilter.Change, error) {
	var c xmlfilter.Change
	if s.mode != "" && s.mode != cmp.Or(n.Source.Mode, "vepa") {
		c.SourceMode = s.mode
	}
	source, there := r.host.Devices[n.Source.Dev]
	if there && source.Name == n.Source.Dev && s.uplink == nil && s.vlan == 0 && n.VLAN == nil && r.foreign(n.Source.Dev) == nil {
		return c, nil // it is what it says: the host's own device, whatever its name looks like
	}
	pl, err := r.locate(n, s)
	if err != nil {
		return c, err
	}
	if n.VLAN != nil && pl.dev.VF && cmp.Or(s.mode, n.Source.Mode) == "passthrough" {
		pl.vid = 0 // libvirt sets a VF's VLAN itself
	}
	dev := pl.dev.Name
	if pl.vid != 0 {
		dev = vlanName(dev, pl.vid)
		c.DropVLAN = n.VLAN != nil
	}
	if dev != n.Source.Dev {
		c.SourceDev = dev
	}
	if c.SourceDev == "" && !c.DropVLAN {
		return c, nil
	}
	// Words only where the new name does not say it all: so that the next host can
	// map it back.
	if pl.uplink != nil || pl.vid != 0 {
		c.Settings = newSettings(n, pl.words())
	}
	return c, nil
}

// foreign returns the uplink that a name means when another device of this host has
// it by accident: other hosts' names go before, when the configuration lists them.
func (r *rewriter) foreign(name string) *config.Uplink {
	if parent, _, ok := splitVLAN(name); ok {
		if u := r.cfg.UplinkCalled(parent); u != nil && slices.Contains(u.Also, parent) {
			return u
		}
	}
	if u := r.cfg.UplinkCalled(name); u != nil && slices.Contains(u.Also, name) {
		return u
	}
	return nil
}

// toHookOwned turns <interface type='direct'> into type='ethernet' with a device that
// the hook will make, and notes in the settings what the XML no longer says.
func (r *rewriter) toHookOwned(n *xmlfilter.NIC, s settings) (xmlfilter.Change, error) {
	c := xmlfilter.Change{}
	if n.VirtualPort != nil && !isQbg(n.VirtualPort) {
		return c, remedy(ErrUnsuitable, "it has <virtualport type='%s'>, which is libvirt's to associate; leave own='hook' out", n.VirtualPort.Type)
	}
	if n.MAC == "" {
		return c, remedy(ErrUnsuitable, "it has no <mac address=>; define the domain first, libvirt gives it one")
	}
	pl, err := r.locate(n, s)
	if err != nil {
		return c, err
	}
	if isQbg(n.VirtualPort) {
		if _, err := vsiOf(n.VirtualPort, n.MAC, pl.dev.Name, pl.vid); err != nil {
			return c, err
		}
	}
	words := pl.words()
	words[setting.NameOwn] = setting.OwnHook
	words[setting.NameMode] = cmp.Or(s.mode, n.Source.Mode, "vepa")
	c.Settings = newSettings(n, words)
	c.Ethernet = targetName(r.domain, n)
	return c, nil
}

// hookOwned maps the lower device of a NIC that is hook-owned already.
func (r *rewriter) hookOwned(n *xmlfilter.NIC, s settings) (xmlfilter.Change, error) {
	var c xmlfilter.Change
	if s.uplink == nil {
		pl, err := r.locate(n, s)
		if err != nil {
			return c, err
		}
		if pl.uplink != nil || pl.dev.Name != s.dev {
			c.Settings = newSettings(n, map[string]string{setting.NameDev: pl.dev.Name})
		}
	}
	if !r.keep && n.Settings != nil && n.Settings.Was != nil && n.Settings.Was.Source.Dev != "" {
		was := *n
		was.Source, was.VLAN = n.Settings.Was.Source, nil
		// What was kept serves only undo: a name that means nothing here stays.
		if pl, err := r.locate(&was, settings{uplink: s.uplink}); err == nil {
			dev := pl.dev.Name
			if pl.vid != 0 {
				dev = vlanName(dev, pl.vid)
			}
			if dev != was.Source.Dev {
				c.WasDev = dev
			}
		}
	}
	return c, nil
}

// newSettings leaves out what the NIC's settings say already.
func newSettings(n *xmlfilter.NIC, values map[string]string) map[string]string {
	if n.Settings == nil {
		return values
	}
	for _, s := range setting.At(setting.InNIC) {
		have, _ := s.Text(n.Settings.NIC)
		if v, ok := values[s.Name]; ok && v == have {
			delete(values, s.Name)
		}
	}
	return values
}

// shellWord quotes a domain's name for a command line that a person may copy.
func shellWord(s string) string {
	if s != "" && !strings.HasPrefix(s, "-") && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.,:@%+=/", r))
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Loses lists what a hook-owned NIC cannot have, for explain.
func Loses(n *xmlfilter.NIC) []string {
	lost := []string{
		"virsh suspend, save and migration do not take the device down: it stays up from prepare to release",
		"libvirt and its tools show type='ethernet': what looks for type='direct' does not see it",
	}
	if n.Settings != nil && n.Settings.Was != nil && isQbg(n.Settings.Was.VirtualPort) {
		lost = append(lost, "802.1Qbg: an incoming migration associates the VSI before the memory has arrived, where libvirt pre-associates it")
	}
	if n.Settings != nil && n.Settings.PortProfile != "" {
		lost = append(lost, "802.1Qbh: an incoming migration associates the port before the memory has arrived, where libvirt pre-associates it")
	}
	if wasOnOVS(n) != nil {
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
