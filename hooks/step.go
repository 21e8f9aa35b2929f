package hooks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/state"
)

// Step is one thing to do for a NIC, as data: Plan makes it, explain prints it, the
// journal keeps it with what is needed to undo it. Exactly one of its pointers is
// set.
type Step struct {
	NIC string `json:"nic"` // the NIC's MAC, for messages

	VLAN       *VLAN       `json:"vlan,omitempty"`
	AltName    *AltName    `json:"altname,omitempty"`
	Macvtap    *Macvtap    `json:"macvtap,omitempty"`
	AllMulti   *AllMulti   `json:"allmulti,omitempty"`
	VF         *VF         `json:"vf,omitempty"`
	Port       *Port       `json:"port,omitempty"`
	EVB        *EVB        `json:"evb,omitempty"`
	VSI        *VSI        `json:"vsi,omitempty"`
	Tap        *Tap        `json:"tap,omitempty"`
	OVSPort    *OVSPort    `json:"ovs_port,omitempty"`
	BridgePort *BridgePort `json:"bridge_port,omitempty"`
}

// VLAN makes a VLAN sub-interface, or shares the one that is there. It is held as
// long as any domain's journal names it, and removed with the last one if we made
// it.
type VLAN struct {
	Name   string `json:"name"`
	Parent string `json:"parent"`
	ID     int    `json:"id"`

	// What Apply notes before it acts.
	ParentIndex int  `json:"parent_index,omitempty"`
	Index       int  `json:"index,omitempty"`
	Made        bool `json:"made,omitempty"` // by us, for this domain or another
}

// AltName gives a device one more name, so that libvirt finds the uplink's device by
// the name that the domain uses. It is shared like a VLAN.
type AltName struct {
	Device string `json:"device"`
	Name   string `json:"name"`

	Index int  `json:"index,omitempty"`
	Made  bool `json:"made,omitempty"`
}

// Macvtap makes the device of a hook-owned NIC.
type Macvtap struct {
	Name     string `json:"name"`
	Lower    string `json:"lower"`
	Mode     string `json:"mode"`
	MAC      string `json:"mac"`
	MTU      int    `json:"mtu,omitempty"`
	Queues   int    `json:"queues,omitempty"`
	AllMulti bool   `json:"allmulti,omitempty"`

	Index int `json:"index,omitempty"`
}

// AllMulti lets a macvtap that libvirt has made receive all multicast frames. There
// is nothing to undo: the device goes with the domain.
type AllMulti struct {
	Device string `json:"device"`
}

// resource is what the step claims on this host, and whether others may as well; "" for
// a step of which nothing is left to undo.
func (s Step) resource() (name string, shared bool) {
	switch {
	case s.VLAN != nil:
		return fmt.Sprintf("vlan/%d/%d", s.VLAN.ParentIndex, s.VLAN.ID), true
	case s.AltName != nil:
		return "altname/" + s.AltName.Name, true
	case s.Macvtap != nil:
		return "link/" + s.Macvtap.Name, false
	case s.Tap != nil:
		return "link/" + s.Tap.Name, false
	case s.VF != nil:
		return vfResource(s.VF.VFPlace), false
	case s.Port != nil && s.Port.PF != "":
		return fmt.Sprintf("port/%s/%d", s.Port.PF, s.Port.Number), false
	case s.Port != nil:
		return "port/" + s.Port.Device, false
	case s.VSI != nil:
		return fmt.Sprintf("vsi/%s/i-%s", s.VSI.Port, s.VSI.Instance), false
	case s.OVSPort != nil:
		return "ovs/" + s.OVSPort.Name, false
	}
	return "", false
}

// key names what the step is about, the same in a plan and in a journal.
func (s Step) key() string {
	switch {
	case s.VLAN != nil:
		return "vlan " + s.VLAN.Name
	case s.AltName != nil:
		return "altname " + s.AltName.Name
	case s.Macvtap != nil:
		return "macvtap " + s.Macvtap.Name
	case s.AllMulti != nil:
		return "allmulti " + s.AllMulti.Device
	case s.BridgePort != nil:
		return "bridge port " + s.BridgePort.Device
	case s.VF != nil:
		return s.VF.key()
	case s.Port != nil:
		return s.Port.key()
	case s.EVB != nil:
		return "evb " + s.EVB.Port
	case s.VSI != nil:
		return "vsi " + s.VSI.Instance
	case s.Tap != nil:
		return "tap " + s.Tap.Name
	case s.OVSPort != nil:
		return s.OVSPort.key()
	}
	return ""
}

// String says what the step does, for a person.
func (s Step) String() string {
	switch {
	case s.VLAN != nil:
		return fmt.Sprintf("make or share VLAN sub-interface %s (VLAN %d of %s)", s.VLAN.Name, s.VLAN.ID, s.VLAN.Parent)
	case s.AltName != nil:
		return fmt.Sprintf("let %s also be called %s", s.AltName.Device, s.AltName.Name)
	case s.Macvtap != nil:
		m := s.Macvtap
		text := fmt.Sprintf("make macvtap %s on %s, mode %s", m.Name, m.Lower, m.Mode)
		if m.MTU > 0 {
			text += ", MTU " + strconv.Itoa(m.MTU)
		}
		if m.Queues > 1 {
			text += fmt.Sprintf(", %d queues", m.Queues)
		}
		if m.AllMulti {
			text += ", allmulticast"
		}
		return text
	case s.AllMulti != nil:
		return fmt.Sprintf("let %s receive all multicast frames", s.AllMulti.Device)
	case s.BridgePort != nil:
		return fmt.Sprintf("set %s in bridge %s: %s", first(s.BridgePort.Device, "its tap"), s.BridgePort.Bridge, s.BridgePort)
	case s.VF != nil:
		return s.VF.String()
	case s.Port != nil:
		return fmt.Sprintf("associate port profile %q on %s", s.Port.Profile, s.Port.name())
	case s.EVB != nil:
		return fmt.Sprintf("wait until the switch at %s has agreed to EVB", s.EVB.Port)
	case s.VSI != nil:
		return fmt.Sprintf("associate VSI %s with the switch at %s: manager %d, type %d version %d, VLAN %d",
			s.VSI.Instance, s.VSI.Port, s.VSI.Manager, s.VSI.TypeID, s.VSI.TypeVersion, s.VSI.VLAN)
	case s.Tap != nil:
		text := "make tap " + s.Tap.Name
		if s.Tap.MTU > 0 {
			text += ", MTU " + strconv.Itoa(s.Tap.MTU)
		}
		if s.Tap.Queues > 1 {
			text += fmt.Sprintf(", %d queues", s.Tap.Queues)
		}
		return text
	case s.OVSPort != nil:
		return s.OVSPort.String()
	}
	return "nothing"
}

// Thing names what the step made or changed, for a person.
func (s Step) Thing() string {
	switch {
	case s.VLAN != nil && s.VLAN.Made:
		return fmt.Sprintf("VLAN sub-interface %s (VLAN %d of %s), made by us", s.VLAN.Name, s.VLAN.ID, s.VLAN.Parent)
	case s.VLAN != nil:
		return fmt.Sprintf("VLAN sub-interface %s (VLAN %d of %s), not made by us", s.VLAN.Name, s.VLAN.ID, s.VLAN.Parent)
	case s.AltName != nil:
		return fmt.Sprintf("%s, also called %s", s.AltName.Device, s.AltName.Name)
	case s.Macvtap != nil:
		return fmt.Sprintf("macvtap %s on %s (%s, hook-owned)", s.Macvtap.Name, s.Macvtap.Lower, s.Macvtap.Mode)
	case s.VF != nil && s.VF.Program:
		return fmt.Sprintf("%s (%s): %s", s.VF.name(), s.VF.Device, s.VF.Want)
	case s.VF != nil && !s.VF.Managed:
		return fmt.Sprintf("%s (%s), libvirt's to set and to put back", s.VF.name(), s.VF.Device)
	case s.VF != nil:
		return fmt.Sprintf("%s (%s)", s.VF.name(), s.VF.Device)
	case s.Port != nil:
		return fmt.Sprintf("port profile %q on %s", s.Port.Profile, s.Port.name())
	case s.VSI != nil:
		return fmt.Sprintf("VSI %s on %s (VLAN %d)", s.VSI.Instance, s.VSI.Port, s.VSI.VLAN)
	case s.Tap != nil:
		return fmt.Sprintf("tap %s (hook-owned)", s.Tap.Name)
	case s.OVSPort != nil && s.OVSPort.Assisted:
		return fmt.Sprintf("Open vSwitch port %s, made by libvirt", s.OVSPort.Name)
	case s.OVSPort != nil:
		return fmt.Sprintf("Open vSwitch port %s on %s", s.OVSPort.Name, s.OVSPort.Bridge)
	}
	return s.String()
}

// subject is what the step is about, without what it has become.
func (s Step) subject() string {
	if s.VF != nil {
		return s.VF.name()
	}
	return s.Thing()
}

// undoString says what undoing the step does.
func (s Step) undoString() string {
	switch {
	case s.VLAN != nil:
		return fmt.Sprintf("remove %s if we made it and no other guest uses it", s.VLAN.Name)
	case s.AltName != nil:
		return fmt.Sprintf("take the name %s from %s when no other guest uses it", s.AltName.Name, s.AltName.Device)
	case s.Macvtap != nil:
		return fmt.Sprintf("remove macvtap %s", s.Macvtap.Name)
	case s.VF != nil && s.VF.Managed:
		return fmt.Sprintf("put %s back to what it was", s.VF.name())
	case s.Port != nil:
		return fmt.Sprintf("disassociate the port of %s", s.Port.name())
	case s.VSI != nil:
		return fmt.Sprintf("de-associate VSI %s", s.VSI.Instance)
	case s.Tap != nil:
		return fmt.Sprintf("remove tap %s", s.Tap.Name)
	case s.OVSPort != nil:
		return fmt.Sprintf("remove port %s from Open vSwitch if it is there", s.OVSPort.Name)
	}
	return ""
}

// check refuses a step that a journal cannot rightly hold.
func (s Step) check() error {
	set := 0
	names := []string{}
	if s.VLAN != nil {
		set++
		names = append(names, s.VLAN.Name, s.VLAN.Parent)
		if s.VLAN.ID < 1 || s.VLAN.ID > 4094 {
			return fmt.Errorf("VLAN %d", s.VLAN.ID)
		}
	}
	if s.AltName != nil {
		set++
		names = append(names, s.AltName.Device, s.AltName.Name)
	}
	if s.Macvtap != nil {
		set++
		names = append(names, s.Macvtap.Name, s.Macvtap.Lower)
	}
	if s.VF != nil {
		set++
		if err := s.VF.check(); err != nil {
			return err
		}
	}
	if s.Port != nil {
		set++
		if err := s.Port.check(); err != nil {
			return err
		}
	}
	if s.VSI != nil {
		set++
		names = append(names, s.VSI.Port)
		if _, err := s.VSI.vdp(); err != nil {
			return err
		}
	}
	if s.Tap != nil {
		set++
		names = append(names, s.Tap.Name)
	}
	if s.OVSPort != nil {
		set++
		if err := s.OVSPort.check(); err != nil {
			return err
		}
	}
	if set != 1 || s.AllMulti != nil || s.BridgePort != nil || s.EVB != nil {
		return fmt.Errorf("%d things to undo in one step", set)
	}
	for _, n := range names {
		if !config.ValidIfname(n) {
			return fmt.Errorf("device name %q", n)
		}
	}
	return nil
}

// device is the network device of a hook-owned NIC, which the step makes: what it is, its
// name and index; "" where the step makes none.
func (s Step) device() (kind, name string, index int) {
	switch {
	case s.Macvtap != nil:
		return "macvtap", s.Macvtap.Name, s.Macvtap.Index
	case s.Tap != nil:
		return "tap", s.Tap.Name, s.Tap.Index
	}
	return "", "", 0
}

// at is the step with that device at another index.
func (s Step) at(index int) Step {
	switch {
	case s.Macvtap != nil:
		m := *s.Macvtap
		m.Index, s.Macvtap = index, &m
	case s.Tap != nil:
		t := *s.Tap
		t.Index, s.Tap = index, &t
	}
	return s
}

// readSteps loads a domain's journal and reads its steps; without one both are nil.
func readSteps(dir *state.Dir, uuid string) (*state.Journal, []Step, error) {
	j, err := dir.Load(uuid)
	if err != nil || j == nil {
		return nil, nil, err
	}
	steps, err := decodeSteps(j)
	return j, steps, err
}

// decodeSteps reads the steps of a journal. A step that it does not understand
// makes the whole journal one that cannot be trusted.
func decodeSteps(j *state.Journal) ([]Step, error) {
	steps := make([]Step, len(j.Entries))
	for i, e := range j.Entries {
		var err error
		if steps[i], err = decodeStep(e.Step); err != nil {
			return nil, fmt.Errorf("%w: domain %s, step %d: %w", state.ErrCorrupt, j.UUID, i, err)
		}
	}
	return steps, nil
}

func decodeStep(text []byte) (s Step, err error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return s, err
	}
	if _, extra := dec.Token(); extra != io.EOF {
		return s, fmt.Errorf("text behind the step")
	}
	return s, s.check()
}
