package plan

import (
	"cmp"
	"fmt"
	"slices"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// Device is a network device of this host as the plan sees it.
type Device struct {
	Name   string
	Index  int
	Kind   string
	VLANID int
	Parent int // ifindex
	VF     bool
	// ParentName is the name of a VLAN sub-interface's parent.
	ParentName string
	// Below is that parent, with what is known of its name, index and VLAN; nil for what is
	// no VLAN sub-interface, or where the parent is in another network namespace.
	Below *Device
	MTU   int
	// Bridge is nil for what is no Linux bridge.
	Bridge *link.Bridge
}

// VFDevice is a virtual function of this host as the plan sees it.
type VFDevice struct {
	link.VFPlace
	PFName  string
	PFIndex int
	Netdev  string
	Driver  string
	NUMA    int

	// Claims are everybody's, as the journals say.
	Claims journal.Claims
	// Used is what the kernel shows of a use, "" for none; Doubt is why that could not be
	// told, which keeps a VF from being chosen and from nobody who names it.
	Used, Doubt string
	// Guest is the macvtap that stands on it, and GuestMAC that one's address: a guest's
	// that runs or is started at this moment. Both are "" without one.
	Guest, GuestMAC string

	// Mine: that is the domain's for which it was looked at. Bound: Used says how it is bound.
	Mine, Bound bool

	chosen bool // by the plan, of those that are free
}

// Snapshot is what the plan knows of this host's devices: those that the domain's NICs name,
// and the uplinks'.
type Snapshot struct {
	// Owner is the UUID of the domain for which it was looked at, Origin where its XML comes
	// from.
	Owner  string
	Origin Origin
	// Running: the domain runs, and is looked at again.
	Running bool
	// Devices by the names under which they were asked for.
	Devices map[string]Device
	// Uplinks holds the uplinks' devices, by uplink name.
	Uplinks map[string]Device
	// Faulty are the devices of uplinks whose sections of the configuration are faulty, or
	// could mean several.
	Faulty []FaultyDevice
	// Missing says why an uplink has no device.
	Missing map[string]error

	// Targets are the devices that the domain's NICs name by <target dev=> and that hook or
	// helper could have made, by that name. One that could not be looked for is not in it.
	Targets map[string]Target

	// Known are other domains, for settings of this one that belong to no NIC. Only explain looks.
	Known Known

	// VFs that the domain's NICs name, by network device or PCI address.
	VFs map[string]VFDevice
	// Free are VFs that the domain could take, as many as it has NICs, by uplink; an
	// uplink whose device has no VFs is not in it. nil where no NIC is in passthrough mode.
	Free map[string][]VFDevice
	// Pooled names libvirt's networks that hand out VFs of an uplink, which are not
	// in Free.
	Pooled map[string][]string
	// Held are the VFs that this domain's hook-owned NICs have already, by NIC.
	Held map[string]VFDevice
	// PFsBelow are the physical functions with virtual functions that a bridge, of Linux or of
	// Open vSwitch, stands on, for NICs that could want an entry in their forwarding tables.
	PFsBelow map[string][]Device
	// SwitchErr says why Open vSwitch did not say what its bridges stand on.
	SwitchErr error
	// Obstacles are what stands in the way of a NIC's macvtap on its device, by NIC.
	Obstacles map[string][]link.Obstacle
	// Spoofers says of ports where VSIs are associated which virtual functions can speak there
	// as the switch, by the port's name. Only explain looks.
	Spoofers map[string][]string
}

// Origin is where a domain's XML comes from, and so whose names stand in it.
type Origin int

const (
	Here      Origin = iota // it runs here, or is started here
	Elsewhere               // another host: it migrates
	Unknown                 // a file, of this host or another: what was saved, or is defined
)

// OriginOf is where the XML comes from that libvirt hands to an operation.
func OriginOf(op step.Op) Origin {
	switch op {
	case step.Migrate:
		return Elsewhere
	case step.Restore:
		return Unknown
	}
	return Here
}

// Called returns the uplink that a domain means by a name, nil for none. What an uplink is
// called, by its own name or its also, counts for XML from elsewhere; else only where no
// device of this host has that name: that is what libvirt opens.
func (h Snapshot) Called(cfg *config.Config, name string) *config.Uplink {
	dev, there := h.Devices[name]
	if h.Origin == Elsewhere || !there || dev.Name != name {
		return cfg.UplinkCalled(name)
	}
	for _, name := range cfg.UplinkNames() {
		if up, ok := h.Uplinks[name]; ok && up.Index == dev.Index {
			return cfg.Uplinks[name]
		}
	}
	return nil
}

// uplinkOf returns the uplink that a device name means or leads to: by what the
// uplink is called, or because it is its device, or a VLAN of it.
func (h Snapshot) uplinkOf(cfg *config.Config, name string) *config.Uplink {
	if u := h.Called(cfg, name); u != nil {
		return u
	}
	if dev, there := h.Devices[name]; there {
		for _, u := range cfg.UplinkNames() {
			if up, ok := h.Uplinks[u]; ok && (up.Index == dev.Index || up.Index == dev.Parent) {
				return cfg.Uplinks[u]
			}
		}
	}
	if parent, _, ok := SplitVLAN(name); ok {
		return h.uplinkOf(cfg, parent)
	}
	return nil
}

// Named reports whether one of the domain's NICs names a virtual function.
func (h *Snapshot) Named(p link.VFPlace) bool {
	for _, vf := range h.VFs {
		if vf.VFPlace == p {
			return true
		}
	}
	return false
}

// TakenError says why a domain cannot have a virtual function. It matches step.ErrInUse where
// another guest has it, else step.ErrNotFree.
type TakenError struct {
	VF VFDevice
	// By is the domain that claims it, "" where nobody does.
	By string
	// Starting: that domain is on its way to or from its VF, and the kernel does not tell.
	Starting bool
	// Unreadable: that domain's journal cannot be read, By is its UUID.
	Unreadable bool
	// Evidence is what the kernel shows, "" where it shows no use.
	Evidence string
}

func (e *TakenError) Error() string {
	who := fmt.Sprintf("VF %d of %s", e.VF.Number, e.VF.PFName)
	seen := ""
	if e.Evidence != "" {
		seen = fmt.Sprintf(" (%s: %s)", cmp.Or(e.VF.Netdev, e.VF.Device), e.Evidence)
	}
	switch {
	case e.Unreadable:
		return fmt.Sprintf("%v: %s is claimed by domain %s, whose journal cannot be read%s; try again, choose another VF, or see libvirt-direct status --claims", step.ErrInUse, who, e.By, seen)
	case e.Starting:
		return fmt.Sprintf("%v: %s is held for domain %q, which is starting, stopping or about to arrive%s; try again, choose another VF, or run libvirt-direct gc if it is none of these", step.ErrInUse, who, e.By, seen)
	case e.By != "":
		return fmt.Sprintf("%v: %s is domain %q's%s; stop that, or choose another VF", step.ErrInUse, who, e.By, seen)
	}
	return fmt.Sprintf("%v: %s%s; free it, or choose another VF", e.kind(), who, seen)
}

func (e *TakenError) kind() error {
	if e.By != "" || e.VF.Guest != "" {
		return step.ErrInUse
	}
	return step.ErrNotFree
}

// Is reports whether target is step.ErrInUse or step.ErrNotFree, as documented above.
func (e *TakenError) Is(target error) bool { return target == e.kind() }

// Available is the answer to whether a domain may have a virtual function: nil, or a
// *TakenError. named is false for who takes any that is free.
//
// One that it claims itself and that the kernel shows in no other hands, or that nobody
// claims and that the kernel shows unused, is available; to who names it also one whose claim is stale: its domain was started, and
// the kernel shows no use. A domain that was not started yet may be about to have it, and
// one that was stopped may have it put back at this moment.
func (h *Snapshot) Available(vf VFDevice, named bool) error {
	holder, held := vf.Claims.Holder(h.Owner)
	own := slices.ContainsFunc(vf.Claims.All, func(c journal.Claim) bool {
		return c.UUID == h.Owner && (vf.Used == "" || vf.Mine || vf.Bound && c.Started)
	})
	taken := &TakenError{VF: vf, Evidence: vf.Used}
	unknown := slices.DeleteFunc(slices.Clone(vf.Claims.Unreadable), func(uuid string) bool { return uuid == h.Owner })
	switch {
	case len(unknown) > 0: // it can be starting, and above all that can be read
		taken.By, taken.Unreadable = unknown[0], true
		return taken
	case held:
		taken.By, taken.Starting = cmp.Or(holder.Name, holder.UUID), !holder.Started && vf.Used == ""
		if named && holder.Started && vf.Used == "" {
			return nil
		}
		return taken
	case own:
		return nil
	case vf.Used != "":
		return taken
	case !named && vf.Doubt != "":
		taken.Evidence = vf.Doubt
		return taken
	}
	return nil
}

// Holder is the domain that claims a virtual function, "" for none, and what it wants of
// it.
func (v VFDevice) Holder() (domain string, want link.VFSettings) {
	holder, held := v.Claims.Holder("")
	if !held {
		return "", want
	}
	if s, err := step.Decode(holder.Step); err == nil {
		if vf, is := s.Kind.(*step.VF); is {
			want = vf.Want
		}
	}
	return cmp.Or(holder.Name, holder.UUID), want
}

// Resource is what is claimed with a virtual function.
func (v VFDevice) Resource() string { return step.VFResource(v.VFPlace) }
