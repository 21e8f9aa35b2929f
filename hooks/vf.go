package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"time"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/state"
)

// vfKernel is what the hook asks of the kernel for virtual functions.
type vfKernel interface {
	VFOf(ctx context.Context, name string) (link.VFPlace, error)
	VFAt(ctx context.Context, address string) (link.VFPlace, error)
	PF(ctx context.Context, p link.VFPlace) (link.Link, error)
	VFUses(ctx context.Context, pf string) ([]link.VFUse, error)
	VF(ctx context.Context, pf link.Link, number int) (link.VF, error)
	SetVF(ctx context.Context, pf link.Link, number int, want link.VFSettings, optional ...string) ([]error, error)
	AssociatePort(ctx context.Context, dev link.Link, request link.PortRequest, p link.Port) error
	DisassociatePort(ctx context.Context, dev link.Link, vf int) error
}

// ErrInUse: another guest has the device.
var ErrInUse = errors.New("in use by another guest")

// VF is one virtual function in a guest's hands. At prepare its settings are only
// remembered, before libvirt changes them; at start, when libvirt has given the VF to
// the guest and to no other, the wanted ones are set.
//
// Undoing puts each setting back that is as we or libvirt have left it; what somebody
// else has changed since stays. Who came last owns a VF: the undoing of an earlier
// claim does not touch it.
type VF struct {
	link.VFPlace
	PFName string `json:"pf_name"` // for messages
	// MAC is the guest's, which libvirt gives the VF.
	MAC string `json:"mac,omitempty"`
	// LibvirtVLAN is that of the NIC's <vlan>, which libvirt sets; 0 for none.
	LibvirtVLAN int             `json:"libvirt_vlan,omitempty"`
	Want        link.VFSettings `json:"want"`
	Optional    []string        `json:"optional,omitempty"`
	// Program is false for remembering alone.
	Program bool `json:"program,omitempty"`

	// What Apply notes before it acts.
	Before link.VFSettings `json:"before"`
	// Own is the MAC of the VF's network device as it was: libvirt leaves it as the
	// one that the PF gives.
	Own string `json:"own,omitempty"`
	// Up says whether that network device was up, Netdev and Index what it was.
	Up     bool   `json:"up,omitempty"`
	Netdev string `json:"netdev,omitempty"`
	Index  int    `json:"index,omitempty"`
	// Freed: the MAC that the PF had given was taken away, for the guest's.
	Freed bool `json:"freed,omitempty"`
	// Contested: another guest had the VF when this one was to get it, and was not
	// started.
	Contested bool `json:"contested,omitempty"`
	// Claim is the owner's token: one more than any other domain's for this VF. 0:
	// the VF was never programmed.
	Claim int `json:"claim,omitempty"`
}

func (v *VF) name() string { return fmt.Sprintf("VF %d of %s", v.Number, v.PFName) }

func (v *VF) key() string { return fmt.Sprintf("vf %s/%d", v.PF, v.Number) }

func (v *VF) String() string {
	if !v.Program {
		return fmt.Sprintf("remember the settings of %s (%s), for the end", v.name(), v.Device)
	}
	return fmt.Sprintf("set %s: %s", v.name(), v.Want)
}

// busName is a device's name on its bus.
var busName = regexp.MustCompile(`^[0-9A-Za-z:._-]{1,64}$`)

func (v *VF) check() error {
	for _, n := range []string{v.PF, v.Device} {
		if !busName.MatchString(n) || n == "." || n == ".." {
			return fmt.Errorf("device %q", n)
		}
	}
	if v.Number < 0 || v.Number > 1<<16 {
		return fmt.Errorf("VF %d", v.Number)
	}
	if v.Netdev != "" && !config.ValidIfname(v.Netdev) {
		return fmt.Errorf("network device %q", v.Netdev)
	}
	return errors.Join(v.Want.Check(), v.Before.Check())
}

// lockVF takes the lock of a VF, under which domains take it over from each other.
func (a *applier) lockVF(ctx context.Context, v *VF) (func(), error) {
	return a.dir.Lock(ctx, fmt.Sprintf("vf-%s-%d", v.PF, v.Number))
}

// rivals returns the other domains' steps for the same VF.
func (a *applier) rivals(v *VF) (steps []*VF, owners []string, err error) {
	uuids, err := a.dir.Domains()
	if err != nil {
		return nil, nil, err
	}
	for _, u := range uuids {
		if u == a.journal.UUID {
			continue
		}
		j, decoded, err := readSteps(a.dir, u)
		if err != nil {
			a.note("%v; it can hold no claim", err)
			continue
		}
		for _, s := range decoded {
			if s.VF != nil && s.VF.key() == v.key() {
				steps, owners = append(steps, s.VF), append(owners, j.Name)
			}
		}
	}
	return steps, owners, nil
}

func (a *applier) doVF(ctx context.Context, s Step) error {
	v := *s.VF
	s.VF = &v
	pf, err := a.kernel.PF(ctx, v.VFPlace)
	if err != nil {
		return err
	}
	unlock, err := a.lockVF(ctx, &v)
	if err != nil {
		return err
	}
	defer unlock()
	i := slices.IndexFunc(a.steps, func(o Step) bool { return o.key() == s.key() })
	if i >= 0 && !v.Program {
		return nil // a running guest's, remembered when it started
	}
	rivals, owners, err := a.rivals(&v)
	if err != nil {
		return err
	}
	if i >= 0 {
		noted := a.steps[i].VF
		v.found(noted)
		if noted.Program { // by the network's words, behind the domain's own
			v.Want, v.Optional = v.Want.Over(noted.Want), append(v.Optional, noted.Optional...)
		}
	} else if err := a.remember(ctx, &v, pf, rivals); err != nil {
		return err
	}
	if !v.Program {
		if err := a.unused(ctx, pf, &v, owners); err != nil {
			v.Contested = len(rivals) > 0
			return errors.Join(err, a.put(s, state.Intended))
		}
		if !pf.Up { // libvirt and most drivers ask for that
			if err := a.kernel.SetUp(ctx, pf.Index, true); err != nil {
				return err
			}
		}
		return a.put(s, state.Done)
	}
	for _, r := range rivals {
		v.Claim = max(v.Claim, r.Claim)
	}
	v.Claim++
	done, err := a.intend(s)
	if err != nil {
		return err
	}
	warnings, err := a.kernel.SetVF(ctx, pf, v.Number, v.Want, v.Optional...)
	for _, w := range warnings {
		a.note("warning: %v", w)
	}
	if err != nil {
		return err
	}
	a.note("set %s: %s", v.name(), v.Want)
	return done()
}

// remember notes a VF as it was before any guest of ours had it: as a rival found
// it, who has not put it back; or as libvirt saved it, where libvirt came first.
func (a *applier) remember(ctx context.Context, v *VF, pf link.Link, rivals []*VF) error {
	for _, r := range rivals {
		v.found(r)
		return nil
	}
	now, err := a.kernel.VF(ctx, pf, v.Number)
	if err != nil {
		return err
	}
	v.Before = now.VFSettings
	dev, err := a.netdev(ctx, pf, v)
	if ignore(err, link.ErrNotFound) != nil {
		return err
	}
	v.Own, v.Up, v.Netdev, v.Index = dev.MAC, dev.Up, dev.Name, dev.Index
	if v.Program {
		savedByLibvirt(a.libvirt, pf.Name, v)
	}
	return nil
}

// found takes over what another claim has found.
func (v *VF) found(o *VF) {
	v.Before, v.Own, v.Up, v.Netdev, v.Index, v.Freed = o.Before, o.Own, o.Up, o.Netdev, o.Index, o.Freed
}

// netdev returns a VF's network device, whatever it is called now, or an error matching
// link.ErrNotFound where it has none.
func (a *applier) netdev(ctx context.Context, pf link.Link, v *VF) (link.Link, error) {
	uses, err := a.kernel.VFUses(ctx, pf.Name)
	if err != nil {
		return link.Link{}, err
	}
	for _, u := range uses {
		if u.Number == v.Number && u.Netdev != "" {
			return a.kernel.ByName(ctx, u.Netdev)
		}
	}
	return link.Link{}, fmt.Errorf("%s: %w", v.name(), link.ErrNotFound)
}

// savedByLibvirt takes what libvirt has saved of a VF before it changed it: a file of
// at most a few lines, written at the guest's start (src/util/virnetdev.c,
// virNetDevSaveNetConfig). A file that is not there or not understood says nothing.
func savedByLibvirt(dir fs.FS, pf string, v *VF) {
	for _, part := range []string{"qemu", "hostdevmgr"} {
		text, err := fs.ReadFile(dir, fmt.Sprintf("%s/%s_vf%d", part, pf, v.Number))
		if err != nil {
			continue
		}
		var saved struct {
			AdminMAC string `json:"adminMac"`
			MAC      string `json:"mac"`
			VLAN     *int   `json:"vlanTag"`
		}
		if json.Unmarshal(text, &saved) != nil {
			continue
		}
		found := v.Before
		if saved.AdminMAC != "" {
			found.MAC = &saved.AdminMAC
		}
		if saved.VLAN != nil {
			found.VLAN = &link.VFVLAN{ID: *saved.VLAN, Proto: link.Dot1Q}
		}
		if found.Check() == nil {
			v.Before, v.Own = found, first(saved.MAC, v.Own)
		}
	}
}

// unused refuses a VF on which another guest's macvtap stands. libvirt would refuse it
// too, a moment later, with an errno.
func (a *applier) unused(ctx context.Context, pf link.Link, v *VF, owners []string) error {
	dev, err := a.netdev(ctx, pf, v)
	if err != nil {
		return ignore(err, link.ErrNotFound)
	}
	uppers, err := a.kernel.Uppers(ctx, dev.Name)
	if err != nil || len(uppers) == 0 {
		return ignore(err, link.ErrNotFound)
	}
	who := uppers[0] + " stands on " + dev.Name
	if len(owners) > 0 {
		who += fmt.Sprintf(", domain %q has it", owners[0])
	}
	return remedy(ErrInUse, "%s: %s; stop that, or give this guest another", v.name(), who)
}

func (a *applier) undoVF(ctx context.Context, s Step) error {
	v := s.VF
	unlock, err := a.lockVF(ctx, v)
	if err != nil {
		return err
	}
	defer unlock()
	rivals, _, err := a.rivals(v)
	if err != nil {
		return err
	}
	pf, err := a.kernel.PF(ctx, v.VFPlace)
	for _, r := range rivals {
		if r.Claim <= v.Claim {
			continue
		}
		if v.Contested && a.op == Prepare {
			return nil // release comes after what libvirt does
		}
		if v.Contested && err == nil {
			if err := a.reassert(ctx, pf, r); err != nil {
				return err
			}
		} else {
			a.note("left %s alone: it is another guest's now", v.name())
		}
		return a.drop(s.key())
	}
	if err == nil {
		_, err = a.kernel.VF(ctx, pf, v.Number)
	}
	if errors.Is(err, link.ErrNotFound) || errors.Is(err, link.ErrNoVF) {
		a.note("%s is gone, and its settings with it", v.name())
		return a.drop(s.key())
	}
	if err != nil {
		return err
	}
	// First, since a VF's driver announces its own MAC when it goes down.
	if dev, err := a.netdev(ctx, pf, v); err == nil && v.Own != "" {
		if err := a.putBackNetdev(ctx, dev, v); err != nil {
			return err
		}
	}
	if v.Freed { // the VF's own is the same by now, and would be taken for it
		none := noMAC
		if _, err := a.kernel.SetVF(ctx, pf, v.Number, link.VFSettings{MAC: &none}); err != nil {
			return err
		}
	}
	now, err := a.kernel.VF(ctx, pf, v.Number)
	if err != nil {
		return err
	}
	back, left := v.toPutBack(now.VFSettings)
	for _, attr := range left {
		value, _ := now.Value(attr)
		a.note("left %s of %s at %s: somebody else has set it", attr, v.name(), value)
	}
	if err := a.putBack(ctx, pf, v, back); err != nil {
		return err
	}
	if text := back.String(); text != "" {
		a.note("%s is back at %s", v.name(), text)
	}
	return a.drop(s.key())
}

// reassert gives a VF's owner its settings again. libvirt before 11 restores the VF of
// every NIC of a start that failed from the file that it saved for the VF, which is the
// owner's (qemuProcessStop, virNetDevMacVLanDeleteWithVPortProfile).
func (a *applier) reassert(ctx context.Context, pf link.Link, owner *VF) error {
	want := owner.Want
	if want.VLAN == nil {
		want.VLAN = &link.VFVLAN{ID: owner.LibvirtVLAN, Proto: link.Dot1Q}
	}
	now, err := a.kernel.VF(ctx, pf, owner.Number)
	if err != nil {
		return err
	}
	dev, err := a.netdev(ctx, pf, owner)
	if ignore(err, link.ErrNotFound) != nil {
		return err
	}
	if err == nil && now.MAC != nil && *now.MAC != owner.MAC {
		want.MAC = owner.Before.MAC // the macvtap sets the VF's own, which a MAC given by the PF would forbid
	}
	if _, err := a.kernel.SetVF(ctx, pf, owner.Number, want, owner.Optional...); err != nil {
		return err
	}
	if dev.Name != "" && owner.MAC != "" {
		uppers, err := a.kernel.Uppers(ctx, dev.Name)
		if err != nil {
			return err
		}
		for _, u := range uppers {
			upper, err := a.kernel.ByName(ctx, u)
			if err == nil && upper.Kind == "macvtap" && upper.MAC != owner.MAC {
				err = a.kernel.SetMAC(ctx, upper.Index, owner.MAC)
			}
			if err != nil {
				return err
			}
		}
	}
	a.note("%s: its owner has its settings again", owner.name())
	return nil
}

// guestMAC gives a macvtap in passthrough mode, and so its lower device, the guest's MAC.
// A VF may not change one that its PF has given it, unless it is trusted; some drivers say
// so, and others do as if. Then the PF's is taken away.
func (a *applier) guestMAC(ctx context.Context, m Macvtap, lower link.Link) error {
	k := a.kernel
	place, err := k.VFOf(ctx, lower.Name)
	if errors.Is(err, link.ErrNoVF) || errors.Is(err, link.ErrNotFound) {
		return k.SetMAC(ctx, m.Index, m.MAC)
	}
	if err != nil {
		return err
	}
	pf, err := k.PF(ctx, place)
	if err != nil {
		return err
	}
	fixed := a.setMAC(ctx, m.Index, lower.Index, m.MAC)
	if ignore(fixed, link.ErrMACFixed) != nil {
		return fixed
	}
	if fixed == nil {
		// When it comes up its driver asks the PF.
		if err := k.SetUp(ctx, lower.Index, true); err != nil {
			return err
		}
		taken, err := a.hasMAC(ctx, pf, place.Number, m.MAC)
		if taken || err != nil {
			return err
		}
	}
	if err := a.freeMAC(ctx, pf, place); err != nil {
		return errors.Join(fixed, err)
	}
	// A macvtap that has the MAC already would not pass it on.
	on := lower.Index
	if fixed != nil {
		on = m.Index
	}
	return a.setMAC(ctx, on, lower.Index, m.MAC)
}

// setMAC sets the MAC of a VF's network device, or of a macvtap on it. Some drivers take
// none while it is up.
func (a *applier) setMAC(ctx context.Context, index, lower int, mac string) error {
	err := a.kernel.SetMAC(ctx, index, mac)
	if !errors.Is(err, link.ErrBusy) {
		return err
	}
	if err := a.kernel.SetUp(ctx, lower, false); err != nil {
		return err
	}
	return errors.Join(a.kernel.SetMAC(ctx, index, mac), a.kernel.SetUp(ctx, lower, true))
}

// macTime is how long a PF that works asynchronously has to show a VF's new MAC.
const macTime = time.Second

// hasMAC reports whether a PF shows a VF with that MAC, or with none.
func (a *applier) hasMAC(ctx context.Context, pf link.Link, number int, mac string) (bool, error) {
	for end := time.Now().Add(macTime); ; {
		now, err := a.kernel.VF(ctx, pf, number)
		if err != nil || now.MAC == nil || *now.MAC == noMAC || *now.MAC == mac {
			return err == nil, err
		}
		if time.Now().After(end) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(macTime / 10):
		}
	}
}

// freeMAC takes the MAC away that a PF has given a VF. That is noted before, for the
// driver does not tell a MAC that is given from one that the VF has chosen.
func (a *applier) freeMAC(ctx context.Context, pf link.Link, place link.VFPlace) error {
	for _, s := range a.steps {
		if s.VF == nil || s.VF.PF != place.PF || s.VF.Number != place.Number {
			continue
		}
		v := *s.VF
		v.Freed, s.VF = true, &v
		if err := a.put(s, state.Done); err != nil {
			return err
		}
		break
	}
	none := noMAC
	if _, err := a.kernel.SetVF(ctx, pf, place.Number, link.VFSettings{MAC: &none}); err != nil {
		return err
	}
	a.note("took the MAC away that %s has given VF %d, for the guest's", pf.Name, place.Number)
	return nil
}

// putBackNetdev puts a VF's network device back. Where a macvtap has gone from it the
// kernel has given it its MAC again, unless its driver takes none while it is up.
func (a *applier) putBackNetdev(ctx context.Context, dev link.Link, v *VF) error {
	a.putBackName(ctx, dev, v)
	if dev.Up && !v.Up {
		if err := a.kernel.SetUp(ctx, dev.Index, false); err != nil {
			return err
		}
	}
	if dev.MAC == v.MAC && dev.MAC != v.Own {
		if err := a.kernel.SetMAC(ctx, dev.Index, v.Own); err != nil {
			a.note("%s keeps the guest's MAC: %v", dev.Name, err)
		}
	}
	if !dev.Up && v.Up {
		return a.kernel.SetUp(ctx, dev.Index, true)
	}
	return nil
}

// putBackName renames a VF's network device that is a new one, because its driver was
// bound again: without udev it has the first name that was free. One that somebody has
// renamed is let be, and one whose name is another's by now: nothing here goes by it.
func (a *applier) putBackName(ctx context.Context, dev link.Link, v *VF) {
	if v.Netdev == "" || dev.Name == v.Netdev || dev.Index == v.Index {
		return
	}
	if err := a.kernel.SetName(ctx, dev.Index, v.Netdev); err != nil {
		a.note("the network device of %s was %s and is now %s: %v", v.name(), v.Netdev, dev.Name, err)
		return
	}
	a.note("%s is %s again", dev.Name, v.Netdev)
}

// toPutBack returns the settings to put back, and the attributes that somebody else
// has changed.
func (v *VF) toPutBack(now link.VFSettings) (back link.VFSettings, left []string) {
	changed := now.Differ(v.Before)
	mine := func(attr string) bool {
		have, said := now.Value(attr)
		if want, set := v.Want.Value(attr); v.Claim > 0 && set && (!said || want == have) {
			return true
		}
		switch attr { // libvirt's: the guest's MAC, or the VF's own; no VLAN, or the old one without its priority
		case link.AttrMAC:
			return v.MAC == have || v.Own == have || v.Freed && have == noMAC
		case link.AttrVLAN:
			return now.VLAN != nil && v.libvirtVLAN(*now.VLAN)
		case link.AttrMinRate, link.AttrMaxRate:
			return v.Claim > 0 && (v.Want.MinRate != nil || v.Want.MaxRate != nil) // one setting to the kernel
		}
		return false
	}
	for _, attr := range changed {
		if _, said := now.Value(attr); said && !mine(attr) {
			left = append(left, attr)
		}
	}
	return v.Before.Only(func(attr string) bool {
		return slices.Contains(changed, attr) && !slices.Contains(left, attr)
	}), left
}

func (v *VF) libvirtVLAN(now link.VFVLAN) bool {
	if now.QoS != 0 {
		return false
	}
	ids := []int{0}
	for _, s := range []*link.VFVLAN{v.Before.VLAN, v.Want.VLAN} {
		if s != nil {
			ids = append(ids, s.ID)
		}
	}
	return slices.Contains(append(ids, v.LibvirtVLAN), now.ID)
}

// putBack sets a VF back. Some drivers refuse the zero MAC that they report where none
// was given; then the VF's own is the next best.
func (a *applier) putBack(ctx context.Context, pf link.Link, v *VF, back link.VFSettings) error {
	_, err := a.kernel.SetVF(ctx, pf, v.Number, back)
	var failed *link.VFError
	if !errors.As(err, &failed) || failed.Attr != link.AttrMAC || *back.MAC != noMAC || v.Own == "" {
		return err
	}
	a.note("%s: the driver takes no MAC back, it gets %s", v.name(), v.Own)
	back.MAC = &v.Own
	_, err = a.kernel.SetVF(ctx, pf, v.Number, back)
	return err
}

const noMAC = "00:00:00:00:00:00"
