package xmlfilter

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// PortWords are wishes for the bridge port that a NIC's tap is, of a NIC or of a
// profile. The zero value of each field means that nothing is said.
type PortWords struct {
	// Isolated keeps the guest from other isolated ports of the bridge.
	Isolated *bool `toml:"isolated"`
	// Learning lets the bridge learn MAC addresses from the guest's frames; without
	// it the guest's own is entered.
	Learning *bool `toml:"learning"`
	// Hairpin sends frames back by the port that they came in by: reflective relay.
	Hairpin *bool `toml:"hairpin"`
	// BPDUGuard disables the port when the guest sends a spanning tree BPDU.
	BPDUGuard *bool `toml:"bpduguard"`
	// Trunk are the VLANs that the guest gets tagged: "100,200-299".
	Trunk string `toml:"trunk"`
	// Native says how frames of the native VLAN leave to the guest of a trunk,
	// "untagged" or "tagged"; those that come in untagged are its either way.
	Native string `toml:"native"`
}

// The words of a bridge port: those of `bridge link` and of libvirt's nativeMode.
const (
	WordIsolated  = "isolated"
	WordLearning  = "learning"
	WordHairpin   = "hairpin"
	WordBPDUGuard = "bpduguard"
	WordTrunk     = "trunk"
	WordNative    = "native"
)

func portWordNames() []string {
	return []string{WordIsolated, WordLearning, WordHairpin, WordBPDUGuard, WordTrunk, WordNative}
}

// Check refuses values that mean nothing.
func (w *PortWords) Check() error {
	if _, err := ParseVLANs(w.Trunk); err != nil {
		return fmt.Errorf("trunk = %q: %w", w.Trunk, err)
	}
	if w.Native != "" && w.Native != "untagged" && w.Native != "tagged" {
		return fmt.Errorf("native = %q: want untagged or tagged", w.Native)
	}
	return nil
}

// Set reports whether anything is said.
func (w PortWords) Set() bool { return w != PortWords{} }

// Over returns the words that hold when w's go before others'.
func (w PortWords) Over(others PortWords) PortWords {
	return PortWords{
		Isolated: cmp.Or(w.Isolated, others.Isolated), Learning: cmp.Or(w.Learning, others.Learning),
		Hairpin: cmp.Or(w.Hairpin, others.Hairpin), BPDUGuard: cmp.Or(w.BPDUGuard, others.BPDUGuard),
		Trunk: cmp.Or(w.Trunk, others.Trunk), Native: cmp.Or(w.Native, others.Native),
	}
}

// read takes one attribute of a <nic>; known is false when it is none of these.
func (w *PortWords) read(name, v string) (known bool, err error) {
	switch name {
	case WordIsolated:
		w.Isolated, err = yesNo(name, v)
	case WordLearning:
		w.Learning, err = yesNo(name, v)
	case WordHairpin:
		w.Hairpin, err = yesNo(name, v)
	case WordBPDUGuard:
		w.BPDUGuard, err = yesNo(name, v)
	case WordTrunk:
		w.Trunk = v
	case WordNative:
		w.Native = v
	default:
		return false, nil
	}
	if err == nil {
		err = w.Check()
	}
	return true, err
}

// yesNo reads a flag as libvirt or iproute2 writes it.
func yesNo(name, v string) (*bool, error) {
	on := v == "yes" || v == "on"
	if !on && v != "no" && v != "off" {
		return nil, fmt.Errorf("%s = %q: want yes or no", name, v)
	}
	return &on, nil
}

// ParseVLANs reads VLAN identifiers and ranges, "100,200-299", into a sorted list
// without repetitions. "" is none.
func ParseVLANs(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var ids []int
	for part := range strings.SplitSeq(s, ",") {
		low, high, ranged := strings.Cut(part, "-")
		if !ranged {
			high = low
		}
		first, err1 := strconv.ParseUint(strings.TrimSpace(low), 10, 12)
		last, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 12)
		if err1 != nil || err2 != nil || first < 1 || last > 4094 || first > last {
			return nil, errors.New("want VLAN identifiers and ranges within 1-4094, as in 100,200-299")
		}
		for id := first; id <= last; id++ {
			ids = append(ids, int(id))
		}
		if len(ids) > 1<<16 {
			return nil, errors.New("the same VLANs too often")
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// FormatVLANs writes what ParseVLANs reads.
func FormatVLANs(ids []int) string {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	var parts []string
	for i := 0; i < len(ids); {
		j := i + 1
		for j < len(ids) && ids[j] == ids[i]+j-i {
			j++
		}
		part := strconv.Itoa(ids[i])
		if j-i > 1 {
			part += "-" + strconv.Itoa(ids[j-1])
		}
		parts = append(parts, part)
		i = j
	}
	return strings.Join(parts, ",")
}
