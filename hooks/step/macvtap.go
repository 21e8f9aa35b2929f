package step

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"libvirt-direct/internal/journal"
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

	// Planned is the index of the lower device for which it was planned, 0 where that is a VLAN
	// still to be made.
	Planned int `json:"-"`
}

func (*Macvtap) Type() string { return "macvtap" }

func (m *Macvtap) Key() string { return "macvtap " + m.Name }

func (m *Macvtap) Resource() (name string, shared bool) { return "link/" + m.Name, false }

func (*Macvtap) Until() Op { return Release }

func (m *Macvtap) Does() string {
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

func (m *Macvtap) Holds() string {
	return fmt.Sprintf("macvtap %s on %s (%s, hook-owned)", m.Name, m.Lower, m.Mode)
}

func (m *Macvtap) Undoes() string { return "remove macvtap " + m.Name }

func (m *Macvtap) Ifindex() int { return m.Index }

func (m *Macvtap) Check() error { return checkNames(m.Name, m.Lower) }

func (m *Macvtap) Observe(ctx context.Context, k Kernel, o *Observed) error {
	return o.silent(ctx, k, m.Index, func(l link.Link, differs differ) {
		differs("name", m.Name, l.Name)
		differs("MAC", m.MAC, l.MAC)
		differs("mode", m.Mode, l.Mode)
		differs("allmulticast", m.AllMulti, l.AllMulti)
	})
}

func (m *Macvtap) Do(ctx context.Context, e *Env) error {
	if e.Op == Reconnect {
		return e.adopt(ctx, "macvtap", m.Name, &m.Index)
	}
	lower, err := e.Kernel.ByName(ctx, m.Lower)
	if err != nil {
		return err
	}
	if m.Planned != 0 && m.Planned != lower.Index {
		return changedMeanwhile(m.Lower)
	}
	if err := e.clearLeftover(ctx, m.Name, "macvtap"); err != nil {
		return err
	}
	// Another namespace's macvtap can take the node between the choice of the index
	// and its use; then another index does.
	for attempt := 1; ; attempt++ {
		if m.Index, err = link.FreeIndex(); err != nil {
			return err
		}
		if err := e.Save(journal.Intended); err != nil {
			return err
		}
		err = m.make(ctx, e.Kernel, lower, e.own())
		if errors.Is(err, link.ErrNodeTaken) && attempt < 3 {
			if err := e.Kernel.Delete(ctx, m.Index); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		e.Event("made macvtap %s on %s (%s)", m.Name, m.Lower, m.Mode)
		return e.Save(journal.Done)
	}
}

// make makes the device. It stays down: until the guest runs nothing must answer for its
// MAC here, which can be at home elsewhere still.
func (m *Macvtap) make(ctx context.Context, k Kernel, lower link.Link, alias string) error {
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
	if err := k.Silence(ctx, m.Index); err != nil {
		return err
	}
	if m.Mode == "passthrough" && m.MAC != lower.MAC { // it was made with the lower device's MAC
		if err := k.SetMAC(ctx, m.Index, m.MAC); err != nil {
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
		return Hint(ErrNotFree, "%s has been given the MAC %s at this moment, by somebody else", m.Lower, made.MAC)
	}
	if made.MAC != m.MAC || made.Mode != m.Mode {
		return fmt.Errorf("%w: %s came out with MAC %s and mode %s", ErrWrongDevice, m.Name, made.MAC, made.Mode)
	}
	if made.Name != m.Name { // libvirt opens it by its name in sysfs; no altname does
		if err := k.SetName(ctx, m.Index, m.Name); err != nil {
			return fmt.Errorf("%s has been renamed %s by another program of this host, see libvirt-direct check: %w", m.Name, made.Name, err)
		}
		made.Name = m.Name
	}
	if _, err := k.TapNode(ctx, made); err != nil {
		return err
	}
	if lower.Up {
		return nil
	}
	return k.SetUp(ctx, lower.Index, true) // as libvirt does for the NICs that it makes
}

func (m *Macvtap) Undo(ctx context.Context, e *Env) error {
	return e.remove(ctx, "macvtap", m.Name, "macvtap", m.Index)
}
