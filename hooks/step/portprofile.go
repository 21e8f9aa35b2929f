package step

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// Port is an 802.1Qbh port profile that the switch is asked for: on a VF, or where PF
// is empty on the device itself.
type Port struct {
	link.VFPlace
	Device  string `json:"netdev"` // the PF's network device, or the one itself
	Profile string `json:"profile"`
	MAC     string `json:"mac"`

	Index int `json:"index,omitempty"`
}

func (p *Port) number() int {
	if p.PF == "" {
		return link.SelfPort
	}
	return p.Number
}

func (p *Port) name() string {
	if p.PF == "" {
		return p.Device
	}
	return fmt.Sprintf("VF %d of %s", p.Number, p.Device)
}

func (*Port) Type() string { return "port" }

func (p *Port) Key() string { return "port " + p.name() }

func (p *Port) Resource() (name string, shared bool) {
	if p.PF != "" {
		return fmt.Sprintf("port/%s/%d", p.PF, p.Number), false
	}
	return "port/" + p.Device, false
}

// Until is the moment when the guest is gone: the switch is to have the port free when it
// starts elsewhere.
func (*Port) Until() Op { return Stopped }

func (p *Port) Does() string {
	return fmt.Sprintf("associate port profile %q on %s", p.Profile, p.name())
}

func (p *Port) Holds() string { return fmt.Sprintf("port profile %q on %s", p.Profile, p.name()) }

func (p *Port) Undoes() string { return "disassociate the port of " + p.name() }

// Observe sees nothing: what the port is like is the switch's to say.
func (p *Port) Observe(context.Context, Kernel, *Observed) error { return nil }

func (p *Port) Check() error {
	switch {
	case !config.ValidIfname(p.Device):
		return fmt.Errorf("device name %q", p.Device)
	case p.PF != "" && !busName.MatchString(p.PF), p.Number < 0, p.Number > 1<<16:
		return fmt.Errorf("VF %d of %q", p.Number, p.PF)
	}
	return nil
}

// link looks the device up whose port it is.
func (p *Port) link(ctx context.Context, k Kernel) (link.Link, error) {
	switch {
	case p.PF != "":
		return k.PF(ctx, p.VFPlace)
	case p.Index != 0:
		return k.ByIndex(ctx, p.Index)
	}
	return k.ByName(ctx, p.Device)
}

func (p *Port) Do(ctx context.Context, e *Env) error {
	if e.Acted() {
		return nil // a running guest's
	}
	dev, err := p.link(ctx, e.Kernel)
	if err != nil {
		return err
	}
	p.Index = dev.Index
	want := link.Port{VF: p.number(), Profile: p.Profile, MAC: p.MAC}
	guest, err := hex.DecodeString(strings.ReplaceAll(e.Owner, "-", ""))
	if err != nil || copy(want.Instance[:], guest) != len(want.Instance) {
		return fmt.Errorf("%w: %q", journal.ErrBadUUID, e.Owner)
	}
	if err := e.Save(journal.Intended); err != nil {
		return err
	}
	if !dev.Up {
		if err := e.Kernel.SetUp(ctx, dev.Index, true); err != nil {
			return err
		}
	}
	if err := e.Kernel.AssociatePort(ctx, dev, link.PortAssociate, want); err != nil {
		return err
	}
	e.Event("associated port profile %q on %s", p.Profile, p.name())
	return e.Save(journal.Done)
}

func (p *Port) Undo(ctx context.Context, e *Env) error {
	dev, err := p.link(ctx, e.Kernel)
	if errors.Is(err, link.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	// A refusal says that there is nothing to give up.
	if err := e.Kernel.DisassociatePort(ctx, dev, p.number()); err != nil && !errors.Is(err, link.ErrPortRefused) {
		return err
	}
	e.Event("disassociated %s", p.name())
	return nil
}
