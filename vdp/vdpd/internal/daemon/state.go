package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpnl"
)

// state is what outlives a restart or crash: the VSIs that are established, or
// were and are being restored. It belongs under /run: after a reboot there is
// no guest that they could be for.
type state struct {
	Version int                    `json:"version"`
	Uplinks map[string]uplinkState `json:"uplinks"` // by name
}

type uplinkState struct {
	Edition vdp.Edition `json:"edition"` // in use
	VSIs    []kept      `json:"vsis"`
}

const stateVersion = 1

// kept is one VSI and who asked for it.
type kept struct {
	VSI    vdp.VSI      `json:"vsi"`
	Mode   vdp.Mode     `json:"mode"`
	Header vdpnl.Header `json:"requester"`
	// Owner is who asked; older releases did not write it.
	Owner control.Owner `json:"owner,omitempty"`
	// Moved: its device is in another network namespace.
	Moved bool `json:"moved,omitempty"`
}

// owner is whose a VSI is. One that nobody is known for is treated as made by hand, and stays.
func (k *kept) owner() control.Owner {
	switch {
	case k.Owner != "":
		return k.Owner
	case k.Header.Pid != 0:
		return control.OwnerLibvirt
	}
	return control.OwnerHand
}

// ErrState: a state file that cannot be understood. Removing it makes vdpd
// start without the VSIs of the last run.
var ErrState = errors.New("bad state file")

func readState(path string) (state, error) {
	s := state{Version: stateVersion, Uplinks: make(map[string]uplinkState)}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%w: %s: %w", ErrState, path, err)
	}
	if s.Version != stateVersion {
		return s, fmt.Errorf("%w: %s: version %d", ErrState, path, s.Version)
	}
	for uplink, u := range s.Uplinks {
		if u.Edition > vdp.Edition2012 {
			return s, fmt.Errorf("%w: %s: edition of %s", ErrState, path, uplink)
		}
		for _, k := range u.VSIs {
			if err := k.VSI.Validate(vdp.EditionAuto); err != nil || k.Mode < vdp.PreAssociate || k.Mode > vdp.Associate {
				return s, fmt.Errorf("%w: %s: VSI %v of %s", ErrState, path, k.VSI.ID, uplink)
			}
		}
	}
	return s, nil
}

// write replaces the file in one step: a crash leaves the old or the new one.
func (s *state) write(path string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if serr := f.Sync(); err == nil {
		err = serr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
