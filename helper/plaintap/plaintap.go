// Package plaintap finds out which rules of the helper's give several users a plain TAP device in one bridge: the holder of
// one can take frames that are meant for others. It is for those who look at a host; the helper does not use it.
package plaintap

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/bridgeconf"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/trusted"
)

// Config is where the helper's profiles are.
const Config = policy.Path

// Profiles returns the names of the profiles that give plain TAP devices to more than one user. A host without Config has
// none. An error is why the helper refuses every profile, or fs.ErrPermission.
func Profiles() ([]string, error) {
	b, err := trusted.Read(policy.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return profiles(b)
}

func profiles(text []byte) ([]string, error) {
	c, err := policy.Parse(text)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range c.Profiles {
		if p := &c.Profiles[i]; p.Kind != policy.Macvtap && p.Device == policy.Plain && shared(p.Allow) {
			names = append(names, p.Name)
		}
	}
	return names, nil
}

// shared reports whether more than one user may match. A group has one member or many; a user who is listed twice is one
// all the same, but not worth a look-up.
func shared(allow []policy.Subject) bool {
	if len(allow) > 1 {
		return true
	}
	return len(allow) == 1 && allow[0].Kind != policy.UID && allow[0].Kind != policy.User
}

// ACLs returns the files with allow lines for bridges, whose TAP devices are plain and for everybody who may read the
// file: bridge.conf and what it includes. A host without bridge.conf has none. An error is why the helper refuses every
// bridge, or fs.ErrPermission.
func ACLs() ([]string, error) {
	files, err := bridgeconf.Allowing(asMyself{}, bridgeconf.Paths)
	if errors.Is(err, fs.ErrNotExist) && !anyExists(bridgeconf.Paths) {
		err = nil
	}
	return files, err
}

func anyExists(paths []string) bool {
	for _, p := range paths {
		if _, err := os.Lstat(p); err == nil {
			return true
		}
	}
	return false
}

// asMyself reads with the rights of the process. What it may not read it does not know.
type asMyself struct{}

func (asMyself) ReadAsCaller(path string) ([]byte, error) { return trusted.Read(path) }

func (asMyself) ReadAsRoot(path string) ([]byte, error) {
	b, err := trusted.Read(path)
	if errors.Is(err, unix.EACCES) {
		return nil, nil
	}
	return b, err
}
