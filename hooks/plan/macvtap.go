package plan

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// macvtap is a NIC on a macvtap that libvirt makes, or in its place the hook. It is what a
// NIC is that nothing else is.
type macvtap struct{ *planner }

func (p macvtap) prepare(n *xmlfilter.NIC, s Settings) (handled bool, err error) {
	switch {
	case n.Type == "direct" && n.Source.Network != "":
		return true, nil // libvirt's own network chose the device
	case n.Type == "direct" && s.Own:
		return true, p.notRewritten("it asks to be hook-owned")
	case n.Type == "direct":
		err := p.assisted(n, s)
		if err == nil {
			err = p.obstacle(n)
		}
		if err != nil || !isQbg(n.VirtualPort) {
			return true, err
		}
		return true, p.assistedQbg(n)
	case n.Type == "ethernet" && s.Own:
		err := p.obstacle(n)
		if err == nil {
			_, err = p.hookOwned(n, s)
		}
		return true, err
	}
	return false, nil
}

func (p macvtap) start(n *xmlfilter.NIC, s Settings) (handled bool, err error) {
	if n.Type == "direct" && s.AllMulti && config.ValidIfname(n.Target) {
		p.add(step.Step{NIC: p.id(n), Kind: &step.AllMulti{Device: n.Target}})
	}
	return true, nil
}

func (p macvtap) convert(n *xmlfilter.NIC, s Settings) (c xmlfilter.Change, handled bool, err error) {
	switch {
	case n.Type == "direct" && n.Source.Network != "":
	case n.Type == "direct" && s.Own:
		c, err = p.toHookOwned(n, s)
	case n.Type == "direct":
		c, err = p.convertAssisted(n, s)
	case n.Type == "ethernet" && s.Own:
		c, err = p.convertOwned(n, s)
	default:
		return c, false, nil
	}
	return c, true, err
}

// assisted plans what libvirt needs before it can make the macvtap itself.
func (p macvtap) assisted(n *xmlfilter.NIC, s Settings) error {
	source, there := p.host.Devices[n.Source.Dev]
	if !there && n.VLAN != nil && n.Source.Mode == "passthrough" && p.host.Called(p.cfg, n.Source.Dev) == nil {
		return noDevice(n.Source.Dev)
	}
	u := s.Uplink
	if named := there && source.Name == n.Source.Dev; u == nil && !(named && p.cfg.Uplinks[n.Source.Dev] == nil) {
		u = p.host.Called(p.cfg, n.Source.Dev)
	}
	if u != nil && n.Source.Mode == "passthrough" && p.host.Free[u.Name] != nil {
		// As an altname it would give the guest the whole card, the host's own address with it.
		return p.notRewritten(fmt.Sprintf("%q is to be a virtual function of uplink %q", n.Source.Dev, u.Name))
	}
	if n.VLAN != nil && (n.VLAN.Trunk || len(n.VLAN.Tags) != 1) && n.Source.Mode != "passthrough" {
		return tags(n.VLAN)
	}
	if n.VLAN != nil && !(there && source.VF && n.Source.Mode == "passthrough") {
		return p.notRewritten("libvirt refuses <vlan> in this mode")
	}
	if s.Mode != "" && s.Mode != cmp.Or(n.Source.Mode, "vepa") {
		return p.notRewritten(fmt.Sprintf("it asks for mode %s and its <source> says %s", s.Mode, cmp.Or(n.Source.Mode, "vepa")))
	}
	switch {
	case n.Source.Dev == "":
		return noDevice("")
	case !config.ValidIfname(n.Source.Dev):
		return step.Hint(ErrNoDevice, "%q is no device name", n.Source.Dev)
	}
	if s.VLAN != 0 {
		return p.assistedVLAN(n, s)
	}
	if there {
		if err := p.onUplink(n.Source.Dev, source, s.Uplink); err != nil {
			return err
		}
		// Possibly ours: held, so that no other guest's end removes it.
		if err := p.stack().hold(n, source); err != nil {
			return err
		}
		if source.Name != n.Source.Dev {
			p.add(step.Step{NIC: p.id(n), Kind: &step.AltName{Device: source.Name, Name: n.Source.Dev, Planned: source.Index}})
		}
		return nil
	}
	if u := p.host.Called(p.cfg, n.Source.Dev); u != nil {
		dev, err := p.uplink(u)
		if err == nil {
			err = p.onUplink(n.Source.Dev, dev, s.Uplink)
		}
		if err != nil {
			return err
		}
		return p.altName(n, u)
	}
	return p.namedVLAN(n, s)
}

// onDev checks that a NIC's <source> is the device that its settings say in dev.
func (p macvtap) onDev(n *xmlfilter.NIC, s Settings) error {
	at, err := p.atDev(n, s)
	if err == nil && at.Source.Dev != n.Source.Dev && p.host.Devices[n.Source.Dev].Name != at.Source.Dev {
		return p.notRewritten(fmt.Sprintf("dev='%s' is %s here, and its <source> says %s", s.Dev, at.Source.Dev, n.Source.Dev))
	}
	return err
}

// atDev is the NIC on the device that its settings say in dev. Beside a VLAN that is the
// VLAN's parent, and beside an uplink nothing.
func (p macvtap) atDev(n *xmlfilter.NIC, s Settings) (*xmlfilter.NIC, error) {
	if n.Type != "direct" || n.Source.Network != "" || s.Own || s.Dev == "" || s.Uplink != nil {
		return n, nil
	}
	if err := p.agreesOnVLAN(n, s); err != nil {
		return n, err
	}
	dev, _, ok := p.stack().reach(s.Dev)
	if s.VLAN != 0 && !(dev.VF && cmp.Or(s.Mode, n.Source.Mode) == "passthrough") {
		return n, nil
	}
	if !ok {
		return n, noDevice(s.Dev)
	}
	at := *n
	at.Source.Dev = dev.Name
	return &at, nil
}

// agreesOnVLAN refuses settings that name a device and no VLAN, or a VLAN and no device, of a NIC
// whose <source> is a VLAN, unless they say the same. In the first case the guest would get what
// is not tagged, or has another tag. In the second, rewrite may have made that <source> for
// settings that were changed since, or theirs is to be a VLAN in it.
func (p macvtap) agreesOnVLAN(n *xmlfilter.NIC, s Settings) error {
	parent, vid, named := p.stack().splitVLAN(n.Source.Dev)
	is := named
	if dev := p.host.Devices[n.Source.Dev]; !named && dev.Kind == "vlan" && dev.Below != nil && p.host.Called(p.cfg, n.Source.Dev) == nil {
		parent, vid, is = dev.Below.Name, dev.VLANID, true
	}
	switch _, _, too := p.stack().splitVLAN(s.Dev); {
	case !is || s.Uplink != nil || s.Dev == n.Source.Dev:
	case s.Dev == "" && s.VLAN != 0 && s.VLAN != vid && n.Type == "direct" && n.VLAN == nil:
		return step.Hint(step.ErrUnsuitable, "its <source> is VLAN %d of %s, and its settings say vlan='%d' and no device; say dev='%[2]s' there for VLAN %[3]d, or <source dev='%[4]s.%[3]d'/> for VLAN %[3]d in VLAN %[1]d",
			vid, parent, s.VLAN, n.Source.Dev)
	case named && s.Dev != "" && s.VLAN == 0 && !too && p.host.Devices[s.Dev].Kind != "vlan":
		return step.Hint(step.ErrUnsuitable, "its <source> is VLAN %d of %s, and its settings say dev='%s' and no VLAN; say vlan='%[1]d' there, or <source dev='%[3]s'/>", vid, parent, s.Dev)
	}
	return nil
}

// altName lets libvirt find an uplink's device by the name that the domain uses.
func (p macvtap) altName(n *xmlfilter.NIC, u *config.Uplink) error {
	dev, err := p.uplink(u)
	if err != nil {
		return err
	}
	if dev.VF {
		// libvirt tells a VF by its name in sysfs, where altnames do not exist.
		return p.notRewritten(fmt.Sprintf("%q is the VF %s here", n.Source.Dev, dev.Name))
	}
	p.add(step.Step{NIC: p.id(n), Kind: &step.AltName{Device: dev.Name, Name: n.Source.Dev, Planned: dev.Index}})
	return nil
}

// namedVLAN plans the sub-interface that <source dev='PARENT.VID'> names without its
// being there, and that of PARENT, if that is one as well. An uplink's name makes it the
// device's own sub-interface, called so as well: the kernel takes a parent's VLAN only once.
func (p macvtap) namedVLAN(n *xmlfilter.NIC, s Settings) error {
	if err := p.stack().missing(n.Source.Dev); err != nil {
		return err
	}
	dev, _, ok := p.stack().reach(n.Source.Dev)
	if s.Uplink != nil {
		want, err := p.uplink(s.Uplink)
		if err != nil {
			return err
		}
		if _, _, isVLAN := SplitVLAN(n.Source.Dev); !ok && isVLAN || ok && !dev.on(want.Index) {
			return p.notRewritten(fmt.Sprintf("uplink %q is %s here, and its <source> says %s", s.Uplink.Name, want.Name, n.Source.Dev))
		}
	}
	if !ok {
		return noDevice(n.Source.Dev)
	}
	if err := p.stack().vlan(n, dev.Name, *dev.Below, dev.VLANID); err != nil {
		return err
	}
	if dev.Name != n.Source.Dev {
		p.add(step.Step{NIC: p.id(n), Kind: &step.AltName{Device: dev.Name, Name: n.Source.Dev}})
	}
	return nil
}

// assistedVLAN plans for a NIC whose settings name the VLAN; <source dev=> then is just
// what its sub-interface is called.
func (p macvtap) assistedVLAN(n *xmlfilter.NIC, s Settings) error {
	if err := p.agreesOnVLAN(n, s); err != nil {
		return err
	}
	parent, vid, isVLAN := SplitVLAN(n.Source.Dev)
	dev, err := p.parent(s, cmp.Or(parent, n.Source.Dev))
	if err != nil {
		return err
	}
	source, there := p.host.Devices[n.Source.Dev]
	_, _, stacked := SplitVLAN(parent)
	named, _, known := p.stack().reach(parent)
	switch {
	case there && source.Index == dev.Index:
		return p.notRewritten(fmt.Sprintf("it asks for VLAN %d and its <source> is %s itself", s.VLAN, dev.Name))
	case there && (source.Kind != "vlan" || source.VLANID != s.VLAN || source.Parent != dev.Index || dev.Index == 0):
		return step.Hint(step.ErrWrongDevice, "%s is not VLAN %d of %s; run: libvirt-direct rewrite --domain %s", n.Source.Dev, s.VLAN, dev.Name, shellWord(p.domain.Name))
	case !there && p.host.Called(p.cfg, n.Source.Dev) != nil: // the next guest that names it would be in the VLAN
		return p.notRewritten(fmt.Sprintf("it asks for VLAN %d and its <source> is uplink %q itself", s.VLAN, p.host.Called(p.cfg, n.Source.Dev).Name))
	case !there && isVLAN && vid != s.VLAN:
		return p.notRewritten(fmt.Sprintf("it asks for VLAN %d and its <source> says %s", s.VLAN, n.Source.Dev))
	case !there && isVLAN && (stacked && dev.Name != parent || known && named.Name != dev.Name): // likewise
		return p.notRewritten(fmt.Sprintf("it asks for VLAN %d of %s and its <source> says %s", s.VLAN, dev.Name, n.Source.Dev))
	}
	return p.stack().vlan(n, n.Source.Dev, dev, s.VLAN)
}

// What the kernel takes of a macvtap or tap (MAX_TAP_QUEUES, ETH_MAX_MTU).
const (
	maxQueues = 256
	maxMTU    = 65535
)

func madeByKernel(n *xmlfilter.NIC) bool { return n.Queues <= maxQueues && n.MTU <= maxMTU }

func errTooMuch(n *xmlfilter.NIC) error {
	return step.Hint(step.ErrUnsuitable, "<driver queues='%d'>, <mtu size='%d'>: its device has at most %d queues, and an MTU of %d", n.Queues, n.MTU, maxQueues, maxMTU)
}

// hookOwned plans the macvtap of a NIC that is <interface type='ethernet'> for
// libvirt, on a lower device that it returns.
func (p macvtap) hookOwned(n *xmlfilter.NIC, s Settings) (lower string, err error) {
	switch {
	case n.MAC == "":
		return "", step.Hint(step.ErrUnsuitable, "it has no <mac address=>")
	case !madeByKernel(n):
		return "", errTooMuch(n)
	case !config.ValidIfname(n.Target) || n.Managed != "no":
		return "", p.notRewritten("it has no <target dev= managed='no'>")
	}
	dev, err := p.parent(s, "")
	if err != nil {
		return "", err
	}
	lower, planned := dev.Name, dev.Index
	if s.VLAN != 0 {
		lower, planned = VLANName(dev.Name, s.VLAN), 0
		err = p.stack().vlan(n, lower, dev, s.VLAN)
	} else {
		err = p.stack().hold(n, dev)
	}
	if err != nil {
		return "", err
	}
	p.add(step.Step{NIC: p.id(n), Kind: &step.Macvtap{
		Name: n.Target, Lower: lower, Mode: cmp.Or(s.Mode, "vepa"), MAC: n.MAC,
		MTU: n.MTU, Queues: n.Queues, AllMulti: s.AllMulti, Planned: planned,
	}})
	if n.Settings == nil || n.Settings.Was == nil || !isQbg(n.Settings.Was.VirtualPort) {
		return lower, nil
	}
	v, err := vsiOf(n.Settings.Was.VirtualPort, n.MAC, dev.Name, s.VLAN)
	if err != nil {
		return "", err
	}
	p.add(step.Step{NIC: p.id(n), Kind: v})
	return lower, nil
}

// obstacle refuses a macvtap that the kernel would refuse, with a bare EBUSY. That of a
// plain guest is libvirt's to try.
func (p macvtap) obstacle(n *xmlfilter.NIC) error {
	if p.op == step.Reconnect || n.Settings == nil {
		return nil
	}
	for _, o := range p.host.Obstacles[p.id(n)] {
		if o.Errno != 0 {
			return step.Hint(step.ErrNotFree, "no macvtap can be made there: %s", o)
		}
	}
	return nil
}

func (p macvtap) remap(n *xmlfilter.NIC, s Settings) (r Rename, handled bool, err error) {
	switch {
	case n.Type == "direct" && n.Source.Network == "":
		bare := *n
		if bare.VLAN = nil; n.VLAN != nil {
			s.VLAN = 0 // what libvirt cannot do with it, it says at the start
		}
		c, err := p.convertAssisted(&bare, s)
		return Rename{Dev: c.SourceDev, Noted: c.Settings}, true, err
	case n.Type == "ethernet" && s.Own:
		r, err = p.remapOwned(n, s)
		return r, true, err
	}
	return r, n.Type == "direct", nil
}

// place is where a NIC stands: on a device of this host, or on a VLAN of it.
type place struct {
	dev    Device
	name   string         // what it is called, if possible on other hosts, too
	uplink *config.Uplink // nil where none is concerned
	vid    int            // 0: on the device itself
	whole  bool           // dev is the uplink's device
}

func tags(v *xmlfilter.VLAN) error {
	if len(v.Tags) == 1 {
		return step.Hint(step.ErrUnsuitable, "<vlan> is a trunk; a macvtap stands on one VLAN")
	}
	return step.Hint(step.ErrUnsuitable, "<vlan> has %d tags; a macvtap stands on one VLAN", len(v.Tags))
}

// locate finds out where a NIC stands from its settings and its <source dev=>, which
// may be this host's name, an uplink's, or another host's.
func (p macvtap) locate(n *xmlfilter.NIC, s Settings) (place, error) {
	pl := place{vid: s.VLAN, uplink: s.Uplink}
	source := n.Source.Dev
	if n.VLAN != nil {
		switch {
		case len(n.VLAN.Tags) != 1 || n.VLAN.Trunk:
			return pl, tags(n.VLAN)
		case n.VLAN.Tags[0] == 0 || n.VLAN.Tags[0] > 4094:
			return pl, step.Hint(step.ErrUnsuitable, "<vlan> tag %d; VLANs are 1 to 4094", n.VLAN.Tags[0])
		case pl.vid != 0 && pl.vid != n.VLAN.Tags[0]:
			return pl, step.Hint(step.ErrUnsuitable, "<vlan> says %d and its settings say %d", n.VLAN.Tags[0], pl.vid)
		}
		pl.vid = n.VLAN.Tags[0]
	}
	if err := p.agreesOnVLAN(n, s); err != nil {
		return pl, err
	}
	if s.Uplink != nil {
		s.Dev = "" // it goes before
	}
	name := cmp.Or(s.Dev, source)
	if parent, vid, ok := p.stack().splitVLAN(name); ok && (pl.vid == 0 || pl.vid == vid && s.Dev == "") {
		name, pl.vid = parent, vid
	} else if dev := p.host.Devices[name]; pl.vid != 0 && dev.VLANID == pl.vid && dev.Below != nil && s.Dev == "" && dev.Name == name {
		name = dev.Below.Name // an uplink that is that VLAN
	}
	if pl.uplink != nil {
		return pl, p.stack().below(&pl, name, s)
	}
	if err := p.stack().missing(name); err != nil {
		return pl, err
	}
	ok := false
	if pl.dev, pl.name, ok = p.stack().reach(name); !ok {
		return pl, noDevice(name)
	}
	// An uplink in the settings would mean one of its virtual functions in passthrough mode,
	// and this is the device itself, or a VLAN of it.
	if u := p.host.Called(p.cfg, name); u != nil && (s.Own || cmp.Or(s.Mode, n.Source.Mode) != "passthrough" || p.host.Free[u.Name] == nil) {
		pl.uplink, pl.whole = u, true
	}
	return pl, nil
}

// stacked reports whether a place is not on the uplink's device itself, or on one VLAN of it.
func (pl place) stacked(s Settings) bool { return s.Uplink != nil && !pl.whole }

// noted are the settings that say a place.
func (pl place) noted() map[string]string {
	w := map[string]string{}
	if pl.uplink != nil && pl.whole {
		w[settings.NameUplink] = pl.uplink.Name
	} else {
		w[settings.NameDev] = pl.name
	}
	if pl.vid != 0 {
		w[settings.NameVLAN] = strconv.Itoa(pl.vid)
	}
	return w
}

// convertAssisted maps the source device, and turns <vlan> and the settings' VLAN into the
// sub-interface that libvirt understands.
func (p macvtap) convertAssisted(n *xmlfilter.NIC, s Settings) (xmlfilter.Change, error) {
	var c xmlfilter.Change
	if s.Mode != "" && s.Mode != cmp.Or(n.Source.Mode, "vepa") {
		c.SourceMode = s.Mode
	}
	source, there := p.host.Devices[n.Source.Dev]
	if there && source.Name == n.Source.Dev && s.Uplink == nil && s.VLAN == 0 && n.VLAN == nil && p.stack().foreign(n.Source.Dev) == nil {
		return c, nil // it is what it says: the host's own device, whatever its name looks like
	}
	pl, err := p.locate(n, s)
	if err != nil {
		return c, err
	}
	if n.VLAN != nil && pl.dev.VF && cmp.Or(s.Mode, n.Source.Mode) == "passthrough" {
		pl.vid = 0 // libvirt sets a VF's VLAN itself
	}
	dev := pl.dev.Name
	if pl.vid != 0 {
		dev = VLANName(dev, pl.vid)
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
	switch {
	case pl.stacked(s):
		// The uplink stays in the settings, and the name says in which of its VLANs.
		if dev != pl.dev.Name+"."+strconv.Itoa(pl.vid) || !strings.HasPrefix(pl.dev.Name, s.Uplink.Device+".") && s.Uplink.Device != "" {
			return c, step.Hint(step.ErrUnsuitable, "the name of VLAN %d of %s is too long; say dev='%s' vlan='%d' in its settings, in place of uplink", pl.vid, pl.name, pl.name, pl.vid)
		}
	case pl.uplink != nil || pl.vid != 0:
		c.Settings = newSettings(n, pl.noted())
	}
	return c, nil
}

// toHookOwned turns <interface type='direct'> into type='ethernet' with a device that
// the hook will make, and notes in the settings what the XML no longer says.
func (p macvtap) toHookOwned(n *xmlfilter.NIC, s Settings) (xmlfilter.Change, error) {
	c := xmlfilter.Change{}
	if n.VirtualPort != nil && !isQbg(n.VirtualPort) {
		return c, step.Hint(step.ErrUnsuitable, "it has <virtualport type='%s'>, which is libvirt's to associate; leave own='hook' out", n.VirtualPort.Type)
	}
	if n.MAC == "" {
		return c, step.Hint(step.ErrUnsuitable, "it has no <mac address=>; define the domain first, libvirt gives it one")
	}
	pl, err := p.locate(n, s)
	if err != nil {
		return c, err
	}
	if isQbg(n.VirtualPort) {
		if _, err := vsiOf(n.VirtualPort, n.MAC, pl.dev.Name, pl.vid); err != nil {
			return c, err
		}
	}
	noted := pl.noted()
	if pl.stacked(s) { // an uplink in the settings goes before dev
		return c, step.Hint(step.ErrUnsuitable, "its uplink is %q, and its <source> is a VLAN in a VLAN of that; say dev='%s' vlan='%d' in its settings, in place of uplink", s.Uplink.Name, pl.name, pl.vid)
	}
	noted[settings.NameOwn] = settings.OwnHook
	noted[settings.NameMode] = cmp.Or(s.Mode, n.Source.Mode, "vepa")
	c.Settings = newSettings(n, noted)
	c.Ethernet = targetName(p.domain, n)
	return c, nil
}

// convertOwned maps the lower device of a NIC that is hook-owned already.
func (p macvtap) convertOwned(n *xmlfilter.NIC, s Settings) (c xmlfilter.Change, err error) {
	lower, err := p.lower(n, s)
	if lower != "" {
		c.Settings = newSettings(n, map[string]string{settings.NameDev: lower})
	}
	devices(p).rename(n, &c)
	return c, err
}

// lower is what the lower device of a hook-owned NIC is called here, "" where no name has to
// change.
func (p macvtap) lower(n *xmlfilter.NIC, s Settings) (string, error) {
	if s.Uplink != nil {
		return "", nil
	}
	pl, err := p.locate(n, s)
	if err != nil {
		return "", err
	}
	lower, portable := pl.dev.Name, pl.name
	if s.VLAN == 0 && pl.vid != 0 {
		lower, portable = VLANName(lower, pl.vid), fmt.Sprintf("%s.%d", portable, pl.vid)
	}
	if s.Dev == lower || s.Dev == portable {
		return "", nil
	}
	return lower, nil
}

func (p macvtap) remapOwned(n *xmlfilter.NIC, s Settings) (r Rename, err error) {
	if r.Lower, err = p.lower(n, s); err != nil {
		return r, err
	}
	if n.Settings != nil && r.Lower == n.Settings.Dev {
		r.Lower = ""
	}
	if n.Settings == nil || n.Settings.Was == nil || n.Settings.Was.Source.Dev == "" {
		return r, nil
	}
	was := *n
	was.Source, was.VLAN = n.Settings.Was.Source, nil
	pl, err := p.locate(&was, Settings{Uplink: s.Uplink})
	if err != nil { // what was kept serves only undo: a name that means nothing here stays
		return r, nil
	}
	dev := pl.dev.Name
	if pl.vid != 0 {
		dev = VLANName(dev, pl.vid)
	}
	if dev != was.Source.Dev {
		r.Kept = dev
	}
	return r, nil
}
