package hooks

import (
	"encoding/json"
	"errors"
	"testing"

	"libvirt-direct/internal/journal"
)

// A step from a journal file is either refused as a whole, or one that can be undone
// without touching anything but what it names.
func FuzzJournalSteps(f *testing.F) {
	for _, s := range []string{
		`{"nic":"52:54:00:00:00:01","vlan":{"name":"eth0.5","parent":"eth0","id":5,"parent_index":2,"index":99,"made":true}}`,
		`{"nic":"52:54:00:00:00:01","altname":{"device":"eth0","name":"lan","index":2,"made":true}}`,
		`{"nic":"52:54:00:00:00:01","macvtap":{"name":"ldt0","lower":"eth0","mode":"vepa","mac":"52:54:00:00:00:01","index":99}}`,
		`{"nic":"52:54:00:00:00:01","vsi":{"port":"eth0","instance":"09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f","manager":1,"type_id":2,"type_version":3,"mac":"52:54:00:00:00:01","vlan":5}}`,
		`{"nic":"52:54:00:00:00:01","tap":{"name":"ldt0","index":99,"queues":2}}`,
		`{"nic":"52:54:00:00:00:01","ovs_port":{"name":"ldt0","bridge":"br0","owner":"` + uuidA + `","vlan":{"tag":5},"await_ovn":true}}`,
		`{"nic":"x"}`, `{"vlan":null}`, `[]`, `{"nic":"x","exec":"rm"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) {
			return // the journal's own reader refuses it
		}
		j := &journal.Journal{UUID: uuidA, Entries: []journal.Entry{{Phase: journal.Done, Step: b}}}
		steps, err := decodeSteps(j)
		if err != nil {
			if !errors.Is(err, journal.ErrCorrupt) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if steps[0].Key() == "" || steps[0].Undoes() == "" {
			t.Fatalf("nothing to undo in %s", b)
		}
	})
}
