package step

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// Alias is the alias (ip link … alias) of the devices that we make, so that people see whose
// they are and gc finds them when the journal is lost. A hook-owned NIC's device has the
// domain's UUID behind it.
const Alias = "libvirt-direct"

// HelperAlias begins the alias of the helper's taps and macvtaps; who asked for it follows. A VLAN
// sub-interface of the helper's has Alias and more text behind it.
const HelperAlias = "qemu-direct-helper: "

// Host is the host on which steps are done.
type Host struct {
	Kernel Kernel
	// Station connects to the 802.1Qbg station, once.
	Station func(context.Context) (Station, error)
	// Switch connects to Open vSwitch, once. It is nil where that is not to be asked.
	Switch func() Switch
	// Libvirt is the folder in which libvirt keeps its state; it can be nil.
	Libvirt fs.FS
}

// Env is what a step may use while it is done or undone, and all that it may use.
type Env struct {
	Host
	Record
	// Owner is the UUID of the domain.
	Owner string
	// Op is the operation whose plan is applied, "" while only undoing.
	Op Op
}

// Record is what is written down of a step, and of the others that concern it.
type Record interface {
	// Was is the step as the journal has it, and how far it has come.
	Was() (Kind, journal.Phase)
	// Save writes the step with what it has noted, and how far it has come.
	Save(journal.Phase) error
	// Lock takes the lock of a resource, or of a device on which several stand, until the step
	// is done, or its entry is gone.
	Lock(ctx context.Context, name string) error
	// Sharing says who else has the resource of a Sharer.
	Sharing() (Sharing, error)
	// SettleSaved does for a VF that nobody has what libvirt could not, from whose sight its
	// file was kept.
	SettleSaved(ctx context.Context, pf string, number int, dev link.Link) error
	// Event notes what has happened, for the log.
	Event(format string, args ...any)
}

// Sharing is who else has something.
type Sharing struct {
	Others bool // another domain holds it
	Made   bool // one of us has made it, this domain in an earlier life or another one
}

// Acted reports whether the journal has more of the step than its claim.
func (e *Env) Acted() bool {
	_, phase := e.Was()
	return phase != journal.Planned
}

// LinkLock is the lock of a lower device, under which what stands on it is shared out
// between domains.
func LinkLock(index int) string { return "link-" + strconv.Itoa(index) }

// own is the alias of a device of this domain alone.
func (e *Env) own() string { return Alias + " " + e.Owner }

// Observed is what the host shows of a step.
type Observed struct {
	Phase journal.Phase
	// Device is the device as it is, nil when it is gone.
	Device *link.Link
	// Difference says how it is not as the journal has it, "" when it is.
	Difference string
	// Ports lists Open vSwitch's ports; it is nil where that was not asked.
	Ports func() ([]ovs.Owned, error)
}

// halfMade is the difference of what an operation was making when it was killed.
const halfMade = "the hook was stopped while it was made"

// differ notes that something is not as it should be.
type differ func(what string, want, have any)

// device looks a device up and lets f compare it.
func (o *Observed) device(ctx context.Context, k Kernel, index int, f func(l link.Link, differs differ)) error {
	l, err := k.ByIndex(ctx, index)
	if isGone(err) {
		o.Difference = "gone"
		return nil
	}
	if err != nil {
		return err
	}
	o.Device = &l
	f(l, func(what string, want, have any) {
		if o.Difference == "" && want != have {
			o.Difference = fmt.Sprintf("%s is %v, not %v", what, have, want)
		}
	})
	if o.Phase == journal.Intended && o.Difference == "" {
		o.Difference = halfMade
	}
	return nil
}

// silent is device for one that we made. This host is to be no station on it.
func (o *Observed) silent(ctx context.Context, k Kernel, index int, f func(l link.Link, differs differ)) error {
	if err := o.device(ctx, k, index, f); err != nil || o.Device == nil || o.Difference != "" {
		return err
	}
	presence, err := k.Presence(ctx, *o.Device)
	if err != nil || presence == "" {
		return err
	}
	o.Difference = "this host is on it: " + presence
	return nil
}
