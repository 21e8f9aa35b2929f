package plan

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/settings"
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
	// ErrNotConfigured: the domain names an uplink or profile that is not configured.
	ErrNotConfigured = errors.New("not configured on this host")
	// ErrLibvirtRefuses: no libvirt starts a domain with that.
	ErrLibvirtRefuses = errors.New("libvirt refuses this")
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

// InScope reports whether a NIC concerns us at all: libvirt makes a macvtap or a port of
// Open vSwitch for it, or gives the guest a virtual function, the metadata speaks of it, or
// libvirt might refuse its <vlan>. MayConcern has to know all that is asked here.
func InScope(n *xmlfilter.NIC) bool {
	return n.Type == "direct" || n.Settings != nil || n.Type == "hostdev" || onOVS(n) ||
		n.Type == "bridge" && n.VLAN != nil && n.VirtualPort == nil
}

// MayConcern reports whether a domain's XML could hold a NIC of ours, or settings of
// ours, judged by the bytes alone: whatever ours looks for stands in them. It holds for
// all encodings that libvirt can read, and for a document that no parser can.
//
// A value that is put together from several entities of a DOCTYPE is not seen. Nobody
// writes that, and libvirt, which resolves them, gives us plain text at prepare.
func MayConcern(doc []byte) bool {
	text := xmlfilter.ASCII(doc)
	has := func(s string) bool { return bytes.Contains(text, []byte(s)) }
	value := func(s string) bool { return has("'"+s+"'") || has(`"`+s+`"`) }
	return has(xmlfilter.NamespacePrefix) || value("direct") || value("hostdev") || value(typeOVS) ||
		value("bridge") && (has("<vlan") || has(":vlan"))
}

// MaySay reports whether a document could hold settings of ours, as MayConcern does.
func MaySay(doc []byte) bool {
	return bytes.Contains(xmlfilter.ASCII(doc), []byte(xmlfilter.NamespacePrefix))
}

// Settings are what holds for a NIC: its own settings, then its profile's, then its
// uplink's.
type Settings struct {
	Uplink   *config.Uplink
	Dev      string // lower device or VLAN parent where no uplink is named
	Mode     string
	VLAN     int
	Own      bool // hook-owned
	AllMulti bool
	VF       settings.VF
	Port     settings.Port
	Optional []string // attributes of a VF whose refusal is a warning
	OVS      *settings.OVS
	IfaceID  string
	FDB      string
}

// choosesNothing reports whether nothing is said that would choose or make a device.
func (s Settings) choosesNothing() bool { return s.Dev == "" && s.Mode == "" && !s.Own }

// SettingsOf returns what holds for a NIC. The error matches ErrNotConfigured where it names a
// profile or an uplink that is not configured, or config.ErrConfig where that one's section
// is faulty.
func SettingsOf(cfg *config.Config, host Snapshot, n *xmlfilter.NIC) (Settings, error) {
	var w settings.NIC
	if n.Settings != nil {
		w = n.Settings.NIC
	}
	if err := cfg.ProfileFault(w.Profile); err != nil {
		return Settings{}, err
	}
	if w.Profile != "" {
		p := cfg.Profiles[w.Profile]
		if p == nil {
			return Settings{}, step.Hint(ErrNotConfigured, "profile %q; add [profile.%s] to %s", w.Profile, w.Profile, config.Path)
		}
		w = w.Override(p.NIC)
	}
	s := Settings{
		Dev: w.Dev, Mode: w.Mode, VLAN: w.VLAN, Own: w.Own == settings.OwnHook,
		VF: w.VF, Port: w.Port, Optional: w.Optional, OVS: w.OVS, IfaceID: w.IfaceID, FDB: w.FDB,
	}
	if name := w.Uplink; name != "" {
		if err := cfg.UplinkFault(name); err != nil {
			return Settings{}, err
		}
		if s.Uplink = cfg.Uplinks[name]; s.Uplink == nil {
			return Settings{}, step.Hint(ErrNotConfigured, "uplink %q; add [uplink.%s] with device = \"…\" to %s", name, name, config.Path)
		}
	}
	u := s.Uplink
	if u == nil {
		u = host.uplinkOf(cfg, cmp.Or(s.Dev, n.Source.Dev))
	}
	if all := cmp.Or(w.AllMulticast, allMultiOf(u)); all != nil {
		s.AllMulti = *all
	}
	return s, nil
}

func allMultiOf(u *config.Uplink) *bool {
	if u == nil {
		return nil
	}
	return u.AllMulticast
}

// SplitVLAN takes "eth0.100" apart.
func SplitVLAN(name string) (parent string, vid int, ok bool) {
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

// VLANName is the name of a VLAN sub-interface: "eth0.100", or where that is longer
// than the kernel allows one drawn from the parent's name, the same at every start.
func VLANName(parent string, vid int) string {
	name := parent + "." + strconv.Itoa(vid)
	if config.ValidIfname(name) {
		return name
	}
	sum := sha256.Sum256([]byte(parent))
	return "ld" + hex.EncodeToString(sum[:3]) + "." + strconv.Itoa(vid)
}

// targetName is the name of a hook-owned NIC's device, the same at every start and
// different for every NIC of every domain.
func targetName(d *xmlfilter.Domain, n *xmlfilter.NIC) string { return hookName(owner(d), n.ID()) }

func hookName(uuid, nic string) string {
	sum := sha256.Sum256([]byte(uuid + " " + nic))
	return targetPrefix + hex.EncodeToString(sum[:5])
}

// Plain reports whether a domain says nothing for us in its metadata: its NICs are
// libvirt's to make, and ours only to know of. One with settings that have lost their NIC is not.
func Plain(d *xmlfilter.Domain) bool {
	return !slices.ContainsFunc(d.NICs, func(n xmlfilter.NIC) bool { return n.Settings != nil }) && !mayHaveLost(d)
}

// Concerns reports whether a domain has anything to do with us, but for the devices of other
// guests that it can name.
func Concerns(d *xmlfilter.Domain) bool {
	return slices.ContainsFunc(d.NICs, func(n xmlfilter.NIC) bool { return InScope(&n) }) || mayHaveLost(d)
}
