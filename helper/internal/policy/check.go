package policy

import "slices"

// maxVLANRanges keeps the anti-spoof filter's jumps within the 8 bits they have.
const maxVLANRanges = 32

// finish applies the defaults that depend on other keys, and checks what only a whole profile can tell.
func (p *parser) finish() error {
	for i := range p.config.Profiles {
		f := &p.config.Profiles[i]
		f.OVSSocket = p.config.OVSSocket
		if msg := p.complete(f, p.keys[i], p.devices[i]); msg != "" {
			return &Error{f.Line, "profile " + f.Name + ": " + msg}
		}
	}
	return nil
}

func (p *parser) complete(f *Profile, keys []string, device string) string {
	given := func(key string) bool { return slices.Contains(keys, key) }
	if f.Kind == 0 {
		return "kind is missing"
	}
	foreign := []string{"bridge", "isolated", "learning", "trunks", "ingress-rate"}
	switch f.Kind {
	case Bridge:
		foreign = []string{"lower", "mode", "visible", "trunks", "ingress-rate"}
	case OVS:
		foreign = []string{"lower", "mode", "visible", "isolated", "learning"}
	}
	for _, k := range foreign {
		if given(k) {
			return k + " is not for kind " + f.Kind.String()
		}
	}
	var msg string
	switch f.Kind {
	case Macvtap:
		msg = p.completeMacvtap(f, given)
	case Bridge:
		msg = completeBridge(f, given)
	case OVS:
		if msg = completeBridge(f, given); msg == "" && !plainName(f.Bridge) {
			msg = "the name of an Open vSwitch bridge has letters, digits, _ . -"
		}
	}
	if msg != "" {
		return msg
	}
	for _, k := range [...]string{"guest-vlans", "link-protocols"} {
		if given(k) && !f.AntiSpoof {
			return k + " needs anti-spoof = yes"
		}
	}
	if msg := completeDevice(f, device); msg != "" {
		return msg
	}
	for _, r := range f.MACRules {
		if r.Kind == LowerMAC && (f.Kind != Macvtap || f.Mode != Passthrough) {
			return "mac = lower is for mode passthrough"
		}
	}
	return ""
}

// completeDevice takes the value of the key device, or nothing.
func completeDevice(f *Profile, value string) string {
	why := ""
	switch {
	case f.Kind == Macvtap && f.Mode == Passthrough:
		why = "mode passthrough hands over the lower device itself"
	case f.Visible:
		why = "a visible device is in the host's network namespace"
	}
	plain := f.Kind.plainDevice()
	switch value {
	case "":
		f.Device = Plain
		if f.AntiSpoof && why == "" {
			f.Device = Isolated
		}
	case "isolated":
		if why != "" {
			return "device = isolated: " + why
		}
		f.Device = Isolated
	case plain:
		f.Device = Plain
	default:
		return "device = " + value + ": must be isolated or " + plain + " for kind " + f.Kind.String()
	}
	if f.Kind == OVS && f.AntiSpoof && f.Device == Plain {
		return "anti-spoof = yes needs device = isolated: ovs-vswitchd clears the filters of its ports"
	}
	return ""
}

func (p *parser) completeMacvtap(f *Profile, given func(string) bool) string {
	if !given("anti-spoof") {
		f.AntiSpoof = true
	}
	if !given("lower") {
		return "lower is missing"
	}
	if !given("mac") {
		f.MACRules = []MACRule{{Kind: DerivedMAC}}
	}
	if f.Mode != Passthrough {
		if len(f.Lower) != 1 {
			return "only mode passthrough takes more than one lower device"
		}
		return ""
	}
	if !given("mac") {
		f.MACRules = []MACRule{{Kind: LowerMAC}}
	}
	if f.VLAN != 0 {
		return "mode passthrough takes no vlan: name the sub-interface itself as lower"
	}
	for _, d := range f.Lower {
		if !slices.Contains(p.config.Passthrough, d) {
			return "device " + d + " is not in the file's passthrough line, and mode passthrough lets the guest change the device itself"
		}
	}
	return ""
}

// plainName reports whether a device's name needs no quoting in JSON.
func plainName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

func completeBridge(f *Profile, given func(string) bool) string {
	if !given("bridge") {
		return "bridge is missing"
	}
	if !given("mac") {
		f.MACRules = []MACRule{{Kind: AnyMAC}}
	}
	return ""
}
