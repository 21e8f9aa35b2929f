package hooks

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"libvirt-direct/internal/link"
)

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

func (m *Macvtap) key() string { return "macvtap " + m.Name }

func (m *Macvtap) resource() (name string, shared bool) { return "link/" + m.Name, false }

func (m *Macvtap) does() string {
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
}

func (m *Macvtap) holds() string {
	return fmt.Sprintf("macvtap %s on %s (%s, hook-owned)", m.Name, m.Lower, m.Mode)
}

func (m *Macvtap) undoes() string { return "remove macvtap " + m.Name }

func (m *Macvtap) index() int { return m.Index }

func (m *Macvtap) device() (what, name string) { return "macvtap", m.Name }

func (m *Macvtap) found(s Step, index int) Step {
	there := *m
	there.Index, s.Macvtap = index, &there
	return s
}

func (m *Macvtap) quiet(ctx context.Context, a *applier, _ Step) error {
	return a.downNow(ctx, m.Index)
}

func (m *Macvtap) quiets() (text string, last bool) { return "take " + m.Name + " down", false }

func (m *Macvtap) check() error { return checkNames(m.Name, m.Lower) }

func (m *Macvtap) compare(ctx context.Context, k Kernel, h *Held) error {
	return h.compareDevice(ctx, k, m.Index, func(l link.Link, differs differ) {
		differs("name", m.Name, l.Name)
		differs("MAC", m.MAC, l.MAC)
		differs("mode", m.Mode, l.Mode)
		differs("allmulticast", m.AllMulti, l.AllMulti)
		differs("up", true, l.Up)
	})
}

func (*Macvtap) do(ctx context.Context, a *applier, s Step) error {
	m := *s.Macvtap
	s.Macvtap = &m
	lower, err := a.kernel.ByName(ctx, m.Lower)
	if err != nil {
		return err
	}
	alias := Mark + " " + a.journal.UUID
	if err := a.clearLeftover(ctx, m.Name, "macvtap", alias); err != nil {
		return err
	}
	// Another namespace's macvtap can take the node between the choice of the index
	// and its use; then another index does.
	for attempt := 1; ; attempt++ {
		if m.Index, err = link.FreeIndex(); err != nil {
			return err
		}
		done, err := a.intend(s)
		if err != nil {
			return err
		}
		err = a.makeMacvtap(ctx, m, lower, alias)
		if errors.Is(err, link.ErrNodeTaken) && attempt < 3 {
			if err := a.kernel.Delete(ctx, m.Index); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		a.note("made macvtap %s on %s (%s)", m.Name, m.Lower, m.Mode)
		return done()
	}
}

// clearLeftover removes a device of that name if it is this domain's own, left by a
// run whose journal was lost. The domain is not running, or it would not start.
func (a *applier) clearLeftover(ctx context.Context, name, kind, alias string) error {
	have, err := a.kernel.ByName(ctx, name)
	switch {
	case errors.Is(err, link.ErrNotFound):
		return nil
	case err != nil:
		return err
	case have.Kind != kind || have.Alias != alias:
		return fmt.Errorf("%w: %s is there and not ours (kind %q); remove or rename it", ErrWrongDevice, name, have.Kind)
	}
	a.note("removed %s, left by an earlier run", name)
	return a.kernel.Delete(ctx, have.Index)
}

func (a *applier) makeMacvtap(ctx context.Context, m Macvtap, lower link.Link, alias string) error {
	k := a.kernel
	if m.MTU > lower.MTU && lower.MTU > 0 {
		return fmt.Errorf("%w: MTU %d is larger than %d of %s", ErrUnsuitable, m.MTU, lower.MTU, m.Lower)
	}
	err := k.AddMacvtap(ctx, link.Macvtap{
		Name: m.Name, Index: m.Index, Lower: lower.Index, Mode: m.Mode, MAC: m.MAC, MTU: m.MTU, Queues: m.Queues,
	})
	if err != nil {
		if uppers, uerr := k.Uppers(ctx, m.Lower); uerr == nil && len(uppers) > 0 {
			return fmt.Errorf("%w: %w (on %s stands %s already)", ErrNotFree, err, m.Lower, uppers[0])
		}
		return err
	}
	if err := k.SetAlias(ctx, m.Index, alias); err != nil {
		return err
	}
	if err := k.DisableIPv6(ctx, m.Name); err != nil {
		return err
	}
	if m.Mode == "passthrough" { // it was made with the lower device's MAC
		if err := a.guestMAC(ctx, m, lower); err != nil {
			return err
		}
	}
	if m.AllMulti {
		if err := k.SetAllMulticast(ctx, m.Index, true); err != nil {
			return err
		}
	}
	made, err := k.ByIndex(ctx, m.Index)
	if err != nil {
		return err
	}
	if m.Mode == "passthrough" && made.MAC != m.MAC {
		return remedy(ErrNotFree, "%s has been given the MAC %s at this moment, by somebody else", m.Lower, made.MAC)
	}
	if made.MAC != m.MAC || made.Mode != m.Mode {
		return fmt.Errorf("%w: %s came out with MAC %s and mode %s", ErrWrongDevice, m.Name, made.MAC, made.Mode)
	}
	if _, err := k.TapNode(ctx, made); err != nil {
		return err
	}
	if !lower.Up { // as libvirt does for the NICs that it makes
		if err := k.SetUp(ctx, lower.Index, true); err != nil {
			return err
		}
	}
	return k.SetUp(ctx, m.Index, true)
}

func (*Macvtap) undo(ctx context.Context, a *applier, s Step) error {
	m := s.Macvtap
	have, err := a.kernel.ByIndex(ctx, m.Index)
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return err
	}
	if err == nil && have.Kind == "macvtap" {
		if err := a.kernel.Delete(ctx, m.Index); err != nil && !errors.Is(err, link.ErrNotFound) {
			return err
		}
		a.note("removed macvtap %s", m.Name)
	}
	return a.drop(s.key())
}
