// Package step has the kinds of things that are done for a guest's NICs, one file each:
// what is done, how, and how it is undone. A step is data. The plan makes it, the journal
// keeps it with what is needed to undo it, and the session alone knows in which order steps
// are done and what was done of them when a process was killed.
//
// A kind sees the host, its own record and, of what it shares with others, whether they
// have it: all that an Env has. It cannot reach another kind, the journal or the order.
package step

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// kinds is the table of kinds: a line each.
func kinds() []Kind {
	return []Kind{
		new(VLAN),
		new(AltName),
		new(Macvtap),
		new(AllMulti),
		new(VF),
		new(Port),
		new(EVB),
		new(VSI),
		new(Tap),
		new(OVSPort),
		new(BridgePort),
		new(LinkUp),
		new(FDB),
	}
}

// Op is an operation of libvirt's hooks (libvirt's docs/hooks.rst; enum virHookQemuOp in
// src/util/virhook.h).
type Op string

// The operations that we do something for. Others are accepted, and nothing is done.
const (
	Prepare   Op = "prepare"
	Start     Op = "start"
	Started   Op = "started"
	Stopped   Op = "stopped"
	Release   Op = "release"
	Migrate   Op = "migrate"
	Restore   Op = "restore"
	Reconnect Op = "reconnect"

	// The network hook's.
	PortCreated Op = "port-created"
	PortDeleted Op = "port-deleted"
)

// A Kind is one kind of step, with what is to be done.
type Kind interface {
	// Type is the kind's name in a journal.
	Type() string
	// Key names what it is about, the same in a plan and in a journal.
	Key() string
	// Resource is what is claimed on this host, and whether others may as well; "" where
	// nothing is left to undo, so that no journal has it.
	Resource() (name string, shared bool)
	// Until is the operation at which it is undone, Stopped or Release.
	Until() Op
	// Does says for a person what Do does, and Undoes what Undo does, "" for nothing.
	Does() string
	Undoes() string
	// Holds names for a person what was made or changed.
	Holds() string
	// Check refuses what a journal cannot rightly hold.
	Check() error

	// Do and Undo are idempotent. The claim to the resource is in the journal before Do,
	// which notes in the kind, and saves by the Env, what Undo will need before it changes
	// anything. When Undo returns nil the entry is dropped; what is gone already is no error.
	Do(ctx context.Context, e *Env) error
	Undo(ctx context.Context, e *Env) error
	// Observe looks how what is held differs from what the host shows.
	Observe(ctx context.Context, k Kernel, o *Observed) error
}

// What only some kinds have to say:

// A Device is a kind that makes a network device, which has our alias.
type Device interface {
	Kind
	Ifindex() int
}

// An Heir has a say in what is taken over from the holder of its resource, whose claim is
// stale. was is nil where that had only claimed it.
type Heir interface {
	Kind
	TakeOver(was Kind, holder journal.Claim) (Kind, journal.Phase, error)
}

// A Settler looks after something before it is undone, whoever has it by then.
type Settler interface {
	Kind
	Settle(ctx context.Context, e *Env) error
}

// A Choice has what can have been chosen freely, so that another will do.
type Choice interface {
	Kind
	IsChosen() bool
}

// A Sharer is a kind whose resource several domains can hold.
type Sharer interface {
	Kind
	// Same says whether another step is about the same thing, and whether one of us has
	// made that.
	Same(Kind) (is, made bool)
}

// A Subject has a name that does not change with what it has become.
type Subject interface {
	Kind
	Subject() string
}

// A Revocable can be undone while the guest runs, when it is wanted no more.
type Revocable interface {
	Kind
	Revocable()
}

// An OnVF is about one virtual function.
type OnVF interface {
	Kind
	Place() link.VFPlace
}

// An Associated has to do with a VSI, which is associated with the switch at a port.
type Associated interface {
	Kind
	AssociatedAt() (port string)
}

// momentary is for kinds of which nothing is left to undo.
type momentary struct{}

func (momentary) Resource() (string, bool)                         { return "", false }
func (momentary) Until() Op                                        { return Release }
func (momentary) Undoes() string                                   { return "" }
func (momentary) Check() error                                     { return errors.New("nothing that could be undone") }
func (momentary) Undo(context.Context, *Env) error                 { return nil }
func (momentary) Observe(context.Context, Kernel, *Observed) error { return nil }

// Step is one thing to do for a NIC. In a journal it is an object with the NIC and, by its
// type, the kind:
//
//	{"nic":"52:54:00:00:00:01","vlan":{"name":"eth0.2","parent":"eth0","id":2}}
type Step struct {
	NIC string // what tells the NIC from the domain's others, nearly always its MAC
	Kind
}

// String says what the step does, for a person.
func (s Step) String() string { return s.Does() }

// SubjectOf is what a step is about, without what it has become.
func SubjectOf(k Kind) string {
	if s, ok := k.(Subject); ok {
		return s.Subject()
	}
	return k.Holds()
}

// MarshalJSON writes a step as a journal has it.
func (s Step) MarshalJSON() ([]byte, error) {
	nic, err := json.Marshal(s.NIC)
	if err != nil {
		return nil, err
	}
	kind, err := json.Marshal(s.Kind)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"nic":%s,%q:%s}`, nic, s.Type(), kind), nil
}

// UnmarshalJSON reads a step of a journal, and refuses what no release has written.
func (s *Step) UnmarshalJSON(text []byte) error {
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	step := Step{}
	if nic, ok := parts["nic"]; ok {
		if err := json.Unmarshal(nic, &step.NIC); err != nil {
			return err
		}
		delete(parts, "nic")
	}
	if len(parts) != 1 {
		return fmt.Errorf("%d things to undo in one step", len(parts))
	}
	name := slices.Collect(maps.Keys(parts))[0]
	all := kinds()
	i := slices.IndexFunc(all, func(k Kind) bool { return k.Type() == name })
	if i < 0 {
		return fmt.Errorf("unknown kind of step %q", name)
	}
	step.Kind = all[i]
	dec := json.NewDecoder(bytes.NewReader(parts[name]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(step.Kind); err != nil {
		return err
	}
	if _, extra := dec.Token(); extra != io.EOF {
		return fmt.Errorf("text behind the step")
	}
	if err := step.Check(); err != nil {
		return err
	}
	*s = step
	return nil
}

// Decode reads a step of a journal.
func Decode(text []byte) (s Step, err error) { return s, json.Unmarshal(text, &s) }
