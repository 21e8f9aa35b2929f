package hooks

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"libvirt-direct/internal/config"
	setting "libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotRewritten: the domain asks for something that libvirt refuses, and the
	// rewriter has not been over it yet.
	ErrNotRewritten = errors.New("must be rewritten first")
	// ErrNoDevice: a device or uplink is not on this host.
	ErrNoDevice = errors.New("no such device on this host")
	// ErrNotAllowed: the host's configuration forbids it.
	ErrNotAllowed = errors.New("not allowed on this host")
	// ErrWrongDevice: a device of that name is there, but it is another one.
	ErrWrongDevice = errors.New("another device has that name")
	// ErrNotConfigured: the domain names an uplink or profile that is not configured.
	ErrNotConfigured = errors.New("not configured on this host")
	// ErrUnsuitable: the settings do not fit the kind of NIC.
	ErrUnsuitable = errors.New("does not fit this NIC")
)

// NICError says which NIC of which domain an error concerns.
type NICError struct {
	Domain string
	NIC    string
	Err    error
}

func (e *NICError) Error() string { return fmt.Sprintf("domain %q, %s: %v", e.Domain, e.NIC, e.Err) }

// Unwrap returns the cause.
func (e *NICError) Unwrap() error { return e.Err }

// remedy is an error with what to do about it, on one line.
func remedy(kind error, format string, args ...any) error {
	return fmt.Errorf("%w: %s", kind, fmt.Sprintf(format, args...))
}

// ours reports whether a NIC concerns us at all: libvirt makes a macvtap or a port of
// Open vSwitch for it, or gives the guest a virtual function, the metadata speaks of it, or
// libvirt might refuse its <vlan>. mayConcern has to know all that is asked here.
func ours(n *xmlfilter.NIC) bool {
	return n.Type == "direct" || n.Settings != nil || n.Type == "hostdev" || onOVS(n) ||
		n.Type == "bridge" && n.VLAN != nil && n.VirtualPort == nil
}

// mayConcern reports whether a domain's XML could hold a NIC of ours, or settings of
// ours, judged by the bytes alone: whatever ours looks for stands in them. It holds for
// all encodings that libvirt can read, and for a document that no parser can.
//
// A value that is put together from several entities of a DOCTYPE is not seen. Nobody
// writes that, and libvirt, which resolves them, gives us plain text at prepare.
func mayConcern(doc []byte) bool {
	text := xmlfilter.ASCII(doc)
	has := func(s string) bool { return bytes.Contains(text, []byte(s)) }
	value := func(s string) bool { return has("'"+s+"'") || has(`"`+s+`"`) }
	return has(xmlfilter.Namespace) || value("direct") || value("hostdev") || value(typeOVS) ||
		value("bridge") && (has("<vlan") || has(":vlan"))
}

// settings are what holds for a NIC: its own settings, then its profile's, then its
// uplink's.
type settings struct {
	uplink   *config.Uplink
	dev      string // lower device or VLAN parent, where no uplink is named
	mode     string
	vlan     int
	own      bool // hook-owned
	allMulti bool
	vf       setting.VF
	port     setting.Port
	optional []string // attributes of a VF whose refusal is a warning
	ovs      *setting.OVS
	ifaceID  string
}

// choosesNothing reports whether nothing is said that would choose or make a device.
func (s settings) choosesNothing() bool { return s.dev == "" && s.mode == "" && !s.own }

func settingsOf(cfg *config.Config, host Host, n *xmlfilter.NIC) (settings, error) {
	var w setting.NIC
	if n.Settings != nil {
		w = n.Settings.NIC
	}
	if err := cfg.ProfileFault(w.Profile); err != nil {
		return settings{}, err
	}
	if w.Profile != "" {
		p := cfg.Profiles[w.Profile]
		if p == nil {
			return settings{}, remedy(ErrNotConfigured, "profile %q; add [profile.%s] to %s", w.Profile, w.Profile, config.Path)
		}
		w = w.Override(p.NIC)
	}
	s := settings{
		dev: w.Dev, mode: w.Mode, vlan: w.VLAN, own: w.Own == setting.OwnHook,
		vf: w.VF, port: w.Port, optional: w.Optional, ovs: w.OVS, ifaceID: w.IfaceID,
	}
	if name := w.Uplink; name != "" {
		if err := cfg.UplinkFault(name); err != nil {
			return settings{}, err
		}
		if s.uplink = cfg.Uplinks[name]; s.uplink == nil {
			return settings{}, remedy(ErrNotConfigured, "uplink %q; add [uplink.%s] with device = \"…\" to %s", name, name, config.Path)
		}
	}
	u := s.uplink
	if u == nil {
		u = host.uplinkOf(cfg, cmp.Or(s.dev, n.Source.Dev))
	}
	if all := cmp.Or(w.AllMulticast, allMultiOf(u)); all != nil {
		s.allMulti = *all
	}
	return s, nil
}

func allMultiOf(u *config.Uplink) *bool {
	if u == nil {
		return nil
	}
	return u.AllMulticast
}

// splitVLAN takes "eth0.100" apart.
func splitVLAN(name string) (parent string, vid int, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 1 {
		return "", 0, false
	}
	vid, err := strconv.Atoi(name[i+1:])
	if err != nil || vid < 1 || vid > 4094 || name[i+1] == '0' || name[i+1] == '+' {
		return "", 0, false
	}
	return name[:i], vid, true
}

// vlanName is the name of a VLAN sub-interface: "eth0.100", or where that is longer
// than the kernel allows one drawn from the parent's name, the same at every start.
func vlanName(parent string, vid int) string {
	name := parent + "." + strconv.Itoa(vid)
	if config.ValidIfname(name) {
		return name
	}
	sum := sha256.Sum256([]byte(parent))
	return "ld" + hex.EncodeToString(sum[:3]) + "." + strconv.Itoa(vid)
}

// targetName is the name of a hook-owned NIC's device, the same at every start and
// different for every NIC of every domain.
func targetName(d *xmlfilter.Domain, n *xmlfilter.NIC) string {
	sum := sha256.Sum256([]byte(cmp.Or(d.UUID, d.Name) + " " + nicID(d, n)))
	return "ldt" + hex.EncodeToString(sum[:5])
}
