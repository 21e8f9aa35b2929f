package plan

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// A Target is a device that a NIC names by <target dev=>, as this host has it.
type Target struct {
	There bool
	// Name is the device's own name, where the NIC uses an alternative one.
	Name string
	// Owner is who else has it, nil for nobody of ours.
	Owner *Owner
}

// Owner is for whom the hook or the helper has made a device.
type Owner struct {
	Domain string // its name, or UUID
	// Unreadable: that domain's journal cannot be read.
	Unreadable bool
	// Helper is whose request to the helper it was, as the device's alias has it; "" for a domain's.
	Helper string
}

// targetPrefix begins the names that the hook gives to devices.
const targetPrefix = "ldt"

// helperPrefix begins those of the helper's taps (helper/tapname).
const helperPrefix = "tap"

// hookNamed reports whether a name is as the hook gives it to a device.
func hookNamed(name string) bool {
	return len(name) == len(targetPrefix)+10 && isPrefixed(name, targetPrefix, "0123456789abcdef")
}

// helperNamed reports whether a name is as the helper gives it to a tap.
func helperNamed(name string) bool {
	return len(name) == len(helperPrefix)+8 && isPrefixed(name, helperPrefix, "0123456789abcdef")
}

// libvirtNamed reports whether a name is as libvirt gives it to a device.
func libvirtNamed(name string) bool {
	return slices.ContainsFunc([]string{"vnet", "macvtap", "macvlan"}, func(prefix string) bool {
		return len(name) > len(prefix) && isPrefixed(name, prefix, "0123456789")
	})
}

// isPrefixed reports whether a name is a prefix and then nothing but some characters.
func isPrefixed(name, prefix, chars string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && strings.Trim(rest, chars) == ""
}

// MayNameDevice reports whether a domain's XML could name a device that hook or helper have
// made for another guest, judged by the bytes alone, as MayConcern.
func MayNameDevice(doc []byte) bool {
	text := xmlfilter.ASCII(doc)
	for _, s := range []string{"ethernet", targetPrefix, helperPrefix} {
		for _, quote := range []string{"'", `"`} {
			if bytes.Contains(text, []byte(quote+s)) {
				return true
			}
		}
	}
	return false
}

// NamesDevice reports whether a NIC names a device that hook or helper could have made. What
// libvirt makes itself has another name, where nobody has chosen that.
func NamesDevice(n *xmlfilter.NIC) bool {
	switch {
	case !config.ValidIfname(n.Target):
		return false
	case n.Type == "ethernet" || hookNamed(n.Target) || helperNamed(n.Target):
		return true
	}
	return n.Settings != nil && !libvirtNamed(n.Target)
}

// devices are those that a domain's NICs name by <target dev=>.
type devices struct{ *planner }

// Targets refuses a domain that names another guest's device, for one that has nothing else
// to do with us.
func Targets(op step.Op, d *xmlfilter.Domain, host Snapshot) error {
	p := devices{&planner{op: op, domain: d, host: host}}
	return cmp.Or(p.others(), p.missing())
}

// others refuses a domain of which a NIC names a device that was made for another guest:
// QEMU would open it, and each of the two guests would get some of the other's frames.
func (p devices) others() error {
	for i := range p.domain.NICs {
		n := &p.domain.NICs[i]
		var err error
		switch o := p.host.Targets[n.Target].Owner; {
		case o != nil && o.Helper != "":
			err = step.Hint(step.ErrInUse, "%s is a device of the helper's (%s); leave its <target dev=> out", n.Target, o.Helper)
		case o != nil && o.Unreadable:
			err = step.Hint(step.ErrInUse, "%s is claimed by domain %s, whose journal cannot be read; %s, or see libvirt-direct status --claims", n.Target, o.Domain, p.ownTarget(n))
		case o != nil && n.Managed == "no" && p.namedHere(n):
			err = step.Hint(step.ErrInUse, "%s is this domain's own, and domain %q, a copy of it, has it now; stop that and run: libvirt-direct rewrite --domain %s, or libvirt-direct gc if it is gone", n.Target, o.Domain, shellWord(o.Domain))
		case o != nil:
			err = step.Hint(step.ErrInUse, "%s was made for domain %q; %s, or libvirt-direct gc if that domain is gone", n.Target, o.Domain, p.ownTarget(n))
		}
		if err != nil {
			return &NICError{Domain: p.domain.Name, NIC: n.String(), Err: err}
		}
	}
	return nil
}

// missing refuses a NIC of the hook's whose device nobody will make. libvirt would refuse it, too,
// and not say why.
func (p devices) missing() error {
	for i := range p.domain.NICs {
		n := &p.domain.NICs[i]
		if t, looked := p.host.Targets[n.Target]; p.op == step.Prepare && looked && !t.There && orphan(n) {
			return noOwnSettings(p.domain, n)
		}
	}
	return nil
}

// ownTarget says how a NIC gets a device of its own.
func (p devices) ownTarget(n *xmlfilter.NIC) string {
	if n.Settings == nil && len(p.domain.Stray) == 0 {
		return "give it another <target dev=>"
	}
	return "run: libvirt-direct rewrite --domain " + shellWord(p.domain.Name)
}

// orphan reports whether a NIC is as only the hook's own are, and has no settings by which the
// hook would make its device.
func orphan(n *xmlfilter.NIC) bool {
	return n.Type == "ethernet" && n.Managed == "no" && n.Settings == nil && hookNamed(n.Target)
}

func noOwnSettings(d *xmlfilter.Domain, n *xmlfilter.NIC) error {
	todo := "add its <nic> to <metadata>, or take another <target dev=>"
	if len(d.Stray) > 0 {
		todo = "run: libvirt-direct rewrite --domain " + shellWord(d.Name)
	}
	return &NICError{Domain: d.Name, NIC: n.String(), Err: step.Hint(step.ErrUnsuitable,
		"the hook makes %s for a NIC whose settings say own='hook', and it has none; %s", n.Target, todo)}
}

// orphaned refuses to rewrite a domain with such a NIC: as which one it was meant is not known.
func orphaned(d *xmlfilter.Domain) error {
	for i := range d.NICs {
		if n := &d.NICs[i]; orphan(n) {
			return noOwnSettings(&xmlfilter.Domain{Name: d.Name}, n)
		}
	}
	return nil
}

// newTarget is the name of the device that a hook-owned NIC is to have from now on, "" where
// that stays: for one that has none, or another guest's, which the hook has named for another
// domain or made for one. A name that its user has chosen stays.
func (p devices) newTarget(n *xmlfilter.NIC) string {
	own := targetName(p.domain, n)
	switch {
	case n.Managed == "no" && p.namedHere(n):
		return ""
	case n.Target == "" || hookNamed(n.Target) || p.host.Targets[n.Target].Owner != nil:
		return own
	case n.Managed != "no":
		return n.Target
	}
	return ""
}

// rename gives a hook-owned NIC its own device, and, where the one that it has is known to be
// another domain's, so that this is a copy of that, its own identifiers of the port.
func (p devices) rename(n *xmlfilter.NIC, c *xmlfilter.Change) {
	c.Ethernet = p.newTarget(n)
	if c.Ethernet == "" || p.host.Targets[n.Target].Owner == nil || n.Settings == nil || n.Settings.Was == nil {
		return
	}
	if v := n.Settings.Was.VirtualPort; v != nil && v.Parameters["interfaceid"]+v.Parameters["instanceid"] != "" {
		c.Instance = instance(p.domain, n)
	}
}

// namedHere reports whether the hook has named a NIC's device for it: with the alias of today, or
// before it got that.
func (p devices) namedHere(n *xmlfilter.NIC) bool {
	return namedFor(n.Target, owner(p.domain), n.MAC, p.domain.NICs)
}

// namedFor reports whether the hook has named a device for a NIC with a MAC, of a domain: by
// the MAC alone, or, where the domain had that more than once, with alias or position.
func namedFor(target, uuid, mac string, nics []xmlfilter.NIC) bool {
	if hookName(uuid, mac) == target {
		return true
	}
	return slices.ContainsFunc(nics, func(n xmlfilter.NIC) bool {
		return hookName(uuid, mac+" "+n.Alias) == target || hookName(uuid, fmt.Sprintf("%s #%d", mac, n.Index)) == target
	})
}

// owner is how a domain's devices are named for it.
func owner(d *xmlfilter.Domain) string { return cmp.Or(d.UUID, d.Name) }

// ownsDevice reports whether settings are of a NIC whose device the hook makes.
func ownsDevice(cfg *config.Config, s settings.NIC) bool {
	p := cfg.Profiles[s.Profile]
	switch {
	case p != nil:
		s = s.Override(p.NIC)
	case s.Profile != "":
		return s.Own != settings.OwnLibvirt // it may say that
	}
	return s.Own == settings.OwnHook
}
