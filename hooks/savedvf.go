package hooks

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// LibvirtState is the folder in which libvirt keeps its state, /run/libvirt. Errors match
// those of package fs.
type LibvirtState interface {
	fs.FS
	// Rename gives a file a name that no other has.
	Rename(from, to string) error
	// Link gives a file a second name, that no other has.
	Link(from, to string) error
	Remove(name string) error
}

// LibvirtFolder is the LibvirtState in a folder of the host.
type LibvirtFolder string

var _ LibvirtState = LibvirtFolder("")

// Open is fs.FS.Open.
func (f LibvirtFolder) Open(name string) (fs.File, error) { return os.DirFS(string(f)).Open(name) }

// Rename is LibvirtState.Rename.
func (f LibvirtFolder) Rename(from, to string) error {
	from, to = filepath.Join(string(f), from), filepath.Join(string(f), to)
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// Link is LibvirtState.Link.
func (f LibvirtFolder) Link(from, to string) error {
	return os.Link(filepath.Join(string(f), from), filepath.Join(string(f), to))
}

// Remove is LibvirtState.Remove.
func (f LibvirtFolder) Remove(name string) error { return os.Remove(filepath.Join(string(f), name)) }

// mayBeUndone reports whether libvirt could put back a VF that is not the domain's: it
// names one for a macvtap.
func mayBeUndone(n *xmlfilter.NIC) bool {
	return n.Type == "direct" && n.Source.Mode == "passthrough" && n.Source.Dev != ""
}

// A hiddenFile is what libvirt has saved of a device that a guest has in passthrough mode,
// a virtual function or a whole one, kept from being used up by another domain that is not
// started. libvirt before 11 undoes a failed start by putting the device of each such NIC
// back to what the device's file says, whoever wrote that, and removes the file
// (qemuProcessStop, virNetDevMacVLanDeleteWithVPortProfile): the guest that runs loses its
// MAC and VLAN, and what was before it is lost. Without the file it does nothing. It does
// that between the hooks stopped and release, and for that time the file has another name.
//
// The name is all that there is to know of it: to hide a file takes no lock, no journal and
// no room on the disk.
type hiddenFile struct {
	File string        // as libvirt calls it, "qemu/ens1f0_vf3" or "qemu/eth1"
	MAC  string        // of the guest that has the device
	Tap  int           // index of that guest's macvtap
	UUID string        // the domain from whose end it is hidden
	At   time.Duration // when, on the journal's clock: no two have one name
}

const hiddenSuffix = ".libvirt-direct"

// name has colons, which no network device has in its name.
func (f hiddenFile) name() string {
	return fmt.Sprintf("%s:%s:%d:%s:%d%s", f.File, strings.ReplaceAll(f.MAC, ":", ""), f.Tap, f.UUID, f.At, hiddenSuffix)
}

// parseHidden reads such a name; ok is false for any other file's.
func parseHidden(name string) (f hiddenFile, ok bool) {
	parts := strings.Split(strings.TrimSuffix(name, hiddenSuffix), ":")
	if len(parts) != 5 {
		return f, false
	}
	mac, errMAC := hex.DecodeString(parts[1])
	tap, errTap := strconv.Atoi(parts[2])
	at, errAt := strconv.ParseInt(parts[4], 10, 64)
	f = hiddenFile{parts[0], net.HardwareAddr(mac).String(), tap, parts[3], time.Duration(at)}
	// Only what name would write.
	return f, errors.Join(errMAC, errTap, errAt) == nil && journal.IsUUID(f.UUID) && f.name() == name
}

// savedFiles keeps libvirt's files of devices out of its way, and gives them back.
type savedFiles struct {
	kernel  step.Kernel
	libvirt LibvirtState
	dir     *journal.Dir
	event   func(format string, args ...any)
}

func (a *session) savedFiles() savedFiles {
	return savedFiles{a.host.Kernel, a.libvirt, a.dir, a.event}
}

// hidden lists the hidden files that match.
func (s savedFiles) hidden(match func(hiddenFile) bool) ([]hiddenFile, error) {
	if s.libvirt == nil {
		return nil, nil
	}
	entries, err := fs.ReadDir(s.libvirt, "qemu")
	if err != nil {
		return nil, step.Ignore(err, fs.ErrNotExist)
	}
	var files []hiddenFile
	for _, e := range entries {
		if f, ok := parseHidden("qemu/" + e.Name()); ok && match(f) {
			files = append(files, f)
		}
	}
	return files, nil
}

// twin reports whether another is a name of the same file.
func (f hiddenFile) twin(o hiddenFile) bool { return o.File == f.File && o.Tap == f.Tap }

// stopped is for a domain that is about to be undone by libvirt: the files of other guests'
// devices are taken out of its way. Its own, which another's end may have hidden, it gets
// back.
func (s savedFiles) stopped(ctx context.Context, d *xmlfilter.Domain) error {
	var errs []error
	for i := range d.NICs {
		n := &d.NICs[i]
		if !mayBeUndone(n) {
			continue
		}
		var err error
		for range 3 { // a question that is lost costs a guest that runs its VF
			if err = s.stoppedNIC(ctx, d, n); err == nil {
				break
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// The macvtap that libvirt has made for the domain has the name that libvirt says; its
// guest can have changed the MAC, and another's can be the same. libvirt does not always
// say it, after a migration for instance: then a domain that has come past prepare has its
// device. A file that is hidden wrongly does no harm: what libvirt does not undo then is
// undone at release.
func (s savedFiles) stoppedNIC(ctx context.Context, d *xmlfilter.Domain, n *xmlfilter.NIC) error {
	guest, err := s.passedTo(ctx, n.Source.Dev)
	if err != nil || guest.Index == 0 {
		return step.Ignore(err, link.ErrNotFound)
	}
	files, err := s.filesOf(ctx, n.Source.Dev)
	if err != nil {
		return err
	}
	begun := s.begun(ctx, d, n)
	named := slices.ContainsFunc(d.NICs, func(o xmlfilter.NIC) bool { return o.Target == guest.Name })
	own := named || n.Target == "" && begun
	var errs []error
	for _, file := range files {
		if own {
			errs = append(errs, s.forItsOwnEnd(file, guest.Index))
			continue
		}
		// What libvirt has written for this domain, in another guest's place, says what
		// that guest has, and is to be used.
		if saved, err := step.ReadSaved(s.libvirt, file); begun && err == nil && saved.MAC == guest.MAC {
			continue
		}
		hidden, err := s.take(hiddenFile{file, guest.MAC, guest.Index, d.UUID, s.dir.Clock()})
		if hidden {
			s.event("%s is another guest's: kept from libvirt, which would undo it", n.Source.Dev)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// begun reports whether a domain has come past prepare: then libvirt has given its NICs
// aliases, where the user has not, and it holds a claim to its VF.
func (s savedFiles) begun(ctx context.Context, d *xmlfilter.Domain, n *xmlfilter.NIC) bool {
	if n.Alias != "" && !strings.HasPrefix(n.Alias, "ua-") {
		return true
	}
	place, err := s.kernel.VFOf(ctx, n.Source.Dev)
	if err != nil {
		return false
	}
	claims, err := claimsTo(s.dir, step.VFResource(place))
	holder, held := claims.Holder("")
	return err == nil && held && holder.UUID == d.UUID
}

// forItsOwnEnd gives libvirt the file of a guest that ends itself.
func (s savedFiles) forItsOwnEnd(file string, tap int) error {
	files, err := s.hidden(hiddenFile{File: file, Tap: tap}.twin)
	errs := []error{err}
	for _, f := range files {
		err := s.libvirt.Rename(f.name(), file)
		if errors.Is(err, fs.ErrExist) {
			err = s.libvirt.Remove(f.name())
		}
		errs = append(errs, step.Ignore(err, fs.ErrNotExist))
	}
	return errors.Join(errs...)
}

// take hides a file under a name. Where it is hidden already, from another domain's end
// that can be over before this one's, it gets this name as well.
func (s savedFiles) take(f hiddenFile) (hidden bool, err error) {
	for range 10 { // with another that hides and gives back at the same time
		err = s.libvirt.Rename(f.File, f.name())
		if errors.Is(err, fs.ErrExist) { // given back after it had got this name
			err = s.libvirt.Remove(f.File)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
		if hidden {
			return true, nil
		}
		others, err := s.hidden(f.twin)
		if err != nil || len(others) == 0 {
			return false, err
		}
		err = s.libvirt.Link(others[0].name(), f.name())
		if step.Ignore(err, fs.ErrNotExist) != nil {
			return false, err
		}
		hidden = err == nil
	}
	return hidden, err
}

// passedTo is the macvtap that has all of a device, there is but one; its index is 0 where
// there is none.
func (s savedFiles) passedTo(ctx context.Context, dev string) (link.Link, error) {
	uppers, err := s.kernel.Uppers(ctx, dev)
	for _, u := range uppers {
		l, err := s.kernel.ByName(ctx, u)
		if step.Ignore(err, link.ErrNotFound) != nil || err == nil && l.Kind == "macvtap" && l.Mode == "passthrough" {
			return l, err
		}
	}
	return link.Link{}, err
}

// filesOf are what libvirt calls its file of a device: a VF's is named for its PF, and where
// there is none libvirt looks for one that is named for the VF.
func (s savedFiles) filesOf(ctx context.Context, dev string) ([]string, error) {
	place, err := s.kernel.VFOf(ctx, dev)
	if errors.Is(err, link.ErrNoVF) || errors.Is(err, link.ErrNotFound) {
		return []string{"qemu/" + dev}, nil
	}
	if err != nil {
		return nil, err
	}
	pf, err := s.kernel.PF(ctx, place)
	return []string{step.SavedFile("qemu", pf.Name, place.Number), "qemu/" + dev}, err
}

// release gives back what was hidden from a domain's end, which is over now, and looks
// after what was hidden of its own.
func (s savedFiles) release(ctx context.Context, d *xmlfilter.Domain) error {
	var names []string
	var errs []error
	for i := range d.NICs {
		if n := &d.NICs[i]; mayBeUndone(n) {
			of, err := s.filesOf(ctx, n.Source.Dev)
			names, errs = append(names, of...), append(errs, step.Ignore(err, link.ErrNotFound))
		}
	}
	files, err := s.hidden(func(f hiddenFile) bool { return f.UUID == d.UUID || slices.Contains(names, f.File) })
	errs = append(errs, err, s.allBack(ctx, files, func(f hiddenFile) bool { return f.UUID == d.UUID }), s.settleFailed(ctx, d))
	return errors.Join(errs...)
}

// allBack gives files back; over says from whose end they were hidden that is over.
func (s savedFiles) allBack(ctx context.Context, files []hiddenFile, over func(hiddenFile) bool) error {
	if len(files) == 0 {
		return nil
	}
	makeErr := s.dir.Make() // a full disk stops that, but not a lock
	unlock, err := s.dir.Lock(ctx, "saved")
	switch {
	case errors.Is(err, journal.ErrLocked):
		return err
	case err == nil:
		defer unlock()
	default: // there can be no lock at all, for anybody
		s.event("without a lock: %v", cmp.Or(makeErr, err))
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, step.Ignore(s.giveBack(ctx, f, over(f)), link.ErrNotFound))
	}
	return errors.Join(errs...)
}

// giveBack gives a file back for the end of the guest whose it is, if that still has the
// device and libvirt has not written another one. Of a guest that has ended libvirt found
// no file: then what it would have done is done here, once nobody has the device. For what
// is hidden from another domain's end only that is done.
func (s savedFiles) giveBack(ctx context.Context, f hiddenFile, over bool) error {
	same, err := s.hidden(f.twin)
	if err != nil || !slices.Contains(same, f) { // it was given back meanwhile
		return err
	}
	dev, err := s.device(ctx, f.File)
	if err != nil { // it can come back
		return err
	}
	saved, err := step.ReadSaved(s.libvirt, f.name())
	if err != nil {
		return err
	}
	has, free, err := s.guestOn(ctx, dev, f.Tap)
	if err != nil || has && !over {
		return err
	}
	if has && len(same) > 1 { // still to be kept from another's end
		return s.libvirt.Remove(f.name())
	}
	if has {
		err := s.libvirt.Rename(f.name(), f.File)
		if errors.Is(err, fs.ErrExist) { // libvirt has saved anew
			return s.libvirt.Remove(f.name())
		}
		if err != nil {
			return err
		}
		// libvirt can have looked for it a moment before.
		if has, free, err = s.guestOn(ctx, dev, f.Tap); err != nil || has {
			return err
		}
		// Hidden again, so that it stays if this is cut off here.
		err = s.libvirt.Rename(f.File, f.name())
		if errors.Is(err, fs.ErrNotExist) { // it came after, and has used it
			return nil
		}
		if err != nil {
			return err
		}
	}
	if !free { // another guest's by now, which leaves it as it found it
		return nil
	}
	if dev.MAC == f.MAC && saved.MAC != "" {
		// Who claims it by now has not got it yet, and can leave it.
		if done, err := s.inLibvirtsPlace(ctx, f.UUID, f.MAC, saved, dev); err != nil || !done {
			return err
		}
	}
	var errs []error
	for _, f := range same {
		errs = append(errs, step.Ignore(s.libvirt.Remove(f.name()), fs.ErrNotExist))
	}
	return errors.Join(errs...)
}

// stillHidden reports whether a file could not be given back yet.
func (s savedFiles) stillHidden(f hiddenFile) bool {
	_, err := fs.Stat(s.libvirt, f.name())
	return err == nil
}

// device is the network device of a file of libvirt's.
func (s savedFiles) device(ctx context.Context, file string) (link.Link, error) {
	name := strings.TrimPrefix(file, "qemu/")
	if i := strings.LastIndex(name, "_vf"); i > 0 {
		if number, err := strconv.Atoi(name[i+len("_vf"):]); err == nil {
			netdev, err := step.NetdevOfVF(ctx, s.kernel, name[:i], number)
			if err != nil {
				return link.Link{}, err
			}
			name = cmp.Or(netdev, name)
		}
	}
	return s.kernel.ByName(ctx, name)
}

// guestOn reports whether the guest's macvtap, by its index, still stands on the device, and
// whether nothing does.
func (s savedFiles) guestOn(ctx context.Context, dev link.Link, tap int) (has, free bool, err error) {
	uppers, err := s.kernel.Uppers(ctx, dev.Name)
	if err != nil {
		return false, false, err
	}
	free = true
	for _, u := range uppers {
		l, err := s.kernel.ByName(ctx, u)
		if errors.Is(err, link.ErrNotFound) { // it has gone since it was listed
			continue
		}
		if err != nil {
			return false, false, err
		}
		has, free = has || l.Index == tap, false
	}
	return has, free, nil
}

// settle does for the VF of a file, that nobody has, what libvirt could not: the file had
// been hidden from the end of another, whose release has not come yet.
func (s savedFiles) settle(ctx context.Context, owner, file string, dev link.Link) error {
	files, err := s.hidden(func(f hiddenFile) bool { return f.File == file })
	if err != nil || len(files) == 0 {
		return step.Ignore(err, fs.ErrPermission) // then none was hidden by us
	}
	f := files[0]
	if has, free, err := s.guestOn(ctx, dev, f.Tap); err != nil || has || !free {
		return step.Ignore(err, link.ErrNotFound)
	}
	saved, err := step.ReadSaved(s.libvirt, f.name())
	if err != nil {
		return step.Ignore(err, fs.ErrNotExist) // given back meanwhile
	}
	_, err = s.inLibvirtsPlace(ctx, owner, f.MAC, saved, dev)
	return err
}

// settleFailed puts back what a start has left that failed between the saving of a device
// and the making of its macvtap: libvirt 11 and newer then do not, and keep the file.
func (s savedFiles) settleFailed(ctx context.Context, d *xmlfilter.Domain) error {
	var errs []error
	for i := range d.NICs {
		if n := &d.NICs[i]; mayBeUndone(n) {
			err := s.settleFailedNIC(ctx, d, n)
			errs = append(errs, step.Ignore(step.Ignore(err, link.ErrNotFound), fs.ErrNotExist))
		}
	}
	return errors.Join(errs...)
}

func (s savedFiles) settleFailedNIC(ctx context.Context, d *xmlfilter.Domain, n *xmlfilter.NIC) error {
	dev, err := s.kernel.ByName(ctx, n.Source.Dev)
	if err != nil || dev.MAC != n.MAC {
		return err
	}
	files, err := s.filesOf(ctx, n.Source.Dev)
	if err != nil {
		return err
	}
	file := files[0]
	saved, err := step.ReadSaved(s.libvirt, file)
	if err != nil {
		return err
	}
	if _, free, err := s.guestOn(ctx, dev, 0); err != nil || !free {
		return err
	}
	// An own claim has no say in it, and of others any has.
	done, err := s.inLibvirtsPlace(ctx, d.UUID, "", saved, dev)
	if err != nil || !done {
		return err
	}
	s.event("put %s back to what it was: libvirt had left it", n.Source.Dev)
	return s.libvirt.Remove(file)
}

// inLibvirtsPlace does virNetDevSetNetConfig: the network device gets its MAC, and the VF
// its VLAN, both as saved. It does nothing where another domain than owner claims the VF by
// now, unless for a guest with the MAC mac.
func (s savedFiles) inLibvirtsPlace(ctx context.Context, owner, mac string, saved step.SavedConfig, dev link.Link) (done bool, err error) {
	if saved.MAC == "" {
		return false, nil
	}
	place, err := s.kernel.VFOf(ctx, dev.Name)
	if errors.Is(err, link.ErrNoVF) || errors.Is(err, link.ErrNotFound) { // a device on no bus
		return true, s.kernel.SetMAC(ctx, dev.Index, saved.MAC)
	}
	if err != nil {
		return false, err
	}
	// Who has claimed it since is given it by libvirt at any moment.
	claims, err := claimsTo(s.dir, step.VFResource(place))
	if err != nil {
		return false, err
	}
	for _, c := range claims.Others(owner) {
		of, err := step.Decode(c.Step)
		if vf, is := of.Kind.(*step.VF); err != nil || !is || vf.MAC != mac {
			return false, nil
		}
	}
	pf, err := s.kernel.PF(ctx, place)
	if err != nil {
		return false, err
	}
	set := func(want link.VFSettings) error {
		return s.kernel.RestoreVF(ctx, pf, place.Number, func(now link.VFSettings) link.VFSettings {
			return want.Only(func(attr string) bool { _, said := now.Value(attr); return said })
		})
	}
	if saved.VLAN != nil {
		if err := set(link.VFSettings{VLAN: &link.VFVLAN{ID: *saved.VLAN, Proto: link.Dot1Q}}); err != nil {
			return false, err
		}
	}
	// Last: by its MAC it is seen that this is still to be done.
	err = s.kernel.SetMAC(ctx, dev.Index, saved.MAC)
	if !errors.Is(err, link.ErrMACFixed) {
		return true, err
	}
	// Given by the PF, which takes it away for this moment.
	none := step.NoMAC
	return true, errors.Join(set(link.VFSettings{MAC: &none}), s.kernel.SetMAC(ctx, dev.Index, saved.MAC), set(link.VFSettings{MAC: &saved.AdminMAC}))
}
