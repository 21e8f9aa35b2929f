// Package config reads /etc/libvirt-direct/config.toml, what a host says of its
// uplinks and of the profiles that its guests' NICs may name.
//
// Everything is optional; unknown keys are refused with their line and the nearest
// known word, since a misspelt limit would otherwise be no limit.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/pelletier/go-toml/v2"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/settings"
	"libvirt-direct/internal/tomltext"
)

// Path is where the host's configuration lies.
const Path = "/etc/libvirt-direct/config.toml"

// DefaultDeadline bounds a whole hook operation when the configuration says nothing.
const DefaultDeadline = 10 * time.Second

// Config is what the file says, but for its faulty sections, which Faults has. Load and
// Parse make one; that of an empty file is the configuration of a host without any.
type Config struct {
	// Deadline bounds each hook operation, as a Go duration ("10s").
	Deadline Duration `toml:"deadline"`
	VLAN     VLAN     `toml:"vlan"`
	Watch    Watch    `toml:"watch"`
	OVS      OVS      `toml:"ovs"`

	// Uplinks by name: the networks that this host is attached to.
	Uplinks map[string]*Uplink `toml:"uplink"`
	// Profiles by name: what a NIC gets by naming one.
	Profiles map[string]*Profile `toml:"profile"`

	faults []*Error       // by line
	faulty []FaultyUplink // by name
}

// VLAN says where VLAN sub-interfaces may be made.
type VLAN struct {
	// Create is "any" (below any device, the default), "uplinks" (only below
	// devices that an uplink names) or "never".
	Create string `toml:"create"`
}

// Watch says which domains `libvirt-direct watch` rewrites.
type Watch struct {
	// Domains are name patterns as in path.Match. Domains whose metadata says
	// rewrite='yes' are rewritten anyway, those that say 'no' never.
	Domains []string `toml:"domains"`
}

// OVS says where Open vSwitch is.
type OVS struct {
	// Socket is the path of its database's socket. Absent: OVS_RUNDIR's, or the packages'.
	Socket string `toml:"socket"`
}

// ErrSocket: what should be the path of a socket is not.
var ErrSocket = errors.New("not the absolute path of a socket")

// SocketPath reads the path of a socket, which can be written as ovs-vsctl's --db takes it,
// with "unix:" before it. An error matches ErrSocket.
func SocketPath(s string) (string, error) {
	file := strings.TrimPrefix(s, "unix:")
	const longest = 107 // that the kernel takes
	if !path.IsAbs(file) || len(file) > longest || strings.ContainsFunc(file, unicode.IsControl) {
		return "", fmt.Errorf("%q: %w", s, ErrSocket)
	}
	return path.Clean(file), nil
}

// Uplink is a network by the name that all hosts know it by, and the device that
// leads to it on this host. Exactly one of Device, PCI and MAC finds the device.
type Uplink struct {
	Name string `toml:"-"`
	// Device is a network device's name or altname.
	Device string `toml:"device"`
	// PCI is the address of the device's PCI function, "0000:03:00.0".
	// Parse takes what lspci prints, too.
	PCI string `toml:"pci"`
	// MAC is the device's permanent address (IFLA_PERM_ADDRESS).
	MAC string `toml:"mac"`
	// Also are the names that other hosts use for their device on this network;
	// they are understood in the XML of guests that come from there.
	Also []string `toml:"also"`
	// VLANs that guests may use on it: identifiers ("100") and ranges
	// ("200-299"). Absent: all, 1 to 4094. Empty: none.
	VLANs *[]VLANRange `toml:"vlans"`
	// Enforce refuses the NICs by which a guest could send frames of other VLANs onto it.
	Enforce bool `toml:"enforce"`
	// VFs of its device that may be chosen for guests which name none: numbers ("2") and
	// ranges ("2-7"). Absent: all. Empty: none. A VF that a guest names is not asked about.
	VFs *[]VFRange `toml:"vfs"`
	// AllMulticast holds for NICs on this uplink that do not say it themselves.
	AllMulticast *bool `toml:"allmulticast"`
	// FDB holds for NICs on it that do not say it themselves: "pf", "no" or "".
	FDB string `toml:"fdb"`
	// Associate says who associates the 802.1Qbh port profiles of NICs on it:
	// "libvirt" (the default) or "hook", which makes the rewriter take
	// <virtualport type='802.1Qbh'> over.
	Associate string `toml:"associate"`
}

// Profile is a set of settings for NICs that name it; the NIC's own go first.
type Profile struct{ settings.NIC }

// VLANRange is an inclusive range of VLAN identifiers, written "100" or "100-199".
type VLANRange struct{ First, Last int }

// UnmarshalText reads "100" or "100-199".
func (r *VLANRange) UnmarshalText(b []byte) (err error) {
	if r.First, r.Last, err = numbers(b, 1, 4094); err != nil {
		return fmt.Errorf("%q: want a VLAN identifier or a range within 1-4094, as in [\"100\", \"200-299\"]", b)
	}
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (r VLANRange) MarshalText() ([]byte, error) { return rangeText(r.First, r.Last), nil }

// VFRange is an inclusive range of virtual functions' numbers, written "2" or "2-7".
type VFRange struct{ First, Last int }

// UnmarshalText reads "2" or "2-7".
func (r *VFRange) UnmarshalText(b []byte) (err error) {
	if r.First, r.Last, err = numbers(b, 0, 1<<16-1); err != nil {
		return fmt.Errorf("%q: want a virtual function's number or a range, as in [\"0\", \"2-7\"]", b)
	}
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (r VFRange) MarshalText() ([]byte, error) { return rangeText(r.First, r.Last), nil }

var errRange = errors.New("no such range")

func numbers(b []byte, least, most int) (first, last int, err error) {
	from, to, ranged := strings.Cut(string(b), "-")
	if !ranged {
		to = from
	}
	low, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
	high, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
	first, last = int(low), int(high)
	if err1 != nil || err2 != nil || first < least || last > most || first > last {
		return 0, 0, errRange
	}
	return first, last, nil
}

func rangeText(first, last int) []byte {
	if first == last {
		return []byte(strconv.Itoa(first))
	}
	return fmt.Appendf(nil, "%d-%d", first, last)
}

// Duration is a time.Duration in Go's notation.
type Duration time.Duration

// UnmarshalText reads time.ParseDuration's notation.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v <= 0 || v > 10*time.Minute {
		return fmt.Errorf("%q: want a duration such as \"10s\", at most 10m", b)
	}
	*d = Duration(v)
	return nil
}

// Load reads a file. A file that does not exist gives the defaults.
//
// A file that cannot be read, or is no TOML, is an *Error. A section that is wrong is
// none: the others hold, and Faults tells which it is.
func Load(file string) (*Config, error) {
	data, err := read(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Parse(file, nil)
	}
	if err != nil {
		return nil, &Error{File: file, Msg: err.Error()}
	}
	return Parse(file, data)
}

// maxSize bounds the file.
const maxSize = 1 << 20

var (
	errNoFile  = errors.New("not a regular file")
	errTooLong = errors.New("longer than 1 MiB")
)

// read reads a file and waits for nobody, as opening a pipe would: a hook that waits keeps
// a guest waiting.
func read(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: file, Err: errNoFile}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = &fs.PathError{Op: "read", Path: file, Err: errTooLong}
	}
	return data, err
}

func defaults() *Config {
	return &Config{Deadline: Duration(DefaultDeadline), VLAN: VLAN{Create: "any"}}
}

// Parse reads the text of a configuration, as Load does; file is its name for messages.
func Parse(file string, data []byte) (*Config, error) {
	data, err := tomltext.Plain(data)
	if err != nil {
		return nil, &Error{File: file, Line: 1, Msg: err.Error()}
	}
	r := reader{file: file, data: data, config: defaults()}
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(r.config); err != nil {
		var doc map[string]any
		if err := toml.Unmarshal(data, &doc); err != nil {
			return nil, decodeError(file, err)
		}
		r.config = defaults()
		r.bySection()
	}
	for name, u := range r.config.Uplinks {
		u.Name = name
	}
	r.check()
	r.finish()
	return r.config, nil
}

// decodeError is what the decoder refuses, with its line.
func decodeError(file string, err error) *Error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		e := strict.Errors[0]
		row, _ := e.Position()
		key := e.Key()
		fault := &Error{File: file, Line: row, Msg: fmt.Sprintf("unknown key %q", strings.Join(key, ".")), unknown: true}
		part, known := unknown(key)
		if near := nearest(part, known); near != "" {
			fault.Fix = fmt.Sprintf("did you mean %q?", near)
		}
		return fault
	}
	line, msg := tomltext.Fault(err, map[string]string{
		fmt.Sprintf("%T", []VLANRange{}): `a list such as ["100", "200-299"]`,
		fmt.Sprintf("%T", []VFRange{}):   `a list such as ["0", "2-7"]`,
	})
	return &Error{File: file, Line: line, Msg: msg}
}

var uplinkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)

// check takes out the sections whose values are wrong.
func (r *reader) check() {
	c := r.config
	if c.Deadline != Duration(DefaultDeadline) && r.isNumber(rootDeadline) {
		r.refuse(rootDeadline, "", "", "it is a number without a unit: want a duration such as \"10s\", at most 10m", "")
		c.Deadline = defaults().Deadline
	}
	r.checkSpelling()
	if !slices.Contains([]string{"any", "uplinks", "never"}, c.VLAN.Create) {
		r.refuse(rootVLAN, "", "create", fmt.Sprintf("create = %q: want \"any\", \"uplinks\" or \"never\"", c.VLAN.Create), "")
		c.VLAN = defaults().VLAN
	}
	for _, p := range c.Watch.Domains {
		if _, err := path.Match(p, ""); err != nil {
			r.refuse(rootWatch, "", "domains", fmt.Sprintf("domains: %q is no pattern", p), "")
			c.Watch = Watch{}
			break
		}
	}
	if c.OVS.Socket != "" {
		socket, err := SocketPath(c.OVS.Socket)
		if err != nil {
			r.refuse(rootOVS, "", "socket", fmt.Sprintf("socket = %v", err), "such as \"/usr/local/var/run/openvswitch/db.sock\"; other connections are not supported")
		}
		c.OVS.Socket = socket
	}
	called := map[string]string{}
	for _, name := range c.UplinkNames() {
		if key, msg, fix := c.Uplinks[name].check(called); msg != "" {
			r.refuse(rootUplink, name, key, msg, fix)
			delete(c.Uplinks, name)
		}
	}
	for name, p := range c.Profiles {
		if key, msg := r.checkProfile(p); msg != "" {
			r.refuse(rootProfile, name, key, msg, "")
			delete(c.Profiles, name)
		}
	}
}

// check adds the names that the uplink is called by to called, if it has no fault. It
// returns which key is wrong, what is, and how to fix that.
func (u *Uplink) check(called map[string]string) (key, msg, fix string) {
	if !uplinkName.MatchString(u.Name) {
		return "", "a name has letters, digits, '-' and '_', at most 32", ""
	}
	found := 0
	for _, s := range []string{u.Device, u.PCI, u.MAC} {
		if s != "" {
			found++
		}
	}
	if found != 1 {
		return "", "say exactly one of device, pci and mac", ""
	}
	if u.Device != "" && !link.ValidAltName(u.Device) {
		return "device", fmt.Sprintf("device = %q is no device name", u.Device), ""
	}
	if u.PCI != "" {
		address, ok := link.ParsePCI(u.PCI)
		if !ok {
			return "pci", fmt.Sprintf("pci = %q: want the address as lspci -D prints it, such as 0000:03:00.0", u.PCI), ""
		}
		u.PCI = address
	}
	if u.MAC != "" {
		mac, ok := permanentMAC(u.MAC)
		if !ok {
			return "mac", fmt.Sprintf("mac = %q: want the six octets of one card's address, such as 3c:fd:fe:00:11:22", u.MAC), ""
		}
		u.MAC = mac
	}
	for _, name := range u.Also {
		if !link.ValidAltName(name) {
			return "also", fmt.Sprintf("also: %q is no device name", name), ""
		}
	}
	if u.Associate != "" && u.Associate != settings.OwnHook && u.Associate != settings.OwnLibvirt {
		return "associate", fmt.Sprintf("associate = %q: want \"hook\" or \"libvirt\"", u.Associate), ""
	}
	if fdb, _ := settings.Lookup(settings.InUplink, "fdb"); u.FDB != "" && !slices.Contains(fdb.Values, u.FDB) {
		return "fdb", fmt.Sprintf("fdb = %q: want \"pf\" or \"no\"", u.FDB), ""
	}
	names := append([]string{u.Name}, u.Also...)
	if u.Device != "" && u.Device != u.Name {
		names = append(names, u.Device)
	}
	for _, way := range []string{u.PCI, u.MAC} { // no name has a colon
		if way != "" {
			names = append(names, way)
		}
	}
	for _, n := range names {
		if by, taken := called[n]; taken && by != u.Name {
			return "", fmt.Sprintf("%q already means uplink %q", n, by), "leave it to one of them"
		}
	}
	for _, n := range names {
		called[n] = u.Name
	}
	return "", "", ""
}

// permanentMAC reads an address that a card can have, in any spelling with six octets.
func permanentMAC(s string) (mac string, ok bool) {
	b, err := net.ParseMAC(s)
	if err != nil || len(b) != 6 || b[0]&1 != 0 || bytes.Equal(b, make([]byte, 6)) {
		return "", false
	}
	return b.String(), true
}

// checkProfile returns which key of a profile is wrong, and what is. An uplink whose own
// section is faulty is no fault of the profile.
func (r *reader) checkProfile(p *Profile) (key, msg string) {
	c := r.config
	faulty := slices.ContainsFunc(c.faults, func(e *Error) bool { return e.root == rootUplink && (e.name == p.Uplink || e.name == "") })
	if p.Uplink != "" && c.Uplinks[p.Uplink] == nil && !faulty {
		return "uplink", fmt.Sprintf("uplink = %q is not configured", p.Uplink)
	}
	if err := p.NIC.Check(); err != nil {
		var wrong *settings.ValueError
		if errors.As(err, &wrong) {
			key = wrong.Name
		}
		return key, err.Error()
	}
	return "", ""
}

// UplinkNames returns the configured uplinks' names, sorted.
func (c *Config) UplinkNames() []string {
	names := make([]string, 0, len(c.Uplinks))
	for n := range c.Uplinks {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// UplinkCalled returns the uplink that a name means: its own name, a name that
// other hosts use, or this host's device. nil when none does.
func (c *Config) UplinkCalled(name string) *Uplink {
	if u := c.Uplinks[name]; u != nil {
		return u
	}
	for _, n := range c.UplinkNames() {
		if u := c.Uplinks[n]; u.Device == name || slices.Contains(u.Also, name) {
			return u
		}
	}
	return nil
}

// Allows reports whether guests may use a VLAN on the uplink.
func (u *Uplink) Allows(vid int) bool {
	return u.VLANs == nil || slices.ContainsFunc(*u.VLANs, func(r VLANRange) bool { return r.First <= vid && vid <= r.Last })
}

// Limits reports whether there are VLANs that guests may not use on the uplink.
func (u *Uplink) Limits() bool {
	for vid := 1; vid <= 4094; vid++ {
		if !u.Allows(vid) {
			return true
		}
	}
	return false
}

// VLANText is what VLANs says, for a message.
func (u *Uplink) VLANText() string {
	if u.VLANs == nil {
		return "all"
	}
	var all []string
	for _, r := range *u.VLANs {
		all = append(all, string(rangeText(r.First, r.Last)))
	}
	return cmp.Or(strings.Join(all, ","), "none")
}

// Chooses reports whether a virtual function may be chosen for a guest that names none.
func (u *Uplink) Chooses(number int) bool {
	return u.VFs == nil || slices.ContainsFunc(*u.VFs, func(r VFRange) bool { return r.First <= number && number <= r.Last })
}

// Wants reports whether the host asks for a domain to be rewritten by name.
func (w *Watch) Wants(domain string) bool {
	return slices.ContainsFunc(w.Domains, func(p string) bool {
		ok, err := path.Match(p, domain)
		return err == nil && ok
	})
}

// ValidIfname reports whether the kernel would take a name for a network device.
func ValidIfname(s string) bool { return link.ValidName(s) }
