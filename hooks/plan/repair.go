package plan

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// Known is what is known of other domains when settings are given back to NICs.
type Known struct {
	// Others are definitions.
	Others []*xmlfilter.Domain
	// UUIDs are domains of which there are only records.
	UUIDs []string
	// Said is what a person has said: for which NIC, by MAC or alias, the settings of a key are,
	// "" for none.
	Said map[string]string
}

// Repair finds out for which NICs the settings are that belong to none, as of a clone: by what
// somebody says, by the names that the hook has given to devices, by the domain that has been
// cloned, or because nothing else is possible. It never guesses. Where it matters and is not
// clear it fails with an error matching ErrStray that names the candidates. Why each is, it says
// in a line.
func Repair(d *xmlfilter.Domain, cfg *config.Config, known Known) ([]xmlfilter.Reassignment, []string, error) {
	for i := range d.NICs {
		if n := &d.NICs[i]; n.Err() != nil && n.MAC == "" { // it could be the one of some settings
			return nil, nil, &NICError{Domain: d.Name, NIC: n.String(), Err: n.Err()}
		}
	}
	r := &repair{domain: d, cfg: cfg, known: known, of: map[int]match{}, taken: map[int]bool{}}
	for _, find := range []func() error{r.said, r.named, r.placed} {
		if err := find(); err != nil {
			return nil, nil, err
		}
	}
	r.onlyOnes()
	if err := r.unclear(); err != nil {
		return nil, nil, err
	}
	var to []xmlfilter.Reassignment
	var why []string
	for _, i := range slices.Sorted(maps.Keys(r.of)) {
		m, s := r.of[i], d.Stray[i]
		if m.nic < 0 {
			to = append(to, xmlfilter.Reassignment{Stray: i, NIC: -1})
			why = append(why, fmt.Sprintf("the settings of %s go, as --settings says", s.Key))
			continue
		}
		if of := r.portOf(s.IfaceID); of != "" {
			return nil, nil, r.refuse(&d.NICs[m.nic], "those of %s say ifaceid='%s', which is a logical port of domain %q; name this domain's own there: virsh edit %s", s.Key, s.IfaceID, of, shellWord(d.Name))
		}
		a := xmlfilter.Reassignment{Stray: i, NIC: m.nic}
		if r.cloned {
			a.Instance = instance(d, &d.NICs[m.nic])
		}
		to = append(to, a)
		why = append(why, fmt.Sprintf("%s: it gets the settings of %s, %s", &d.NICs[m.nic], s.Key, m.why))
	}
	return to, why, nil
}

// portOf is the other domain whose NIC is a logical port, "" where none is known.
func (r *repair) portOf(ifaceID string) string {
	for _, o := range r.known.Others {
		for _, n := range o.NICs {
			if ifaceID != "" && owner(o) != owner(r.domain) && n.Settings != nil && n.Settings.IfaceID == ifaceID {
				return o.Name
			}
		}
	}
	return ""
}

// instance is a UUID for a NIC of a domain, the same each time (RFC 9562, version 8).
func instance(d *xmlfilter.Domain, n *xmlfilter.NIC) string {
	b := sha256.Sum256([]byte("port " + owner(d) + " " + n.ID()))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

type match struct {
	nic int // negative: the settings go
	why string
}

type repair struct {
	domain *xmlfilter.Domain
	cfg    *config.Config
	known  Known

	of     map[int]match // by stray
	taken  map[int]bool  // by NIC
	cloned bool          // the domain is a clone, for sure
}

func (r *repair) refuse(n *xmlfilter.NIC, format string, args ...any) error {
	err := step.Hint(ErrStray, format, args...)
	if n == nil {
		return fmt.Errorf("domain %q: %w", r.domain.Name, err)
	}
	return &NICError{Domain: r.domain.Name, NIC: n.String(), Err: err}
}

func (r *repair) give(stray, nic int, why string) {
	r.of[stray] = match{nic, why}
	if nic >= 0 {
		r.taken[nic] = true
	}
}

// free reports whether a NIC has no settings yet.
func (r *repair) free(i int) bool { return r.domain.NICs[i].Settings == nil && !r.taken[i] }

// said does what a person says.
func (r *repair) said() error {
	for _, key := range slices.Sorted(maps.Keys(r.known.Said)) {
		stray, want := -1, r.known.Said[key]
		for i, s := range r.domain.Stray {
			if s.Key == key && stray >= 0 {
				return r.refuse(nil, "two <nic> are for %s; remove one", key)
			} else if s.Key == key {
				stray = i
			}
		}
		if stray < 0 {
			return r.refuse(nil, "--settings %s=%s: there are none for %s; those without NIC are for %s", key, want, key, r.keys())
		}
		if want == "" {
			r.give(stray, -1, "")
			continue
		}
		nic := -1
		for i := range r.domain.NICs {
			if n := &r.domain.NICs[i]; n.MAC == want || n.Alias == want {
				if nic >= 0 {
					return r.refuse(n, "--settings %s=%s: that is more than one NIC; name it by its alias", key, want)
				}
				nic = i
			}
		}
		if nic < 0 || !r.free(nic) {
			return r.refuse(nil, "--settings %s=%s: no NIC without settings is called so", key, want)
		}
		r.give(stray, nic, "as --settings says")
	}
	return nil
}

func (r *repair) keys() string {
	var keys []string
	for _, s := range r.domain.Stray {
		keys = append(keys, s.Key)
	}
	if len(keys) == 0 {
		return "none"
	}
	return strings.Join(keys, ", ")
}

// named looks for devices that the hook has named for the settings' MAC and some domain.
func (r *repair) named() error {
	uuids := append([]string{owner(r.domain)}, r.known.UUIDs...)
	for _, o := range r.known.Others {
		uuids = append(uuids, owner(o))
	}
	for i := range r.domain.NICs {
		n := &r.domain.NICs[i]
		if !hookNamed(n.Target) {
			continue
		}
		if n.Settings == nil && n.Target != targetName(r.domain, n) {
			for _, uuid := range uuids {
				for stray, s := range r.domain.Stray {
					if _, done := r.of[stray]; done || !r.free(i) || !r.fits(s, n) || !namedFor(n.Target, uuid, s.Key, r.domain.NICs) {
						continue
					}
					r.give(stray, i, fmt.Sprintf("for which <target dev='%s'> is named", n.Target))
					r.cloned = r.cloned || uuid != owner(r.domain)
				}
			}
		}
	}
	return nil
}

// placed looks for domains that have the settings' NICs, and takes those at the same places.
func (r *repair) placed() error {
	for stray, s := range r.domain.Stray {
		if _, done := r.of[stray]; done {
			continue
		}
		nic, of := -1, ""
		for _, o := range r.known.Others {
			at := slices.IndexFunc(o.NICs, func(n xmlfilter.NIC) bool { return n.MAC == s.Key || n.Alias == s.Key && s.Key != "" })
			if at < 0 || owner(o) == owner(r.domain) {
				continue
			}
			r.cloned = true
			if !alike(o, r.domain) || !r.free(at) || !r.fits(s, &r.domain.NICs[at]) {
				continue
			}
			if nic >= 0 && nic != at {
				return r.refuse(&r.domain.NICs[at], "domains %q and %q both have %s, at different places; %s", of, o.Name, s.Key, r.say(s.Key, []int{nic, at}))
			}
			nic, of = at, o.Name
		}
		if nic >= 0 {
			r.give(stray, nic, fmt.Sprintf("which domain %q has at the same place", of))
		}
	}
	return nil
}

// alike reports whether two domains have the same NICs at the same places, but for what a clone
// has for itself. A clone keeps where the guest sees them: if one of the two has been given its NICs
// anew since, in another order, that shows it.
func alike(a, b *xmlfilter.Domain) bool {
	return slices.EqualFunc(a.NICs, b.NICs, func(x, y xmlfilter.NIC) bool {
		slot := x.Slot == y.Slot || x.Slot == "" || y.Slot == ""
		return slot && x.Type == y.Type && x.Model == y.Model && x.Source.Bridge == y.Source.Bridge && x.Source.Network == y.Source.Network && x.Source.Mode == y.Source.Mode
	})
}

// fits reports whether settings can be those of a NIC.
func (r *repair) fits(s xmlfilter.Stray, n *xmlfilter.NIC) bool {
	kinds := kindsOf(n)
	nic := s.NIC
	if p := r.cfg.Profiles[s.Profile]; p != nil {
		nic = nic.Override(p.NIC)
	}
	for _, setting := range settings.All() {
		if _, set := setting.Text(nic); set && setting.NICs&kinds == 0 {
			return false
		}
	}
	own := nic.Own == settings.OwnHook
	switch {
	case n.Type == "ethernet":
		return own
	case s.Was == nil:
		return kinds != 0
	}
	return !own && s.Was.Type == n.Type
}

// candidates are the NICs whose a stray's settings can be.
func (r *repair) candidates(s xmlfilter.Stray) (nics []int) {
	for i := range r.domain.NICs {
		if r.free(i) && r.fits(s, &r.domain.NICs[i]) {
			nics = append(nics, i)
		}
	}
	return nics
}

// onlyOnes gives settings to the only NIC for which they can be, if no others can be for that
// one, of what is known to be a clone: or, for a NIC as only the hook's own are, of any domain.
func (r *repair) onlyOnes() {
	for again := true; again; {
		again = false
		wanted := map[int][]int{} // strays, by NIC
		for i, s := range r.domain.Stray {
			if _, done := r.of[i]; done {
				continue
			}
			for _, n := range r.candidates(s) {
				wanted[n] = append(wanted[n], i)
			}
		}
		for _, n := range slices.Sorted(maps.Keys(wanted)) {
			by := wanted[n]
			if len(by) != 1 || len(r.candidates(r.domain.Stray[by[0]])) != 1 || !r.cloned && !orphan(&r.domain.NICs[n]) {
				continue
			}
			r.cloned = true
			r.give(by[0], n, "for which no other NIC can be meant")
			again = true
			break
		}
	}
}

// unclear refuses where settings that restrict are left and a NIC without, or a NIC of ours
// without settings.
func (r *repair) unclear() error {
	for i, s := range r.domain.Stray {
		if _, done := r.of[i]; done {
			continue
		}
		kinds, text := restriction(r.cfg, s)
		var can []int
		for n := range r.domain.NICs {
			of := &r.domain.NICs[n]
			owned := ownsDevice(r.cfg, s.NIC)
			if r.free(n) && (kindsOf(of)&kinds != 0 && (owned || of.Type != "ethernet") || owned && orphan(of)) {
				can = append(can, n)
			}
		}
		if len(can) > 0 {
			if text != "" {
				text = " (" + text + ")"
			}
			return r.refuse(&r.domain.NICs[can[0]], "those of %s%s may be meant for %s; %s", s.Key, text, r.these(can), r.say(s.Key, can))
		}
	}
	return nil
}

func (r *repair) these(nics []int) string {
	var names []string
	for _, i := range nics {
		names = append(names, r.domain.NICs[i].String())
	}
	return strings.Join(names, " or ")
}

// say is what a person can say of settings and the NICs for which they can be.
func (r *repair) say(key string, nics []int) string {
	n := &r.domain.NICs[nics[0]]
	name := n.MAC
	if name == "" {
		name = "MAC"
	}
	return fmt.Sprintf("say which: libvirt-direct rewrite --domain %s --settings %s=%s, or --settings %s= to drop them", shellWord(r.domain.Name), key, name, key)
}
