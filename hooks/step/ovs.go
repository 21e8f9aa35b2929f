package step

import (
	"context"
	"fmt"
	"slices"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/ovs"
)

// OVSPort attaches a NIC to Open vSwitch, or sets on the port that libvirt has made
// what libvirt does not.
type OVSPort struct {
	ovs.Port
	Assisted bool `json:"assisted,omitempty"` // libvirt makes the port, and removes it
	AwaitOVN bool `json:"await_ovn,omitempty"`
}

func (*OVSPort) Type() string { return "ovs_port" }

func (o *OVSPort) Key() string { return "ovs " + o.Name }

func (o *OVSPort) Resource() (name string, shared bool) { return "ovs/" + o.Name, false }

func (o *OVSPort) Holds() string {
	if o.Assisted {
		return fmt.Sprintf("Open vSwitch port %s, made by libvirt", o.Name)
	}
	return fmt.Sprintf("Open vSwitch port %s on %s", o.Name, o.Bridge)
}

func (o *OVSPort) Undoes() string {
	return fmt.Sprintf("remove port %s from Open vSwitch if it is there", o.Name)
}

// Observe looks whether the port is there, if the switch was asked.
func (o *OVSPort) Observe(_ context.Context, _ Kernel, seen *Observed) error {
	if seen.Ports == nil {
		return nil
	}
	switch owned, err := seen.Ports(); {
	case err != nil:
		seen.Difference = err.Error()
	case !slices.Contains(owned, ovs.Owned{Name: o.Name, Owner: o.Owner}):
		seen.Difference = "gone"
	case seen.Phase == journal.Intended:
		seen.Difference = halfMade
	}
	return nil
}

func (o *OVSPort) Check() error {
	if !config.ValidIfname(o.Name) || o.Owner == "" {
		return fmt.Errorf("port %q of %q in Open vSwitch", o.Name, o.Owner)
	}
	return nil
}

func (*OVSPort) Until() Op { return Release }

func (o *OVSPort) Does() string {
	text := fmt.Sprintf("attach %s to Open vSwitch bridge %s", o.Name, o.Bridge)
	if o.Assisted {
		text = fmt.Sprintf("wait until Open vSwitch has made port %s", o.Name)
	}
	if v := o.VLAN; v != nil {
		text += ", " + vlanText(v)
	}
	if id := o.IDs["iface-id"]; id != "" {
		text += ", iface-id " + id
	}
	if o.MTU > 0 {
		text += fmt.Sprintf(", MTU %d", o.MTU)
	}
	if o.IngressRate > 0 {
		text += fmt.Sprintf(", at most %d kbit/s from the guest", o.IngressRate)
	}
	if q := o.QoS; q != nil && q.MaxRate > 0 {
		text += fmt.Sprintf(", at most %d Mbit/s to the guest", q.MaxRate/1_000_000)
	}
	if q := o.QoS; q != nil && q.MinRate > 0 {
		text += fmt.Sprintf(", at least %d Mbit/s to the guest", q.MinRate/1_000_000)
	}
	if o.Mirror != "" {
		text += ", a copy of its frames to " + o.Mirror
	}
	if o.AwaitOVN {
		text += ", then wait for OVN"
	}
	return text
}

func vlanText(v *ovs.VLAN) string {
	text := "trunk of all VLANs"
	switch {
	case len(v.Trunks) > 0:
		text = fmt.Sprintf("trunk of VLANs %v", v.Trunks)
	case v.Tag != nil && (v.Mode == "" || v.Mode == "access"):
		return fmt.Sprintf("VLAN %d", *v.Tag)
	}
	if v.Mode == "dot1q-tunnel" && v.Tag != nil {
		return fmt.Sprintf("802.1ad tunnel in VLAN %d", *v.Tag)
	}
	if v.Tag != nil {
		text += fmt.Sprintf(", %s %d", v.Mode, *v.Tag)
	}
	return text
}

func (o *OVSPort) Do(ctx context.Context, e *Env) error {
	err := e.Save(journal.Intended)
	if err != nil {
		return err
	}
	if o.Assisted {
		err = e.Switch().Amend(ctx, o.Port)
	} else {
		err = e.Switch().Attach(ctx, o.Port)
	}
	if err == nil && o.AwaitOVN && e.Op != Reconnect {
		err = e.Switch().Installed(ctx, o.Name)
	}
	if err != nil {
		return err
	}
	if !o.Assisted {
		e.Event("attached %s to %s", o.Name, o.Bridge)
	}
	return e.Save(journal.Done)
}

// Undo removes the port, if it is still the domain's: libvirt has removed its
// own by then, and the name can be another guest's.
func (o *OVSPort) Undo(ctx context.Context, e *Env) error {
	if e.Switch == nil {
		return fmt.Errorf("port %s: %w", o.Name, ovs.ErrUnreachable)
	}
	was, err := e.Switch().Detach(ctx, o.Name, o.Owner)
	if err != nil {
		return err
	}
	if was {
		e.Event("removed Open vSwitch port %s", o.Name)
	}
	return nil
}
