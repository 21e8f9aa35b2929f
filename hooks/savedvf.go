package hooks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/state"
	"libvirt-direct/xmlfilter"
)

// LibvirtState is the folder in which libvirt keeps its state, /run/libvirt.
type LibvirtState interface {
	fs.FS
	// Write makes a file that is not there.
	Write(name string, data []byte) error
	Remove(name string) error
}

// LibvirtFolder is the LibvirtState in a folder of the host.
type LibvirtFolder string

var _ LibvirtState = LibvirtFolder("")

// Open is fs.FS.Open.
func (f LibvirtFolder) Open(name string) (fs.File, error) { return os.DirFS(string(f)).Open(name) }

// Write makes a file, as libvirt makes those of its own.
func (f LibvirtFolder) Write(name string, data []byte) error {
	w, err := os.OpenFile(filepath.Join(string(f), name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return errors.Join(err, w.Close())
}

// Remove removes a file.
func (f LibvirtFolder) Remove(name string) error { return os.Remove(filepath.Join(string(f), name)) }

// SavedVF keeps what libvirt has saved of a device that a guest has in passthrough mode,
// a virtual function or a whole one, from being used up by another guest that is not
// started. libvirt before 11 undoes a failed start by putting the device of each such NIC
// back to what the device's file says, whoever wrote that, and removes the file
// (qemuProcessStop, virNetDevMacVLanDeleteWithVPortProfile): the guest that runs loses its
// MAC and VLAN, and what was before it is lost. Without the file it does nothing. It does
// that between the hooks stopped and release.
type SavedVF struct {
	File string `json:"file"` // "qemu/ens1f0_vf3" or "qemu/eth1", below libvirt's state
	Text string `json:"text"`
	Dev  string `json:"dev"`  // the device
	Keep string `json:"keep"` // the MAC of the guest that has it
	// Index is that guest's macvtap.
	Index int `json:"index"`
}

func (v *SavedVF) String() string {
	return fmt.Sprintf("keep libvirt from undoing the VF of another guest by %s", v.File)
}

var savedName = regexp.MustCompile(`^qemu/[^/\x00]{1,32}$`)

func (v *SavedVF) check() error {
	if !savedName.MatchString(v.File) || len(v.Text) > maxSaved {
		return fmt.Errorf("libvirt's file %q", v.File)
	}
	return nil
}

// maxSaved bounds libvirt's file of a VF (virNetDevReadNetConfig reads 128 octets).
const maxSaved = 4096

// savedConfig is what libvirt saves of a VF before it changes it (src/util/virnetdev.c,
// virNetDevSaveNetConfig).
type savedConfig struct {
	AdminMAC string `json:"adminMac"`
	MAC      string `json:"mac"`
	VLAN     *int   `json:"vlanTag"`
}

// readSaved reads such a file; ok is false for one that is not there or not understood.
func readSaved(libvirt fs.FS, file string) (c savedConfig, text []byte, ok bool) {
	if libvirt == nil {
		return c, nil, false
	}
	text, err := fs.ReadFile(libvirt, file)
	ok = err == nil && len(text) <= maxSaved && json.Unmarshal(text, &c) == nil
	return c, text, ok
}

// mayBeUndone reports whether libvirt could put back a VF that is not the domain's: it
// names one for a macvtap.
func mayBeUndone(n *xmlfilter.NIC) bool {
	return n.Type == "direct" && n.Source.Mode == "passthrough" && n.Source.Dev != ""
}

// hideSaved takes the files out of libvirt's way that are other guests'. One that libvirt
// has written for this domain itself, in another guest's place, says what that guest has,
// and is to be used.
func (a *applier) hideSaved(ctx context.Context, d *xmlfilter.Domain, ran bool) error {
	var errs []error
	for i := range d.NICs {
		if n := &d.NICs[i]; mayBeUndone(n) {
			errs = append(errs, a.hideSavedOf(ctx, d, n, ran))
		}
	}
	return errors.Join(errs...)
}

// The macvtap that libvirt has made for the domain has the name that libvirt says; its
// guest can have changed the MAC, and another's can be the same. libvirt does not always
// say it, after a migration for instance: then a domain is known by its MACs, if it has
// come so far that libvirt has given its NICs aliases, which is after prepare.
func (a *applier) hideSavedOf(ctx context.Context, d *xmlfilter.Domain, n *xmlfilter.NIC, ran bool) error {
	guest, err := a.passedTo(ctx, n.Source.Dev)
	own := slices.ContainsFunc(d.NICs, func(n xmlfilter.NIC) bool {
		begun := ran || n.Alias != "" && !strings.HasPrefix(n.Alias, "ua-")
		return n.Target == guest.Name || n.Target == "" && begun && n.MAC == guest.MAC
	})
	if err != nil || guest.Index == 0 || own {
		return ignore(err, link.ErrNotFound)
	}
	file, err := a.savedFile(ctx, n.Source.Dev)
	if err != nil {
		return err
	}
	saved, text, ok := readSaved(a.libvirt, file)
	if !ok || saved.MAC == guest.MAC {
		return nil
	}
	s := Step{NIC: n.MAC, SavedVF: &SavedVF{File: file, Text: string(text), Dev: n.Source.Dev, Keep: guest.MAC, Index: guest.Index}}
	if err := a.withClaims(ctx, func() error { return a.claim([]Step{s}, 0) }); err != nil {
		return err
	}
	if err := a.put(s, state.Intended); err != nil {
		return err
	}
	if err := a.libvirt.Remove(file); err != nil {
		return ignore(err, fs.ErrNotExist)
	}
	a.note("%s is another guest's: kept from libvirt, which would undo it", cmp.Or(n.Source.Dev, file))
	return nil
}

// passedTo is the macvtap that has all of a device, there is but one; its index is 0 where
// there is none.
func (a *applier) passedTo(ctx context.Context, dev string) (link.Link, error) {
	uppers, err := a.kernel.Uppers(ctx, dev)
	for _, u := range uppers {
		l, err := a.kernel.ByName(ctx, u)
		if ignore(err, link.ErrNotFound) != nil || err == nil && l.Kind == "macvtap" && l.Mode == "passthrough" {
			return l, err
		}
	}
	return link.Link{}, err
}

// savedFile is what libvirt calls its file of a device.
func (a *applier) savedFile(ctx context.Context, dev string) (string, error) {
	place, err := a.kernel.VFOf(ctx, dev)
	if errors.Is(err, link.ErrNoVF) || errors.Is(err, link.ErrNotFound) {
		return "qemu/" + dev, nil
	}
	if err != nil {
		return "", err
	}
	pf, err := a.kernel.PF(ctx, place)
	return fmt.Sprintf("qemu/%s_vf%d", pf.Name, place.Number), err
}

// undoSavedVF gives the file back for the end of the guest whose it is, if that still has
// the VF and libvirt has not written another one. A guest that has ended meanwhile found
// no file: then what libvirt would have done is done here.
func (a *applier) undoSavedVF(ctx context.Context, s Step) error {
	v := s.SavedVF
	dev, err := a.kernel.ByName(ctx, v.Dev)
	if errors.Is(err, link.ErrNotFound) {
		return a.drop(s.key())
	}
	if err != nil {
		return err
	}
	has, free, err := a.guestOn(ctx, v)
	if err != nil {
		return err
	}
	if has {
		if err := a.libvirt.Write(v.File, []byte(v.Text)); err != nil {
			if errors.Is(err, fs.ErrExist) { // libvirt has saved anew
				return a.drop(s.key())
			}
			return err
		}
		// libvirt can have looked for it a moment before.
		if has, free, err = a.guestOn(ctx, v); err != nil {
			return err
		}
		if has {
			return a.drop(s.key())
		}
		err := a.libvirt.Remove(v.File)
		if errors.Is(err, fs.ErrNotExist) { // it came after, and has used it
			return a.drop(s.key())
		}
		if err != nil {
			return err
		}
	}
	if free && dev.MAC == v.Keep {
		if err := a.inLibvirtsPlace(ctx, v, dev); err != nil {
			return err
		}
	}
	return a.drop(s.key())
}

// guestOn reports whether the guest's macvtap still stands on the device, and whether
// nothing does.
func (a *applier) guestOn(ctx context.Context, v *SavedVF) (has, free bool, err error) {
	uppers, err := a.kernel.Uppers(ctx, v.Dev)
	if err != nil {
		return false, false, err
	}
	free = true
	for _, u := range uppers {
		l, err := a.kernel.ByName(ctx, u)
		switch {
		case errors.Is(err, link.ErrNotFound): // it has gone since it was listed
			continue
		case err == nil && l.Index == v.Index:
			has = true
		}
		free = false
	}
	return has, free, nil
}

// settleSaved does what libvirt could not for a guest that has ended: its file had been
// hidden for another guest's sake, whose release has not come yet.
func (a *applier) settleSaved(ctx context.Context, v *VF) error {
	claims, err := claimsTo(a.dir, fmt.Sprintf("libvirt/qemu/%s_vf%d", v.PFName, v.Number))
	if err != nil || len(claims.All) == 0 {
		return err
	}
	dev, there, err := a.netdev(ctx, v.VFPlace)
	if err != nil || !there || dev.MAC != v.MAC {
		return ignore(err, link.ErrNotFound)
	}
	for _, c := range claims.All {
		s, err := decodeStep(c.Step)
		if err != nil || s.SavedVF == nil || s.SavedVF.Keep != v.MAC {
			continue
		}
		if has, free, err := a.guestOn(ctx, s.SavedVF); err != nil || has || !free {
			return ignore(err, link.ErrNotFound)
		}
		return a.inLibvirtsPlace(ctx, s.SavedVF, dev)
	}
	return nil
}

// inLibvirtsPlace does virNetDevSetNetConfig: the network device gets its MAC, and the VF
// its VLAN, both as saved.
func (a *applier) inLibvirtsPlace(ctx context.Context, v *SavedVF, dev link.Link) error {
	var saved savedConfig
	if err := json.Unmarshal([]byte(v.Text), &saved); err != nil || saved.MAC == "" {
		return nil
	}
	place, err := a.kernel.VFOf(ctx, v.Dev)
	if errors.Is(err, link.ErrNoVF) || errors.Is(err, link.ErrNotFound) { // a device on no bus
		return a.kernel.SetMAC(ctx, dev.Index, saved.MAC)
	}
	if err != nil {
		return err
	}
	// Who has claimed it since is given it by libvirt at any moment.
	claims, err := claimsTo(a.dir, vfResource(place))
	if err != nil {
		return err
	}
	for _, c := range claims.Others(a.journal.UUID) {
		if s, err := decodeStep(c.Step); err != nil || s.VF == nil || s.VF.MAC != v.Keep {
			return nil
		}
	}
	pf, err := a.kernel.PF(ctx, place)
	if err != nil {
		return err
	}
	set := func(want link.VFSettings) error {
		return a.kernel.RestoreVF(ctx, pf, place.Number, func(now link.VFSettings) link.VFSettings {
			return want.Only(func(attr string) bool { _, said := now.Value(attr); return said })
		})
	}
	if saved.VLAN != nil {
		if err := set(link.VFSettings{VLAN: &link.VFVLAN{ID: *saved.VLAN, Proto: link.Dot1Q}}); err != nil {
			return err
		}
	}
	// Last: by its MAC it is seen that this is still to be done.
	err = a.kernel.SetMAC(ctx, dev.Index, saved.MAC)
	if !errors.Is(err, link.ErrMACFixed) {
		return err
	}
	// Given by the PF, which takes it away for this moment.
	none := noMAC
	return errors.Join(set(link.VFSettings{MAC: &none}), a.kernel.SetMAC(ctx, dev.Index, saved.MAC), set(link.VFSettings{MAC: &saved.AdminMAC}))
}
