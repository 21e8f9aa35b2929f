package hooks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"libvirt-direct/internal/journal"
)

// Step is one thing to do for a NIC, as data: Plan makes it, explain prints it, the
// journal keeps it with what is needed to undo it. Exactly one of its pointers is
// set.
type Step struct {
	NIC string `json:"nic"` // the NIC's MAC, for messages

	VLAN       *VLAN       `json:"vlan,omitempty"`
	AltName    *AltName    `json:"altname,omitempty"`
	Macvtap    *Macvtap    `json:"macvtap,omitempty"`
	AllMulti   *AllMulti   `json:"allmulti,omitempty"`
	VF         *VF         `json:"vf,omitempty"`
	Port       *Port       `json:"port,omitempty"`
	EVB        *EVB        `json:"evb,omitempty"`
	VSI        *VSI        `json:"vsi,omitempty"`
	Tap        *Tap        `json:"tap,omitempty"`
	OVSPort    *OVSPort    `json:"ovs_port,omitempty"`
	BridgePort *BridgePort `json:"bridge_port,omitempty"`
}

// kinds are those pointers of the step that are set.
func (s Step) kinds() []kind {
	var set []kind
	add := func(is bool, k kind) {
		if is {
			set = append(set, k)
		}
	}
	add(s.VLAN != nil, s.VLAN)
	add(s.AltName != nil, s.AltName)
	add(s.Macvtap != nil, s.Macvtap)
	add(s.AllMulti != nil, s.AllMulti)
	add(s.VF != nil, s.VF)
	add(s.Port != nil, s.Port)
	add(s.EVB != nil, s.EVB)
	add(s.VSI != nil, s.VSI)
	add(s.Tap != nil, s.Tap)
	add(s.OVSPort != nil, s.OVSPort)
	add(s.BridgePort != nil, s.BridgePort)
	return set
}

// kind is what the step is about.
func (s Step) kind() kind {
	if set := s.kinds(); len(set) > 0 {
		return set[0]
	}
	return nothing{}
}

func (s Step) resource() (name string, shared bool) { return s.kind().resource() }

func (s Step) key() string { return s.kind().key() }

// String says what the step does, for a person.
func (s Step) String() string { return s.kind().does() }

// Thing names what the step made or changed, for a person.
func (s Step) Thing() string { return s.kind().holds() }

// subject is what the step is about, without what it has become.
func (s Step) subject() string {
	if k, ok := s.kind().(interface{ subject() string }); ok {
		return k.subject()
	}
	return s.Thing()
}

// undoString says what undoing the step does.
func (s Step) undoString() string { return s.kind().undoes() }

// check refuses a step that a journal cannot rightly hold.
func (s Step) check() error {
	set := s.kinds()
	if len(set) != 1 {
		return fmt.Errorf("%d things to undo in one step", len(set))
	}
	return set[0].check()
}

// readSteps loads a domain's journal and reads its steps; without one both are nil.
func readSteps(dir *journal.Dir, uuid string) (*journal.Journal, []Step, error) {
	j, err := dir.Load(uuid)
	if err != nil || j == nil {
		return nil, nil, err
	}
	steps, err := decodeSteps(j)
	return j, steps, err
}

// decodeSteps reads the steps of a journal. A step that it does not understand
// makes the whole journal one that cannot be trusted.
func decodeSteps(j *journal.Journal) ([]Step, error) {
	steps := make([]Step, len(j.Entries))
	for i, e := range j.Entries {
		var err error
		if steps[i], err = decodeStep(e.Step); err != nil {
			return nil, fmt.Errorf("%w: domain %s, step %d: %w", journal.ErrCorrupt, j.UUID, i, err)
		}
	}
	return steps, nil
}

func decodeStep(text []byte) (s Step, err error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return s, err
	}
	if _, extra := dec.Token(); extra != io.EOF {
		return s, fmt.Errorf("text behind the step")
	}
	return s, s.check()
}
