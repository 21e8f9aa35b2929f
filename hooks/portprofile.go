package hooks

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

func (p *Port) key() string { return "port " + p.name() }

func (p *Port) resource() (name string, shared bool) {
	if p.PF != "" {
		return fmt.Sprintf("port/%s/%d", p.PF, p.Number), false
	}
	return "port/" + p.Device, false
}

func (p *Port) does() string {
	return fmt.Sprintf("associate port profile %q on %s", p.Profile, p.name())
}

func (p *Port) holds() string { return fmt.Sprintf("port profile %q on %s", p.Profile, p.name()) }

func (p *Port) undoes() string { return "disassociate the port of " + p.name() }

// quiet gives the port back at once, so that the switch has it when the guest starts
// elsewhere.
func (p *Port) quiet(ctx context.Context, a *applier, s Step) error { return p.undo(ctx, a, s) }

func (p *Port) quiets() (text string, last bool) { return p.undoes(), true }

// compare: what the port is like is the switch's to say.
func (p *Port) compare(context.Context, Kernel, *Held) error { return nil }

func (p *Port) check() error {
	switch {
	case !config.ValidIfname(p.Device):
		return fmt.Errorf("device name %q", p.Device)
	case p.PF != "" && !busName.MatchString(p.PF), p.Number < 0, p.Number > 1<<16:
		return fmt.Errorf("VF %d of %q", p.Number, p.PF)
	}
	return nil
}

// link looks the device up whose port it is.
func (a *applier) portLink(ctx context.Context, p *Port) (link.Link, error) {
	switch {
	case p.PF != "":
		return a.kernel.PF(ctx, p.VFPlace)
	case p.Index != 0:
		return a.kernel.ByIndex(ctx, p.Index)
	}
	return a.kernel.ByName(ctx, p.Device)
}

func (*Port) do(ctx context.Context, a *applier, s Step) error {
	p := *s.Port
	s.Port = &p
	if a.acted(s.key()) {
		return nil // a running guest's
	}
	dev, err := a.portLink(ctx, &p)
	if err != nil {
		return err
	}
	p.Index = dev.Index
	want := link.Port{VF: p.number(), Profile: p.Profile, MAC: p.MAC}
	guest, err := hex.DecodeString(strings.ReplaceAll(a.journal.UUID, "-", ""))
	if err != nil || copy(want.Instance[:], guest) != len(want.Instance) {
		return fmt.Errorf("%w: %q", journal.ErrBadUUID, a.journal.UUID)
	}
	done, err := a.intend(s)
	if err != nil {
		return err
	}
	if !dev.Up {
		if err := a.kernel.SetUp(ctx, dev.Index, true); err != nil {
			return err
		}
	}
	if err := a.kernel.AssociatePort(ctx, dev, link.PortAssociate, want); err != nil {
		return err
	}
	a.note("associated port profile %q on %s", p.Profile, p.name())
	return done()
}

func (*Port) undo(ctx context.Context, a *applier, s Step) error {
	dev, err := a.portLink(ctx, s.Port)
	if errors.Is(err, link.ErrNotFound) {
		return a.drop(s.key())
	}
	if err != nil {
		return err
	}
	// A refusal says that there is nothing to give up.
	if err := a.kernel.DisassociatePort(ctx, dev, s.Port.number()); err != nil && !errors.Is(err, link.ErrPortRefused) {
		return err
	}
	a.note("disassociated %s", s.Port.name())
	return a.drop(s.key())
}
