package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpnl"
)

// A state is what outlives a restart or crash, by the uplink's name: the VSIs
// that are established, or were and are being restored. It belongs under /run:
// after a reboot there is no guest that they could be for.
//
// Its file has one JSON object on a line. The first is a stateHeader, the
// others are records in the order in which things happened. What is after the
// last line break is a record that a crash has cut off.
type state map[string]*uplinkState

type uplinkState struct {
	uplinkInfo
	vsis map[vdp.ID]kept
}

// uplinkInfo is what is saved of an uplink beside its VSIs.
type uplinkInfo struct {
	Edition  vdp.Edition   `json:"edition"`            // in use
	Neighbor *vdp.Neighbor `json:"neighbor,omitempty"` // the switch
}

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

type stateHeader struct {
	Version int `json:"version"`
}

const stateVersion = 2

// A record is a change of an uplink. One of the pointers is set.
type record struct {
	Uplink string      `json:"uplink"`
	Info   *uplinkInfo `json:"info,omitempty"`
	Set    *kept       `json:"set,omitempty"`  // a VSI, new or changed
	Gone   *vdp.ID     `json:"gone,omitempty"` // a VSI that is kept no longer
}

// stateV1 is the whole of a file of version 1.
type stateV1 struct {
	Uplinks map[string]struct {
		uplinkInfo
		VSIs []kept `json:"vsis"`
	} `json:"uplinks"`
}

var (
	// ErrState: a state file that cannot be understood. Removing it makes vdpd
	// start without the VSIs of the last run.
	ErrState = errors.New("bad state file")
	// ErrStateVersion: a state file that only a newer vdpd can read.
	ErrStateVersion = errors.New("state file of a newer vdpd")
)

// readState reads a state file and changes nothing. One that does not exist is
// empty.
func readState(path string) (state, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return make(state), nil
	}
	if err != nil {
		return nil, err
	}
	s, err := parseState(b)
	switch {
	case errors.Is(err, ErrStateVersion):
		return nil, fmt.Errorf("%w: %s", err, path)
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrState, path, err)
	}
	return s, nil
}

// parseState reads the contents of a state file, of any version up to ours.
func parseState(b []byte) (state, error) {
	var h stateHeader
	// The first value only: version 1 has all in it, later ones have lines.
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&h); err != nil {
		return nil, err
	}
	switch {
	case h.Version == 1:
		return parseV1(b)
	case h.Version > stateVersion:
		return nil, fmt.Errorf("%w: version %d, this vdpd knows %d", ErrStateVersion, h.Version, stateVersion)
	case h.Version != stateVersion:
		return nil, fmt.Errorf("version %d", h.Version)
	}
	s := make(state)
	for n := 1; ; n++ {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if !whole {
			return s, nil
		}
		b = rest
		if n == 1 {
			if err := json.Unmarshal(line, &h); err != nil {
				return nil, fmt.Errorf("line 1: %w", err)
			}
			continue
		}
		var r record
		err := json.Unmarshal(line, &r)
		if err == nil {
			err = r.check()
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		s.apply(&r)
	}
}

func parseV1(b []byte) (state, error) {
	var old stateV1
	if err := json.Unmarshal(b, &old); err != nil {
		return nil, err
	}
	s := make(state)
	for name, u := range old.Uplinks {
		records := []record{{Uplink: name, Info: &u.uplinkInfo}}
		for i := range u.VSIs {
			records = append(records, record{Uplink: name, Set: &u.VSIs[i]})
		}
		for i := range records {
			if err := records[i].check(); err != nil {
				return nil, err
			}
			s.apply(&records[i])
		}
	}
	return s, nil
}

// check says why a record cannot be one of ours.
func (r *record) check() error {
	set := 0
	if i := r.Info; i != nil {
		set++
		if i.Edition > vdp.Edition2012 {
			return fmt.Errorf("edition of %q", r.Uplink)
		}
	}
	if k := r.Set; k != nil {
		set++
		if err := k.VSI.Validate(vdp.EditionAuto); err != nil || k.Mode < vdp.PreAssociate || k.Mode > vdp.Associate {
			return fmt.Errorf("VSI %v of %q", k.VSI.ID, r.Uplink)
		}
	}
	if r.Gone != nil {
		set++
	}
	if set != 1 {
		return fmt.Errorf("%d changes of %q, want one", set, r.Uplink)
	}
	return nil
}

// key names what the record is about.
func (r *record) key() savedKey {
	switch {
	case r.Set != nil:
		return savedKey{r.Uplink, r.Set.VSI.ID}
	case r.Gone != nil:
		return savedKey{r.Uplink, *r.Gone}
	}
	return savedKey{uplink: r.Uplink}
}

// apply makes the change.
func (s state) apply(r *record) {
	u := s[r.Uplink]
	if u == nil {
		u = &uplinkState{vsis: make(map[vdp.ID]kept)}
		s[r.Uplink] = u
	}
	switch {
	case r.Info != nil:
		u.uplinkInfo = *r.Info
	case r.Set != nil:
		u.vsis[r.Set.VSI.ID] = *r.Set
	default:
		delete(u.vsis, *r.Gone)
	}
}

func appendLine(b []byte, v any) ([]byte, error) {
	line, err := json.Marshal(v)
	return append(append(b, line...), '\n'), err
}
