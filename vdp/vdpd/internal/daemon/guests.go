package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/vdp"
)

// hostSources are those of this host.
func hostSources() sources {
	return sources{vfs: vfMACs, vfOf: vfOf, guest: func(ports []string, id vdp.ID) (bool, error) {
		return guestRuns(journal.Existing(journal.DefaultDir), "/proc", ports, id)
	}}
}

// vfMACs reads the MAC addresses of an interface's VFs.
func vfMACs(ctx context.Context, ifindex int) ([]vdp.MAC, error) {
	c, err := link.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return addressesOf(ctx, c, link.Link{Index: ifindex, Name: "interface " + strconv.Itoa(ifindex)})
}

// vfOf reports whether an interface is a VF of another. Drivers of switches in a NIC do not say
// which addresses their VFs have; that a guest's macvtap is on one of them, sysfs does.
func vfOf(name, port string) (bool, error) {
	_, err := os.Stat(filepath.Join("/sys/class/net", name, "device/physfn/net", port))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// guestRuns reports whether a domain whose journal has a VSI on a port runs. The journal alone
// does not say so: a host's libvirtd may have ended without its hooks. It tells whose guest to
// look for among the processes.
func guestRuns(j *journal.Dir, proc string, ports []string, id vdp.ID) (bool, error) {
	for _, name := range ports {
		claims, err := j.Claims(journal.VSIResource(name, id.String()))
		if err != nil {
			return false, err
		}
		if len(claims.Unreadable) > 0 {
			return false, fmt.Errorf("%w: of domain %s", journal.ErrRead, claims.Unreadable[0])
		}
		for _, c := range claims.All {
			if runs, err := qemuRuns(proc, c.UUID); runs || err != nil {
				return runs, err
			}
		}
	}
	return false, nil
}

// qemuRuns looks for a process of QEMU for a domain: libvirt gives each one its domain's UUID.
func qemuRuns(proc, uuid string) (bool, error) {
	// With hidepid, others' processes cannot be seen.
	if _, err := os.Stat(filepath.Join(proc, "1")); err != nil {
		return false, err
	}
	dirs, err := os.ReadDir(proc)
	if err != nil {
		return false, err
	}
	option := []byte("\x00-uuid\x00" + uuid + "\x00")
	var unreadable error
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		args, err := os.ReadFile(filepath.Join(proc, d.Name(), "cmdline"))
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH): // it has ended
		case err != nil:
			unreadable = err
		case bytes.Contains(args, option):
			return true, nil
		}
	}
	return false, unreadable
}
