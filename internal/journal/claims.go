package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Claim is an entry of a domain's journal, seen from outside.
type Claim struct {
	UUID, Name string
	// Started: the domain's guest has been started, by our start hook or before it came. What
	// is reserved for a guest is not started, whatever the domain was in an earlier life.
	Started bool
	Entry
}

// Claims are all claims to one resource.
type Claims struct {
	All []Claim
	// Unreadable are the domains of which it is only known that they claim it.
	Unreadable []string
}

// Highest is the highest generation that anybody has, 0 for none.
func (c Claims) Highest() int {
	highest := 0
	for _, o := range c.All {
		highest = max(highest, o.Gen)
	}
	return highest
}

// Others are the claims of all but one domain.
func (c Claims) Others(but string) []Claim {
	return slices.DeleteFunc(slices.Clone(c.All), func(o Claim) bool { return o.UUID == but })
}

// Holder is the one, of other domains than but, who holds the resource: whose generation
// is above all others'. Two with the same one hold nothing, as releases could write them
// that drew none.
func (c Claims) Holder(but string) (holder Claim, held bool) {
	for _, o := range c.All {
		switch {
		case o.Gen > holder.Gen || holder.UUID == "":
			holder, held = o, true
		case o.Gen == holder.Gen:
			held = false
		}
	}
	return holder, held && holder.UUID != but
}

// Beaten reports whether another domain's claim makes void that of a domain with a
// generation.
func (c Claims) Beaten(uuid string, gen int) bool {
	return slices.ContainsFunc(c.All, func(o Claim) bool { return o.UUID != uuid && o.Gen >= gen })
}

// VSIResource names an association by 802.1Qbg at a port. The instance is as vdp.ID writes it:
// vdpd looks for whose guest a VSI is by what the hook has claimed.
func VSIResource(port, instance string) string { return fmt.Sprintf("vsi/%s/i-%s", port, instance) }

// Claims reads who claims a resource. Reservations that have ended are none. Only the
// journals that a hint names are read, so that the cost does not grow with their number.
func (d *Dir) Claims(resource string) (Claims, error) {
	if !validResource(resource) {
		return Claims{}, fmt.Errorf("journal: %w: %q", ErrBadResource, resource)
	}
	uuids, err := d.claimants(resource)
	if err != nil {
		return Claims{}, err
	}
	var c Claims
	for _, u := range uuids {
		j, err := d.Load(u)
		if err != nil {
			c.Unreadable = append(c.Unreadable, u)
			continue
		}
		if j == nil { // it has ended, and its hint has not gone yet
			continue
		}
		for _, e := range j.Entries {
			if e.Resource == resource && !d.Expired(e) {
				c.All = append(c.All, Claim{j.UUID, j.Name, j.Started && e.Expires == 0, e})
			}
		}
	}
	return c, nil
}

// Claimed lists the resources below a prefix, "vf/0000:03:00.0", that anybody claims or
// has claimed a moment ago.
func (d *Dir) Claimed(prefix string) ([]string, error) {
	if indexed, err := d.indexed(); err != nil || !indexed {
		return d.scanned(func(r string) bool { return strings.HasPrefix(r, prefix+"/") }, func(r, _ string) string { return r })
	}
	names, err := d.files.List(hints + "/" + prefix)
	for i := range names {
		names[i] = prefix + "/" + names[i]
	}
	return names, failed("", ignoreGone(err))
}

// Expired reports whether an entry is a reservation that has ended.
func (d *Dir) Expired(e Entry) bool {
	return e.Phase == Planned && e.Expires != 0 && d.Clock() > e.Expires
}

// hints is the folder of an empty file for each claim, RESOURCE/UUID, made before the
// journal is written and removed after: it can be stale, and is never missing.
const hints = "claims"

// indexMark is there once the journals of releases that made no hints have them.
const indexMark = hints + "/.indexed"

var part = regexp.MustCompile(`^[^/\x00]{1,255}$`)

// validResource refuses what would name a file elsewhere.
func validResource(r string) bool {
	parts := strings.Split(r, "/")
	return len(parts) > 1 && len(r) < 1024 && !slices.ContainsFunc(parts, func(p string) bool {
		return !part.MatchString(p) || p == "." || p == ".." || IsUUID(p) // that is a hint's
	})
}

// ErrBadResource: a resource's name is none.
var ErrBadResource = errors.New("not the name of a resource")

func (d *Dir) indexed() (bool, error) {
	_, err := d.files.Read(indexMark)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, failed("", err)
}

func (d *Dir) claimants(resource string) ([]string, error) {
	if indexed, err := d.indexed(); err != nil || !indexed {
		return d.scanned(func(r string) bool { return r == resource }, func(_, uuid string) string { return uuid })
	}
	names, err := d.files.List(path.Join(hints, resource))
	return slices.DeleteFunc(names, func(n string) bool { return !IsUUID(n) }), failed("", ignoreGone(err))
}

// scanned goes through all journals, for who may only read or comes before the hints.
func (d *Dir) scanned(is func(resource string) bool, of func(resource, uuid string) string) ([]string, error) {
	uuids, err := d.Domains()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, u := range uuids {
		j, err := d.Load(u)
		if err != nil || j == nil {
			continue
		}
		for _, e := range j.Entries {
			if is(e.Resource) {
				found = append(found, of(e.Resource, u))
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// StaleHints are hints of claims that no journal has: left by a process that was killed
// before it wrote its claim, or after it took that back. RemoveHint removes one, under the
// domain's lock.
func (d *Dir) StaleHints() ([]Hint, error) {
	found, err := d.hintsBelow("")
	if err != nil {
		return nil, err
	}
	journals := map[string]*Journal{}
	var stale []Hint
	for _, h := range found {
		j, read := journals[h.UUID]
		if !read {
			if j, err = d.Load(h.UUID); err != nil { // it may have the claim
				continue
			}
			journals[h.UUID] = j
		}
		if j == nil || !j.claims(h.Resource) {
			stale = append(stale, h)
		}
	}
	return stale, nil
}

// Hint says that a domain may claim a resource.
type Hint struct{ Resource, UUID string }

func (d *Dir) hintsBelow(resource string) ([]Hint, error) {
	names, err := d.files.List(path.Join(hints, resource))
	if err != nil {
		return nil, failed("", ignoreGone(err))
	}
	var all []Hint
	for _, n := range names {
		switch {
		case n[0] == '.':
		case IsUUID(n):
			all = append(all, Hint{resource, n})
		default:
			below, err := d.hintsBelow(path.Join(resource, n))
			if err != nil {
				return nil, err
			}
			all = append(all, below...)
		}
	}
	return all, nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// RemoveHint removes a hint if it is stale still.
func (d *Dir) RemoveHint(h Hint) error {
	j, err := d.Load(h.UUID)
	if err != nil || j != nil && j.claims(h.Resource) {
		return err
	}
	return failed("", ignoreGone(d.files.Remove(path.Join(hints, h.Resource, h.UUID))))
}

func (j *Journal) claims(resource string) bool {
	return slices.ContainsFunc(j.Entries, func(e Entry) bool { return e.Resource == resource })
}

// index makes the hints of journals that have none: those of an older release. Doing it
// twice at once does no harm.
func (d *Dir) index() error {
	if indexed, err := d.indexed(); err != nil || indexed {
		return err
	}
	uuids, err := d.Domains()
	if err != nil {
		return err
	}
	for _, u := range uuids {
		j, err := d.Load(u)
		if err != nil || j == nil { // status and gc tell of it
			continue
		}
		if err := d.hint(j); err != nil {
			return err
		}
	}
	// Made, not replaced: two processes can be here at once, and Replace wants a lock.
	return failed("", d.files.Touch(indexMark))
}

// hint makes the hints of a journal that it does not have yet.
func (d *Dir) hint(j *Journal) error {
	for _, e := range j.Entries {
		if j.hinted[e.Resource] {
			continue
		}
		if err := d.files.Touch(path.Join(hints, e.Resource, j.UUID)); err != nil {
			return failed("", err)
		}
		if j.hinted == nil {
			j.hinted = map[string]bool{}
		}
		j.hinted[e.Resource] = true
	}
	return nil
}

// unhint removes the hints that a journal needs no more.
func (d *Dir) unhint(j *Journal) error {
	var errs []error
	for r := range j.hinted {
		if j.claims(r) {
			continue
		}
		if err := d.files.Remove(path.Join(hints, r, j.UUID)); ignoreGone(err) != nil {
			errs = append(errs, failed("", err))
			continue
		}
		delete(j.hinted, r)
	}
	return errors.Join(errs...)
}
