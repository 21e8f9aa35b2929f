package hooks

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// Switch is what the hook asks of Open vSwitch: ovs.DB, or a fake one in tests. Errors
// match those of package ovs.
type Switch interface {
	Attach(ctx context.Context, p ovs.Port) error
	Amend(ctx context.Context, p ovs.Port) error
	Installed(ctx context.Context, name string) error
	Detach(ctx context.Context, name, owner string) (was bool, err error)
	List(ctx context.Context) ([]ovs.Owned, error)
	Close()
}

var _ Switch = (*ovs.DB)(nil)

// OpenSwitch returns the host's Open vSwitch.
func OpenSwitch() Switch { return ovs.Open("") }

// OVSPort attaches a NIC to Open vSwitch, or sets on the port that libvirt has made
// what libvirt does not.
type OVSPort struct {
	ovs.Port
	Assisted bool `json:"assisted,omitempty"` // libvirt makes the port, and removes it
	AwaitOVN bool `json:"await_ovn,omitempty"`
}

func (o *OVSPort) key() string { return "ovs " + o.Name }

func (o *OVSPort) resource() (name string, shared bool) { return "ovs/" + o.Name, false }

func (o *OVSPort) holds() string {
	if o.Assisted {
		return fmt.Sprintf("Open vSwitch port %s, made by libvirt", o.Name)
	}
	return fmt.Sprintf("Open vSwitch port %s on %s", o.Name, o.Bridge)
}

func (o *OVSPort) undoes() string {
	return fmt.Sprintf("remove port %s from Open vSwitch if it is there", o.Name)
}

// compare looks whether the port is there, if the switch was asked.
func (o *OVSPort) compare(_ context.Context, _ Kernel, h *Held) error {
	switch owned, asked, err := h.ports(); {
	case !asked:
	case err != nil:
		h.Difference = err.Error()
	case !slices.Contains(owned, ovs.Owned{Name: o.Name, Owner: o.Owner}):
		h.Difference = "gone"
	case h.Phase == journal.Intended:
		h.Difference = halfMade
	}
	return nil
}

func (o *OVSPort) check() error {
	if !config.ValidIfname(o.Name) || o.Owner == "" {
		return fmt.Errorf("port %q of %q in Open vSwitch", o.Name, o.Owner)
	}
	return nil
}

func (o *OVSPort) does() string {
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

// withSwitch lets the steps connect to Open vSwitch when one first needs it. The
// returned function ends the connection.
func (a *applier) withSwitch(open func() Switch) (end func()) {
	a.openSwitch = open
	return func() {
		if a.ovs != nil {
			a.ovs.Close()
		}
	}
}

func (a *applier) theSwitch() Switch {
	if a.ovs == nil {
		a.ovs = a.openSwitch()
	}
	return a.ovs
}

func (*OVSPort) do(ctx context.Context, a *applier, s Step) error {
	o := s.OVSPort
	done, err := a.intend(s)
	if err != nil {
		return err
	}
	if o.Assisted {
		err = a.theSwitch().Amend(ctx, o.Port)
	} else {
		err = a.theSwitch().Attach(ctx, o.Port)
	}
	if err == nil && o.AwaitOVN && a.op != Reconnect {
		err = a.theSwitch().Installed(ctx, o.Name)
	}
	if err != nil {
		return err
	}
	if !o.Assisted {
		a.note("attached %s to %s", o.Name, o.Bridge)
	}
	return done()
}

// undoOVSPort removes the port, if it is still the domain's: libvirt has removed its
// own by then, and the name can be another guest's.
func (*OVSPort) undo(ctx context.Context, a *applier, s Step) error {
	if a.openSwitch == nil {
		return fmt.Errorf("port %s: %w", s.OVSPort.Name, ovs.ErrUnreachable)
	}
	was, err := a.theSwitch().Detach(ctx, s.OVSPort.Name, s.OVSPort.Owner)
	if err != nil {
		return err
	}
	if was {
		a.note("removed Open vSwitch port %s", s.OVSPort.Name)
	}
	return a.drop(s.key())
}

// strayPorts removes ports with our key whose domain is not running and in no journal:
// those that libvirt has made and, being killed, not removed, and our own after /run
// was cleared.
func (c *Collector) strayPorts(ctx context.Context) ([]string, error) {
	if c.OVS == nil {
		return nil, nil
	}
	db := c.OVS()
	defer db.Close()
	owned, err := db.List(ctx)
	if errors.Is(err, ovs.ErrUnreachable) {
		return nil, nil // most hosts have none
	}
	var done []string
	errs := []error{err}
	for _, o := range owned {
		gone, err := c.strayPort(ctx, db, o)
		switch {
		case err != nil:
			errs = append(errs, err)
		case gone && c.DryRun:
			done = append(done, fmt.Sprintf("would remove Open vSwitch port %s, whose guest is not running", o.Name))
		case gone:
			done = append(done, fmt.Sprintf("removed Open vSwitch port %s, whose guest is not running", o.Name))
		}
	}
	return done, errors.Join(errs...)
}

func (c *Collector) strayPort(ctx context.Context, db Switch, o ovs.Owned) (gone bool, err error) {
	if !journal.IsUUID(o.Owner) {
		if gone, err = deviceGone(ctx, c.Kernel, o); err != nil || !gone {
			return false, err
		}
	} else {
		unlock, err := c.lock(ctx, domainLock(o.Owner))
		if err != nil {
			return false, err
		}
		defer unlock()
		if j, err := c.Dir.Load(o.Owner); err != nil || j != nil {
			return false, err // the journal's turn
		}
		if alive, err := c.alive(ctx, o.Owner, ""); err != nil || alive {
			return false, ignore(err, errBusy)
		}
	}
	if c.DryRun {
		return true, nil
	}
	return db.Detach(ctx, o.Name, o.Owner)
}

// deviceGone reports whether a port's device is no more. The helper's and ifup's ports
// are no domain's; their device goes with the guest.
func deviceGone(ctx context.Context, k Kernel, o ovs.Owned) (bool, error) {
	_, err := k.ByName(ctx, o.Name)
	if errors.Is(err, link.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// SweepPorts removes the ports of guests without a domain, the helper's and ifup's,
// whose device is gone. It returns their names.
func SweepPorts(ctx context.Context, k Kernel, db Switch) ([]string, error) {
	owned, err := db.List(ctx)
	errs := []error{err}
	var removed []string
	for _, o := range owned {
		if journal.IsUUID(o.Owner) {
			continue
		}
		gone, err := deviceGone(ctx, k, o)
		if err == nil && gone {
			gone, err = db.Detach(ctx, o.Name, o.Owner)
		}
		errs = append(errs, err)
		if err == nil && gone {
			removed = append(removed, o.Name)
		}
	}
	return removed, errors.Join(errs...)
}
