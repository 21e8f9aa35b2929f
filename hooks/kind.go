package hooks

import (
	"context"
	"errors"
	"fmt"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// A kind is one kind of step, in a file of its own: what is to be done for a NIC, how, and
// how it is undone.
type kind interface {
	// key names what it is about, the same in a plan and in a journal.
	key() string
	// resource is what is claimed on this host, and whether others may as well; "" where
	// nothing is left to undo.
	resource() (name string, shared bool)
	// does says for a person what do does, and undoes what undo does, "" for nothing.
	does() string
	undoes() string
	// holds names for a person what was made or changed.
	holds() string
	// check refuses what a journal cannot rightly hold.
	check() error

	// do and undo are idempotent. The claim to the resource is in the journal before do, and
	// what is gone already is no error of undo.
	do(ctx context.Context, a *applier, s Step) error
	undo(ctx context.Context, a *applier, s Step) error
	// compare looks how what is held differs from what the kernel shows.
	compare(ctx context.Context, k Kernel, h *Held) error
}

// momentary is for kinds of which nothing is left to undo.
type momentary struct{}

func (momentary) resource() (string, bool)                     { return "", false }
func (momentary) undoes() string                               { return "" }
func (momentary) check() error                                 { return errors.New("nothing that could be undone") }
func (momentary) undo(context.Context, *applier, Step) error   { return nil }
func (momentary) compare(context.Context, Kernel, *Held) error { return nil }

// nothing is the kind of a step that is about nothing.
type nothing struct{ momentary }

func (nothing) key() string                              { return "" }
func (nothing) does() string                             { return "nothing" }
func (nothing) holds() string                            { return "nothing" }
func (nothing) do(context.Context, *applier, Step) error { return nil }

// What only some kinds have to say:

// A deviceKind makes a network device, which has our mark.
type deviceKind interface {
	kind
	index() int
}

// A nicKind makes the device of a hook-owned NIC, of which QEMU holds a descriptor.
type nicKind interface {
	deviceKind
	// device says what it is, "tap", and its name.
	device() (what, name string)
	// found is the step with the device that is there.
	found(s Step, index int) Step
}

// A quietKind ends before the guest's other things do, at stopped: nothing must answer for
// its MAC any more.
type quietKind interface {
	kind
	quiet(ctx context.Context, a *applier, s Step) error
	// quiets says that for a person; last reports whether nothing is left for release.
	quiets() (text string, last bool)
}

// An heirKind has a say in what is taken over from the holder of its resource, whose claim
// is stale.
type heirKind interface {
	kind
	takeOver(s Step, holder journal.Claim) (Step, journal.Phase, error)
}

// A settlingKind looks after something before it is undone, whoever has it by then.
type settlingKind interface {
	kind
	settle(ctx context.Context, a *applier) error
}

// A chosenKind has what can have been chosen freely, so that another will do.
type chosenKind interface {
	kind
	isChosen() bool
}

// checkNames refuses what is no name of a network device.
func checkNames(names ...string) error {
	for _, n := range names {
		if !config.ValidIfname(n) {
			return fmt.Errorf("device name %q", n)
		}
	}
	return nil
}

// downNow sets a device down, if it is there.
func (a *applier) downNow(ctx context.Context, index int) error {
	return ignore(a.kernel.SetUp(ctx, index, false), link.ErrNotFound)
}
