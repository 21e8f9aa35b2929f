package hooks

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/journal"
	"libvirt-direct/xmlfilter"
)

// libvirt does not answer for a domain whose hook it runs, and that hook waits for
// the lock that the collector has.
func TestCollectorDoesNotHoldUpAStart(t *testing.T) {
	w := newWorld(t, "", "nica")
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt1"))
	w.must(step.Prepare, doc)
	running := w.kernel.Dump()

	dir, err := journal.Open(w.journal)
	require.NoError(t, err)
	c := &Collector{Kernel: w.kernel, Dir: dir, Alive: func(ctx context.Context, _, _ string) (bool, error) {
		<-ctx.Done()
		return false, ctx.Err()
	}}
	begin := time.Now()
	lines, err := c.Run(t.Context())
	require.NoError(t, err)
	require.Less(t, time.Since(begin), 5*time.Second, "a hook gives up after 10 s")
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "left alone")
	require.Equal(t, running, w.kernel.Dump())
	require.Equal(t, []string{uuidA}, w.journals())
}

func TestDryRunLeavesTheJournalDirectoryAsItIs(t *testing.T) {
	w := newWorld(t, "", "nica")
	c := &Collector{
		Kernel: w.kernel, Dir: w.hook.Journal, DryRun: true,
		Alive: func(context.Context, string, string) (bool, error) { return false, nil },
	}
	_, err := c.Run(t.Context())
	require.NoError(t, err)
	require.NoDirExists(t, w.journal)

	_, err = journal.Open(w.journal)
	require.NoError(t, err)
	file := filepath.Join(w.journal, "domains", uuidA+".json")
	unknown := `{"version":1,"uuid":"` + uuidA + `","name":"x","since":"2026-01-01T00:00:00Z","entries":[{"phase":"done","step":{"nic":"x","exec":"rm"}}]}`
	require.NoError(t, os.WriteFile(file, []byte(unknown), 0o600))
	_, err = c.Run(t.Context())
	require.ErrorIs(t, err, journal.ErrCorrupt)
	require.FileExists(t, file)
}

func TestExplainOfOneOperation(t *testing.T) {
	w := newWorld(t, "", "nica")
	explain := func(op step.Op, doc string) (string, error) {
		var out bytes.Buffer
		d, err := xmlfilter.Parse([]byte(doc))
		require.NoError(t, err)
		host, err := Survey(t.Context(), w.kernel, w.cfg, w.hook.records(), d)
		require.NoError(t, err)
		err = Explain(&out, op, d, w.cfg, host)
		return out.String(), err
	}
	out, err := explain(step.Started, domain(uuidA, "", direct(mac1, "nica", "bridge")))
	require.NoError(t, err)
	require.Contains(t, out, "started:\n  nothing\n")
	_, err = explain(step.Release, domain(uuidA, "", direct(mac1, "nosuch", "bridge")))
	require.ErrorIs(t, err, plan.ErrNoDevice, "what cannot start is not released")
}

// Each claim is shown with what stands for and against it, and one that nobody else can
// end can be dropped by a person, readable or not.
func TestClaimsAreShownAndForgotten(t *testing.T) {
	w := newVFWorld(t)
	a := domain(uuidA, vfWords(mac1, "trust='yes'"), direct(mac1, "vf0", "passthrough"))
	w.must(step.Prepare, a)
	all := func() []ClaimStatus {
		all, err := AllClaims(t.Context(), w.kernel, w.hook.records())
		require.NoError(t, err)
		return all
	}
	vf := "vf/" + hooktest.PFAddress + "/0"
	require.Equal(t, []ClaimStatus{{Resource: vf, UUID: uuidA, Name: "vm a", NIC: mac1, Gen: 1, Phase: journal.Done, Holds: true}}, all())
	w.vfRuns(0, 90, mac1, 0)
	w.must(step.Start, a)
	require.Equal(t, "macvtap90 stands on it", all()[0].Evidence)
	w.vfEnds(0, 90)
	require.True(t, all()[0].Stale, "its NIC was unplugged")
	_, err := w.run(step.Migrate, domain(uuidB, "", direct(mac2, "fast", "passthrough")))
	require.NoError(t, err)
	require.Len(t, all(), 2)
	require.True(t, all()[1].Reserved)

	file := filepath.Join(w.journal, "domains", uuidB+".json")
	require.NoError(t, os.WriteFile(file, []byte("{"), 0o600))
	require.Contains(t, all()[0].Error, "cannot be trusted")
	lost, err := Forget(t.Context(), w.hook.Journal, uuidB)
	require.NoError(t, err)
	require.Contains(t, lost[0], "what it was cannot be read")
	lost, err = Forget(t.Context(), w.hook.Journal, uuidA)
	require.NoError(t, err)
	require.Equal(t, []string{"put VF 0 of ens1f0 back to what it was"}, lost)
	require.Empty(t, all())
	hints, err := w.hook.Journal.Claimed("vf/" + hooktest.PFAddress)
	require.NoError(t, err)
	require.Empty(t, hints)
	_, err = Forget(t.Context(), w.hook.Journal, uuidA)
	require.ErrorIs(t, err, ErrNoJournal)
}

// An older release wrote of a VF that its domain never got, and nothing else.
func TestJournalOfWhichNothingWasTakenOver(t *testing.T) {
	w := newVFWorld(t)
	_, err := journal.Open(w.journal)
	require.NoError(t, err)
	text := `{"version":1,"uuid":"` + uuidA + `","name":"vm","since":"2026-01-01T00:00:00Z","entries":[
		{"phase":"intended","step":{"nic":"` + mac1 + `","vf":{"pf":"0000:03:00.0","number":0,"device":"0000:03:10.0","pf_name":"ens1f0","mac":"` + mac1 + `","want":{},"contested":true}}}]}`
	require.NoError(t, os.WriteFile(filepath.Join(w.journal, "domains", uuidA+".json"), []byte(text), 0o600))
	require.Len(t, w.journals(), 1)
	require.Contains(t, w.gc(false)[0], "nothing was left but the journal")
	require.Empty(t, w.journals())
}
