package hooks

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// stopped comes after a prepare that was killed, too, before it had made what it claims.
func TestStoppedLeavesAloneWhatWasOnlyClaimed(t *testing.T) {
	w := newWorld(t, "", "nica")
	j := w.hook.Journal.New(uuidA, "vm a")
	for _, s := range []step.Step{
		{NIC: mac1, Kind: &step.Macvtap{Name: "ldt0", Lower: "nica", Mode: "vepa", MAC: mac1}},
		{NIC: mac2, Kind: &step.Port{VFPlace: link.VFPlace{}, Device: "nica", Profile: "gold", MAC: mac2}},
	} {
		data, err := json.Marshal(s)
		require.NoError(t, err)
		r, shared := s.Resource()
		j.Entries = append(j.Entries, journal.Entry{Resource: r, Shared: shared, Gen: 1, Phase: journal.Planned, Step: data})
	}
	require.NoError(t, w.hook.Journal.Make())
	require.NoError(t, w.hook.Journal.Save(j))
	w.kernel.Gate = func(p hooktest.Point) error {
		require.False(t, p.Change, "%s %s", p.Op, p.What)
		return nil
	}
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook'/>", owned(mac1, "ldt0"))
	w.must(step.Stopped, doc)
	w.must(step.Release, doc)
	require.Empty(t, w.journals())
}

// libvirtd was restarted, or an earlier life's end could not be undone: what the domain has
// made is still its own to remove.
func TestWhatIsFoundAgainIsStillOurs(t *testing.T) {
	for _, op := range []step.Op{step.Reconnect, step.Prepare} {
		t.Run(string(op), func(t *testing.T) {
			w := newWorld(t, twoUplinks, "enpb")
			before := w.dump()
			doc := every()
			w.must(step.Prepare, doc)
			if op == step.Prepare {
				w.fail = func(_ int, op string) error {
					if strings.HasPrefix(op, "remove altname") {
						return link.ErrBusy
					}
					return nil
				}
			}
			w.must(op, doc)
			w.fail = nil
			w.must(step.Stopped, doc)
			w.must(step.Release, doc)
			require.Equal(t, before, w.dump())
			require.Empty(t, w.journals())
		})
	}
}
