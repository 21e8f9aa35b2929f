package policy

import (
	"strconv"
	"strings"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/linkproto"
)

const maxLine = 1023 // octets

// Parse reads the text of helper.conf. One fault anywhere refuses the whole file.
//
// The text is read line by line; blanks and tabs around a line, a key and a value do not count. Blank lines and lines
// that begin with # are skipped. There are no trailing comments, no continuation lines, no quotes. A line is at most
// 1023 octets of printable ASCII (and tabs) long.
//
// [NAME] begins a profile; NAME is 1 to 31 characters of A–Z a–z 0–9 _ . - and does not begin with a dot or dash. Each
// other line is KEY = VALUE; lists are separated by blanks. A key may stand once in a profile, except allow, whose
// lines add up.
//
// Before the first profile:
//
//	passthrough = DEVICE…     devices that profiles of mode passthrough may take whole
//	ovs-socket = PATH         where Open vSwitch's database listens; default /run/openvswitch/db.sock, or
//	                          /var/run/openvswitch/db.sock where that is not there
//
// In every profile:
//
//	kind = macvtap|bridge|ovs required
//	allow = WHO…              user:NAME group:NAME uid:N gid:N everyone; without it nobody may use the profile
//	max-per-user = N          devices a user may have at once, 1–256, default 4
//	max = N                   devices all users together may have at once, 1–4096, default 64
//	queues = N                descriptors (queues) of one device, 1–64, default 8
//	vlan = VID                1–4094
//	mac = RULE…               which addresses a guest may have: a whole address; a prefix of one to five octets followed
//	                          by :*, as in 52:54:00:*; derived, the addresses made for the user (see ether.Derive); any;
//	                          lower, the lower device's own (passthrough only). Default: lower for passthrough, derived
//	                          for the other macvtaps, any for bridges
//	anti-spoof = yes|no       let only frames with the guest's own source address out, and none of the protocols in package
//	                          linkproto; default yes for macvtap, no for bridge and ovs
//	guest-vlans = none|all|VID[-VID]…  VLAN tags that frames from and to the guest may have where anti-spoof is on,
//	                          0–4094; default none
//	link-protocols = NAME…    protocols of package linkproto that the guest may send where anti-spoof is on
//	device = isolated|tap|macvtap  isolated: a macvtap in a network namespace of its own, behind a veth pair; tap, for
//	                          kinds bridge and ovs: a TAP device; macvtap, for that kind: directly on the lower device.
//	                          Default: isolated where anti-spoof is on, but for macvtaps of mode passthrough and visible
//	                          ones, which cannot be; otherwise the other
//
// In profiles of kind macvtap:
//
//	lower = DEVICE…           required; one device, or for passthrough any number of which the first free one is taken
//	mode = bridge|vepa|private|passthrough  default bridge
//	visible = yes|no          make the device in the host's network namespace; default no
//
// In profiles of kind bridge:
//
//	bridge = DEVICE           required
//	isolated = yes|no         no traffic between ports that are isolated; default no
//	learning = yes|no         the bridge learns addresses from the port; default yes
//
// In profiles of kind ovs, whose devices become ports of Open vSwitch:
//
//	bridge = BRIDGE           required; letters, digits, _ . -
//	trunks = VID[-VID]…       VLANs that the port carries with their tags, 1–4094
//	ingress-rate = KBITS      kbit/s that the guest may send at most, 1–100000000
//
// There anti-spoof = yes needs device = isolated: ovs-vswitchd clears its ports' filters.
//
// With vlan, a macvtap is made on the VLAN sub-interface DEVICE.VID of its lower device, which is made if it is not
// there; a TAP device becomes an untagged member of the VLAN, and of no other, in a bridge that filters VLANs; a port of
// Open vSwitch is an access port of it, or with trunks a trunk port with that native VLAN.
func Parse(text []byte) (*Config, error) {
	p := parser{}
	rest := string(text)
	for n := 1; rest != ""; n++ {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		p.line = n
		if msg := p.parseLine(line); msg != "" {
			return nil, &Error{n, msg}
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return &p.config, nil
}

type parser struct {
	config Config
	line   int
	seen   []string   // keys of the current section
	keys   [][]string // keys of each profile

	devices []string // what each profile says in device, which its kind decides about
}

func (p *parser) parseLine(line string) string {
	if len(line) > maxLine {
		return "line longer than 1023 octets"
	}
	for i := 0; i < len(line); i++ {
		if line[i] != '\t' && (line[i] < ' ' || line[i] > '~') && !strings.HasPrefix(strings.TrimLeft(line, " \t"), "#") {
			return "not printable ASCII"
		}
	}
	line = strings.Trim(line, " \t")
	switch {
	case line == "" || line[0] == '#':
		return ""
	case line[0] == '[':
		return p.heading(line)
	}
	key, value, found := strings.Cut(line, "=")
	key, value = strings.TrimRight(key, " \t"), strings.TrimLeft(value, " \t")
	if !found || key == "" {
		return "neither [PROFILE] nor KEY = VALUE"
	}
	if value == "" {
		return key + ": no value"
	}
	for _, s := range p.seen {
		if s == key && key != "allow" {
			return key + " stands twice"
		}
	}
	p.seen = append(p.seen, key)
	if len(p.config.Profiles) == 0 {
		return p.global(key, value)
	}
	p.keys[len(p.keys)-1] = p.seen
	return p.set(&p.config.Profiles[len(p.config.Profiles)-1], key, value)
}

func (p *parser) heading(line string) string {
	name, ok := strings.CutSuffix(line[1:], "]")
	if !ok || !validProfileName(name) {
		return "a profile's name is 1 to 31 letters, digits, _ . - in brackets"
	}
	if p.config.Profile(name) != nil {
		return "profile " + name + " stands twice"
	}
	p.seen = nil
	p.keys = append(p.keys, nil)
	p.devices = append(p.devices, "")
	p.config.Profiles = append(p.config.Profiles, Profile{
		Name: name, Line: p.line, Mode: BridgeMode, Learning: true,
		MaxPerUser: DefaultMaxPerUser, Max: DefaultMax, Queues: DefaultQueues,
	})
	return ""
}

func validProfileName(s string) bool {
	if s == "" || len(s) > 31 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

func (p *parser) global(key, value string) string {
	switch key {
	case "passthrough":
	case "ovs-socket":
		if !validSocket(value) {
			return "ovs-socket: not the absolute path of a socket, of at most 107 octets"
		}
		p.config.OVSSocket = value
		return ""
	default:
		return "unknown key " + key + " before the first profile"
	}
	for _, d := range words(value) {
		if !validDevice(d) {
			return d + " is not a device name"
		}
		p.config.Passthrough = append(p.config.Passthrough, d)
	}
	return ""
}

// validSocket reports whether the kernel would take s for a socket's path (sockaddr_un), wherever a process is.
func validSocket(s string) bool { return s[0] == '/' && len(s) <= 107 }

// ValidDevice reports whether the kernel would take s for a network device's name (dev_valid_name, net/core/dev.c),
// and no more than printable ASCII is in it.
func ValidDevice(s string) bool { return validDevice(s) }

func validDevice(s string) bool {
	if s == "" || len(s) > 15 || s == "." || s == ".." {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '/' || s[i] == ':' {
			return false
		}
	}
	return true
}

func (p *parser) set(f *Profile, key, value string) string {
	var msg string
	switch key {
	case "kind":
		switch value {
		case "macvtap":
			f.Kind = Macvtap
		case "bridge":
			f.Kind = Bridge
		case "ovs":
			f.Kind = OVS
		default:
			msg = "macvtap, bridge or ovs"
		}
	case "mode":
		switch value {
		case "bridge":
			f.Mode = BridgeMode
		case "vepa":
			f.Mode = VEPA
		case "private":
			f.Mode = Private
		case "passthrough":
			f.Mode = Passthrough
		default:
			msg = "bridge, vepa, private or passthrough"
		}
	case "lower":
		f.Lower = words(value)
		for _, d := range f.Lower {
			if !validDevice(d) {
				msg = "device names"
			}
		}
	case "bridge":
		f.Bridge = value
		if !validDevice(value) {
			msg = "a device name"
		}
	case "visible":
		f.Visible, msg = yesNo(value)
	case "isolated":
		f.Isolated, msg = yesNo(value)
	case "learning":
		f.Learning, msg = yesNo(value)
	case "anti-spoof":
		f.AntiSpoof, msg = yesNo(value)
	case "max-per-user":
		f.MaxPerUser, msg = number(value, 1, LimitPerUser)
	case "max":
		f.Max, msg = number(value, 1, LimitMax)
	case "queues":
		f.Queues, msg = number(value, 1, LimitQueues)
	case "vlan":
		var n int
		n, msg = number(value, 1, 4094)
		f.VLAN = uint16(n)
	case "trunks":
		f.Trunks, msg = vlanSet(value)
		if msg == "" && (f.Trunks.All || f.Trunks.Ranges == nil || f.Trunks.Ranges[0].First == 0) {
			msg = "VLAN IDs and ranges such as 10 20-29"
		}
	case "ingress-rate":
		f.Ingress, msg = number(value, 1, 100_000_000)
	case "guest-vlans":
		f.GuestVLANs, msg = vlanSet(value)
	case "link-protocols":
		for _, w := range words(value) {
			if !f.LinkProtocols.Add(w) {
				msg = "names from " + linkproto.Names()
			}
		}
	case "device":
		p.devices[len(p.devices)-1] = value
	case "allow":
		for _, w := range words(value) {
			s, ok := subject(w)
			if !ok {
				msg = "user:NAME, group:NAME, uid:N, gid:N or everyone"
			}
			f.Allow = append(f.Allow, s)
		}
	case "mac":
		for _, w := range words(value) {
			r, ok := macRule(w)
			if !ok {
				msg = "addresses, prefixes such as 52:54:00:*, derived, any or lower"
			}
			f.MACRules = append(f.MACRules, r)
		}
	default:
		return "unknown key " + key
	}
	if msg != "" {
		return key + " = " + value + ": must be " + msg
	}
	return ""
}

func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' })
}

func yesNo(s string) (bool, string) {
	if s == "yes" || s == "no" {
		return s == "yes", ""
	}
	return false, "yes or no"
}

func number(s string, low, high int) (int, string) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || int(n) < low || int(n) > high {
		return 0, "a number from " + strconv.Itoa(low) + " to " + strconv.Itoa(high)
	}
	return int(n), ""
}

func vlanSet(s string) (VLANSet, string) {
	const want = "none, all, or VLAN IDs and ranges such as 10 20-29"
	switch s {
	case "none":
		return VLANSet{}, ""
	case "all":
		return VLANSet{All: true}, ""
	}
	var set VLANSet
	for _, w := range words(s) {
		from, to, isRange := strings.Cut(w, "-")
		if !isRange {
			to = from
		}
		first, m1 := number(from, 0, 4094)
		last, m2 := number(to, 0, 4094)
		if m1 != "" || m2 != "" || first > last || len(set.Ranges) == maxVLANRanges {
			return VLANSet{}, want
		}
		set.Ranges = append(set.Ranges, VLANRange{uint16(first), uint16(last)})
	}
	return set, ""
}

func subject(w string) (Subject, bool) {
	if w == "everyone" {
		return Subject{Kind: Everyone}, true
	}
	kind, value, found := strings.Cut(w, ":")
	if !found || value == "" || strings.Contains(value, ":") {
		return Subject{}, false
	}
	switch kind {
	case "user":
		return Subject{Kind: User, Name: value}, true
	case "group":
		return Subject{Kind: Group, Name: value}, true
	}
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == 1<<32-1 { // (uid_t)-1 means "no id" to the kernel
		return Subject{}, false
	}
	switch kind {
	case "uid":
		return Subject{Kind: UID, ID: uint32(n)}, true
	case "gid":
		return Subject{Kind: GID, ID: uint32(n)}, true
	}
	return Subject{}, false
}

func macRule(w string) (MACRule, bool) {
	switch w {
	case "any":
		return MACRule{Kind: AnyMAC}, true
	case "derived":
		return MACRule{Kind: DerivedMAC}, true
	case "lower":
		return MACRule{Kind: LowerMAC}, true
	}
	if prefix, ok := strings.CutSuffix(w, ":*"); ok {
		r := MACRule{Kind: PrefixMAC}
		n, err := ether.ParseOctets(prefix, r.MAC[:5])
		r.Octets = n
		return r, err == nil && n > 0 && r.MAC[0]&1 == 0
	}
	m, err := ether.ParseMAC(w)
	return MACRule{Kind: FixedMAC, MAC: m}, err == nil
}
