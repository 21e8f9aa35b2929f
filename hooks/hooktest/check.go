package hooktest

import (
	"fmt"
	"slices"
	"strings"

	"libvirt-direct/internal/link"
)

// check looks at the invariants that hold at every boundary.
func (w *World) check() {
	if !w.installed { // what libvirt's guests do to each other then is theirs
		return
	}
	for _, d := range w.Domains {
		if d.State == Starting || d.inHook {
			w.excuse(d)
		}
		if d.State == Running {
			w.kept(d)
		}
	}
	for number, was := range w.tool {
		if now := w.vf(number).String(); now != was {
			w.violated("foreign", "VF %d, which another tool has, is now: %s", number, now)
		}
	}
}

// kept: what a guest that runs has is as it was given.
func (w *World) kept(d *Domain) {
	if d.kind == OVSPort && !d.hookless && d.starts > 0 && // an older release starts it without
		!slices.Contains(w.Kernel.SelfMACs[w.Kernel.byName(pfName).Index], d.MAC) {
		w.violated("kept", "%s runs, and %s does not know its MAC, by %s", d.Name, pfName, w.last())
		return
	}
	if d.vf < 0 || d.disturbed {
		return
	}
	v, want := w.vf(d.vf), d.settings()
	if d.hookless {
		want = want.Only(func(attr string) bool { return attr == link.AttrMAC || attr == link.AttrVLAN })
	}
	if differ := v.Differ(want); len(differ) > 0 {
		have, _ := v.Value(differ[0])
		need, _ := want.Value(differ[0])
		w.violated("kept", "%s runs, and %s of its VF %d is %s, not %s, by %s", d.Name, differ[0], d.vf, have, need, w.last())
		return
	}
	if d.kind == Hostdev {
		return
	}
	tap, lower := w.Kernel.byName(d.device), w.Kernel.byName(v.Netdev)
	switch {
	case tap == nil || lower == nil || tap.Parent != lower.Index:
		w.violated("kept", "%s runs, and its macvtap on VF %d is gone, by %s", d.Name, d.vf, w.last())
	case !tap.Up || !lower.Up:
		w.violated("kept", "%s runs, and its VF %d is down, by %s", d.Name, d.vf, w.last())
	case tap.MAC != d.MAC:
		w.violated("kept", "%s runs, and its macvtap has the MAC %s, by %s", d.Name, tap.MAC, w.last())
	}
}

// last is whose turn it was, and what for.
func (w *World) last() string {
	if w.turn == nil {
		return "nobody"
	}
	return fmt.Sprintf("%s: %s %s", w.turn.name, w.turn.at.Op, w.turn.at.What)
}

// wanted reports whether anybody but one domain has a VF, is about to, or has left
// something of it.
func (w *World) wanted(number int, but *Domain) bool {
	v := w.vf(number)
	if w.tool[number] != "" || v.Netdev == "" {
		return true
	}
	for _, o := range w.Domains {
		if o == but {
			continue
		}
		names := o.onVF() && o.kind != Owned && (o.kind != Incoming || o.xml != "")
		if o.vf == number || o.reserved == number || o.State != Shut && names && o.named == number || w.journalled(o, v.Device) {
			return true
		}
	}
	return false
}

// journalled reports whether a domain's file on the disk mentions a device.
func (w *World) journalled(d *Domain, device string) bool {
	for name, text := range w.Disk.Files {
		if strings.Contains(name, d.UUID) && strings.Contains(string(text), `"`+device+`"`) {
			return true
		}
	}
	return false
}

// excuse notes whether there is a reason at this moment to refuse what a domain asks for.
func (w *World) excuse(d *Domain) {
	switch {
	case d.kind == OVSPort:
		d.excused = d.excused || w.OVS.Down
	case !w.installed:
		d.excused = true // what the hook is to make is not made
	case d.kind == Owned, d.kind == Incoming && d.xml == "":
		free, others := 0, 0
		for n := range w.Kernel.VFs {
			if !w.wanted(n, d) {
				free++
			}
		}
		for _, o := range w.Domains {
			if o != d && (o.State == Starting && o.kind == Owned && o.vf < 0 || o.kind == Incoming && o.inHook && o.State == Shut) {
				others++
			}
		}
		d.excused = d.excused || free <= others
	case d.onVF():
		d.excused = d.excused || w.wanted(d.named, d)
	}
}

// refused: no start is refused without a reason that is there.
func (w *World) refused(d *Domain, op string, err error) {
	if d.excused {
		return
	}
	invariant := "refused"
	if d.kind == Owned || d.kind == Incoming {
		invariant = "distinct"
	}
	w.violated(invariant, "%s (%s, VF %d) is refused at %s, and nothing stands against it: %v", d.Name, d.kind, d.named, op, err)
}

// truth is the host as it is to be found again: VFs attribute by attribute, and devices.
// Whether a VF's network device is up is libvirt's to leave.
func (w *World) truth() map[string]string {
	t := map[string]string{}
	for _, v := range w.Kernel.VFs {
		text := v.String()
		if l := w.Kernel.byName(v.Netdev); l != nil && v.Netdev != "" {
			text += ", own " + l.MAC
		}
		if !w.residue[v.Number] {
			t[fmt.Sprintf("VF %d", v.Number)] = text
		}
	}
	for _, l := range w.Kernel.sorted() {
		if w.Kernel.vfOf(l.Name) != nil {
			continue
		}
		t[l.Name] = fmt.Sprintf("kind %s, MAC %s, up %t, alias %q, altnames %v, forwards %v", l.Kind, l.MAC, l.Up, l.Alias, l.AltNames, w.Kernel.SelfMACs[l.Index])
	}
	for name, p := range w.OVS.ByName {
		t["port "+name] = fmt.Sprint(p)
	}
	return t
}

// restored: when everything has ended the host is as it was, and nothing is held.
func (w *World) restored() {
	now := w.truth()
	for what, have := range now {
		if was, there := w.before[what]; !there {
			w.violated("restored", "%s is left: %s", what, have)
		} else if was != have {
			w.violated("restored", "%s was %q and is now %q", what, was, have)
		}
	}
	for what := range w.before {
		if _, there := now[what]; !there && !strings.HasPrefix(what, "VF ") {
			w.violated("restored", "%s is gone", what)
		}
	}
	var names []string
	for name := range w.Disk.Files {
		if name != "claims/.indexed" {
			names = append(names, name)
		}
	}
	for name := range w.Libvirt {
		if len(w.residue) > 0 { // whose of libvirt itself
			break
		}
		names = append(names, "libvirt's "+name)
	}
	slices.Sort(names)
	if len(names) > 0 {
		w.violated("restored", "files are left: %s:\n%s", strings.Join(names, ", "), w.Disk.Files[names[0]])
	}
}
