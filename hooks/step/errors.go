package step

import (
	"errors"
	"fmt"
	"regexp"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrWrongDevice: a device of that name is there, but it is another one.
	ErrWrongDevice = errors.New("another device has that name")
	// ErrUnsuitable: the settings do not fit the kind of NIC.
	ErrUnsuitable = errors.New("does not fit this NIC")
	// ErrInUse: another guest has the device.
	ErrInUse = errors.New("in use by another guest")
	// ErrNotFree: somebody on this host who is no guest of ours has the device.
	ErrNotFree = errors.New("in use on this host")
	// ErrNoStation: neither vdpd nor lldpad runs.
	ErrNoStation = errors.New("no 802.1Qbg station runs on this host: systemctl start vdpd")
	// ErrNotYet: the port has no link, or the switch has not agreed to EVB yet.
	ErrNotYet = errors.New("the switch is not ready")
	// ErrLater: what is to be put back is in the hands of somebody who made no claim. It is
	// left alone, and stays owed until it is free.
	ErrLater = errors.New("left alone until it is free")
)

// Hint is an error with what to do about it, on one line.
func Hint(kind error, format string, args ...any) error {
	return fmt.Errorf("%w: %s", kind, fmt.Sprintf(format, args...))
}

// Ignore returns err unless it is one of kinds, which then is no error.
func Ignore(err error, kinds ...error) error {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return nil
		}
	}
	return err
}

// changedMeanwhile is the error of a step for a device that is not the one for which it was planned.
func changedMeanwhile(name string) error {
	return Hint(ErrWrongDevice, "%s has changed since the start was planned; try again", name)
}

func isGone(err error) bool { return errors.Is(err, link.ErrNotFound) }

// checkNames refuses what is no name of a network device.
func checkNames(names ...string) error {
	for _, n := range names {
		if !config.ValidIfname(n) {
			return fmt.Errorf("device name %q", n)
		}
	}
	return nil
}

// busName is a device's name on its bus.
var busName = regexp.MustCompile(`^[0-9A-Za-z:._-]{1,64}$`)
