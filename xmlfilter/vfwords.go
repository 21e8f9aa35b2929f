package xmlfilter

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// VFWords are wishes for a virtual function's attributes, of a NIC or of a profile.
// The zero value of each field means that nothing is said: the attribute stays as it
// is.
type VFWords struct {
	// QoS is the priority code point of the VLAN, 0..7.
	QoS *int `toml:"qos"`
	// Proto is the VLAN's tag protocol, "802.1Q" or "802.1ad".
	Proto string `toml:"proto"`
	// Trust lets the guest change the VF's MAC and become promiscuous.
	Trust *bool `toml:"trust"`
	// SpoofChk drops frames from other MACs than the VF's.
	SpoofChk *bool `toml:"spoofchk"`
	// MinRate and MaxRate bound what the VF sends, in Mbit/s; 0 takes a bound away.
	MinRate *int `toml:"minrate"`
	MaxRate *int `toml:"maxrate"`
	// LinkState is "auto", "enable" or "disable".
	LinkState string `toml:"linkstate"`
	// QueryRSS lets the guest read the receive-side-scaling key.
	QueryRSS *bool `toml:"queryrss"`
	// PortProfile is the 802.1Qbh port profile to associate, at most 39 octets.
	PortProfile string `toml:"portprofile"`
}

// The words of a VF: the names of `ip link set … vf` and systemd's [SR-IOV], in lower
// case.
const (
	WordQoS         = "qos"
	WordProto       = "proto"
	WordTrust       = "trust"
	WordSpoofChk    = "spoofchk"
	WordMinRate     = "minrate"
	WordMaxRate     = "maxrate"
	WordLinkState   = "linkstate"
	WordQueryRSS    = "queryrss"
	WordPortProfile = "portprofile"
)

func vfWordNames() []string {
	return []string{
		WordQoS, WordProto, WordTrust, WordSpoofChk, WordMinRate, WordMaxRate, WordLinkState, WordQueryRSS, WordPortProfile,
	}
}

// Check refuses values that mean nothing, and normalises the others' spelling.
func (w *VFWords) Check() error {
	if w.QoS != nil && (*w.QoS < 0 || *w.QoS > 7) {
		return fmt.Errorf("qos = %d: want 0 to 7", *w.QoS)
	}
	for name, v := range map[string]*int{WordMinRate: w.MinRate, WordMaxRate: w.MaxRate} {
		if v != nil && (*v < 0 || *v > 1<<30) {
			return fmt.Errorf("%s = %d: want Mbit/s, 0 for no bound", name, *v)
		}
	}
	if w.Proto != "" {
		i := slices.IndexFunc([]string{"802.1Q", "802.1ad"}, func(p string) bool { return strings.EqualFold(p, w.Proto) })
		if i < 0 {
			return fmt.Errorf("proto = %q: want 802.1Q or 802.1ad", w.Proto)
		}
		w.Proto = []string{"802.1Q", "802.1ad"}[i]
	}
	switch w.LinkState {
	case "", "auto", "enable", "disable":
	case "yes", "on":
		w.LinkState = "enable"
	case "no", "off":
		w.LinkState = "disable"
	default:
		return fmt.Errorf("linkstate = %q: want auto, enable or disable", w.LinkState)
	}
	if len(w.PortProfile) > 39 || !printable(w.PortProfile) {
		return fmt.Errorf("portprofile = %q: want at most 39 octets", w.PortProfile)
	}
	return nil
}

// Set reports whether anything is said.
func (w VFWords) Set() bool { return w != VFWords{} }

// Over returns the words that hold when w's go before others'.
func (w VFWords) Over(others VFWords) VFWords {
	return VFWords{
		QoS: cmp.Or(w.QoS, others.QoS), Proto: cmp.Or(w.Proto, others.Proto),
		Trust: cmp.Or(w.Trust, others.Trust), SpoofChk: cmp.Or(w.SpoofChk, others.SpoofChk),
		MinRate: cmp.Or(w.MinRate, others.MinRate), MaxRate: cmp.Or(w.MaxRate, others.MaxRate),
		LinkState: cmp.Or(w.LinkState, others.LinkState), QueryRSS: cmp.Or(w.QueryRSS, others.QueryRSS),
		PortProfile: cmp.Or(w.PortProfile, others.PortProfile),
	}
}

// read takes one attribute of a <nic>; known is false when it is none of ours.
func (w *VFWords) read(name, v string) (known bool, err error) {
	count := func(to **int) error {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("%s = %q: want a number", name, v)
		}
		*to = &n
		return nil
	}
	switch name {
	case WordQoS:
		err = count(&w.QoS)
	case WordProto:
		w.Proto = v
	case WordTrust:
		w.Trust, err = yesNo(name, v)
	case WordSpoofChk:
		w.SpoofChk, err = yesNo(name, v)
	case WordMinRate:
		err = count(&w.MinRate)
	case WordMaxRate:
		err = count(&w.MaxRate)
	case WordLinkState:
		w.LinkState = v
	case WordQueryRSS:
		w.QueryRSS, err = yesNo(name, v)
	case WordPortProfile:
		w.PortProfile = v
	default:
		return false, nil
	}
	if err == nil {
		err = w.Check()
	}
	return true, err
}
