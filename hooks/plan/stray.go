package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// ErrStray: settings that restrict a guest belong to none of its NICs, and one that has none
// could be theirs. virt-clone gives NICs new MACs and leaves the metadata as it is.
var ErrStray = errors.New("settings in <metadata> belong to no NIC")

// hookOwned are the kinds of NIC that one of type='ethernet' can be, with settings by which the
// hook makes its device.
const hookOwned = settings.OnMacvtap | settings.OnVF | settings.OnOVS

// kindsOf are the kinds of NIC that settings can be for in a NIC as it is, or can turn out to be.
func kindsOf(n *xmlfilter.NIC) settings.Kinds {
	switch {
	case n.Type == "direct":
		return settings.OnMacvtap | settings.OnVF
	case n.Type == "hostdev":
		return settings.OnVF
	case n.Type == "ethernet":
		return hookOwned
	case onOVS(n):
		return settings.OnOVS
	case n.Type == "network":
		return settings.OnMacvtap | settings.OnVF | settings.OnBridge | settings.OnOVS
	case onBridge(n):
		return settings.OnBridge
	}
	return 0
}

// bare are the NICs without settings, the first of each kind.
func bare(d *xmlfilter.Domain) map[settings.Kinds]*xmlfilter.NIC {
	first := map[settings.Kinds]*xmlfilter.NIC{}
	for i := range d.NICs {
		n := &d.NICs[i]
		if k := kindsOf(n); n.Settings == nil && k != 0 && first[k] == nil {
			first[k] = n
		}
	}
	return first
}

// meant is the first of some NICs for which a setting of some kinds can be, nil for none. owned:
// the settings say that the hook makes the NIC's device.
func meant(nics map[settings.Kinds]*xmlfilter.NIC, kinds settings.Kinds, owned bool) (n *xmlfilter.NIC) {
	for k, of := range nics {
		if k&kinds != 0 && (owned || k != hookOwned) && (n == nil || of.Index < n.Index) {
			n = of
		}
	}
	return n
}

// mayHaveLost reports whether a NIC may have lost settings that restrict its guest. What a
// profile says is not known here.
func mayHaveLost(d *xmlfilter.Domain) bool {
	if len(d.Stray) == 0 {
		return false
	}
	nics := bare(d)
	for _, s := range d.Stray {
		kinds := settings.Kinds(0)
		if s.Profile != "" {
			kinds = ^kinds
		}
		for _, r := range s.Restricting() {
			kinds |= r.NICs
		}
		if meant(nics, kinds, s.Own == settings.OwnHook || s.Profile != "") != nil {
			return true
		}
	}
	return false
}

// restriction is what stray settings restrict: the kinds of NIC for which that is, and the
// settings as text.
func restriction(cfg *config.Config, s xmlfilter.Stray) (kinds settings.Kinds, text string) {
	var said []string
	add := func(nic settings.NIC, format string) {
		for _, r := range nic.Restricting() {
			kinds |= r.NICs
			value, _ := r.Text(nic)
			said = append(said, fmt.Sprintf(format, r.Name, value))
		}
	}
	add(s.NIC, "%s='%s'")
	if s.Profile == "" {
		return kinds, strings.Join(said, " ")
	}
	p := cfg.Profiles[s.Profile]
	if p == nil || cfg.ProfileFault(s.Profile) != nil { // whatever it restricts
		return ^settings.Kinds(0), strings.Join(append(said, fmt.Sprintf("profile='%s', which this host does not have", s.Profile)), " ")
	}
	own := len(said)
	add(p.NIC, "%s = %s")
	if len(said) > own {
		said = append(said[:own], fmt.Sprintf("profile='%s' with %s", s.Profile, strings.Join(said[own:], ", ")))
	}
	return kinds, strings.Join(said, " ")
}

// strays refuses a domain of which a NIC may have lost settings that restrict its guest.
func strays(d *xmlfilter.Domain, cfg *config.Config) error {
	if len(d.Stray) == 0 {
		return nil
	}
	nics := bare(d)
	for _, s := range d.Stray {
		kinds, text := restriction(cfg, s)
		if n := meant(nics, kinds, ownsDevice(cfg, s.NIC)); n != nil {
			if err := n.Err(); err != nil { // its MAC, perhaps
				return &NICError{Domain: d.Name, NIC: n.String(), Err: err}
			}
			return &NICError{Domain: d.Name, NIC: n.String(), Err: step.Hint(ErrStray,
				"those of %s (%s) may be meant for this one, which has none, as after virt-clone; run: libvirt-direct rewrite --domain %s", s.Key, text, shellWord(d.Name))}
		}
	}
	return nil
}

// DescribeStray says for a person what becomes of settings that belong to no NIC.
func DescribeStray(d *xmlfilter.Domain, cfg *config.Config, s xmlfilter.Stray) string {
	text := fmt.Sprintf("the metadata has settings for %s, which no NIC has", s.Key)
	kinds, restricts := restriction(cfg, s)
	switch {
	case ownsDevice(cfg, s.NIC) && slices.ContainsFunc(d.NICs, func(n xmlfilter.NIC) bool { return orphan(&n) }):
		return text + "; a NIC of type='ethernet' without settings waits for such, see rewrite"
	case kinds == 0:
		return text + "; they restrict nothing and are ignored"
	case meant(bare(d), kinds, ownsDevice(cfg, s.NIC)) == nil:
		return text + "; no NIC without settings could be meant, and they are ignored"
	}
	return fmt.Sprintf("%s; they restrict (%s), and the domain does not start until it is clear whose they are", text, restricts)
}
