package journal

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const other = "3b6a4a9c-8b2f-4c07-9d37-51a1b2c3d4e5"

// claims saves a journal with claims to resources.
func claims(t *testing.T, d *Dir, uuid string, entries ...Entry) *Journal {
	t.Helper()
	j := d.New(uuid, "vm "+uuid[:1])
	for _, e := range entries {
		if e.Phase == "" {
			e.Phase = Done
		}
		e.Step = json.RawMessage(`{}`)
		j.Entries = append(j.Entries, e)
	}
	require.NoError(t, d.Save(j))
	return j
}

// files lists what lies in a journal directory.
func files(t *testing.T, d *Dir) []string {
	t.Helper()
	var all []string
	require.NoError(t, filepath.Walk(d.Path(), func(path string, fi os.FileInfo, err error) error {
		if err == nil && !fi.IsDir() {
			name, _ := filepath.Rel(d.Path(), path)
			all = append(all, name)
		}
		return err
	}))
	return all
}

func TestTheHighestGenerationHolds(t *testing.T) {
	const vf = "vf/0000:03:00.0/3"
	for _, c := range []struct {
		mine, theirs int
		holder       string
	}{{1, 2, "vm 3"}, {2, 1, "vm 2"}, {0, 0, ""}, {3, 3, ""}} {
		t.Run(fmt.Sprint(c.mine, c.theirs), func(t *testing.T) {
			d := open(t)
			claims(t, d, uuid, Entry{Resource: vf, Gen: c.mine})
			claims(t, d, other, Entry{Resource: vf, Gen: c.theirs})
			all, err := d.Claims(vf)
			require.NoError(t, err)
			require.Len(t, all.All, 2)
			holder, held := all.Holder("")
			require.Equal(t, c.holder != "", held)
			if held {
				require.Equal(t, c.holder, holder.Name)
			}
			require.Equal(t, c.theirs >= c.mine, all.Beaten(uuid, c.mine))
			require.Equal(t, max(c.mine, c.theirs), all.Highest())
			mine, err := d.Claims("vf/0000:03:00.0/4")
			require.NoError(t, err)
			require.Empty(t, mine.All)
		})
	}
}

func TestReservationsEnd(t *testing.T) {
	d := open(t)
	now := time.Hour
	d.Clock = func() time.Duration { return now }
	claims(t, d, uuid, Entry{Resource: "vf/a/1", Gen: 1, Phase: Planned, Expires: now + time.Minute})
	all, err := d.Claims("vf/a/1")
	require.NoError(t, err)
	require.Len(t, all.All, 1)
	now += 2 * time.Minute
	all, err = d.Claims("vf/a/1")
	require.NoError(t, err)
	require.Empty(t, all.All)
}

// A hint can be stale and is never missing; what is left of one goes.
func TestHints(t *testing.T) {
	d := open(t)
	j := claims(t, d, uuid, Entry{Resource: "vf/a/1", Gen: 1}, Entry{Resource: "altname/storage", Shared: true})
	claimed, err := d.Claimed("vf/a")
	require.NoError(t, err)
	require.Equal(t, []string{"vf/a/1"}, claimed)
	j.Entries = j.Entries[:1]
	require.NoError(t, d.Save(j))
	require.Equal(t, []string{"claims/.indexed", "claims/vf/a/1/" + uuid, "domains/" + uuid + ".json"}, files(t, d))

	require.NoError(t, d.files.Touch("claims/vf/a/2/"+uuid)) // killed before it wrote that
	all, err := d.Claims("vf/a/2")
	require.NoError(t, err)
	require.Empty(t, all.All)
	stale, err := d.StaleHints()
	require.NoError(t, err)
	require.Equal(t, []Hint{{"vf/a/2", uuid}}, stale)
	require.NoError(t, d.RemoveHint(Hint{"vf/a/1", uuid}), "it is not stale, and stays")
	require.NoError(t, d.RemoveHint(stale[0]))

	j.Entries = nil
	require.NoError(t, d.Save(j))
	require.Equal(t, []string{"claims/.indexed"}, files(t, d))
}

// Journals of a release that made no hints are found, before and after they get some.
func TestJournalsWithoutHintsAreFound(t *testing.T) {
	d := Existing(filepath.Join(t.TempDir(), "j"))
	require.NoError(t, d.files.Make())
	const old = `{"version":1,"uuid":"` + uuid + `","name":"vm","since":"2026-01-01T00:00:00Z","entries":[
		{"phase":"done","step":{"nic":"x","vf":{"pf":"0000:03:00.0","number":3,"claim":2,"before":{"trust":false},"own":"02:00:00:00:00:01"}}},
		{"phase":"intended","step":{"nic":"x","vf":{"pf":"0000:03:00.0","number":4,"contested":true}}}]}`
	require.NoError(t, os.WriteFile(filepath.Join(d.Path(), "domains", uuid+".json"), []byte(old), 0o600))
	for range 2 {
		all, err := d.Claims("vf/0000:03:00.0/3")
		require.NoError(t, err)
		require.Len(t, all.All, 1)
		require.True(t, all.All[0].Started)
		require.Equal(t, 2, all.All[0].Gen)
		require.JSONEq(t, `{"nic":"x","vf":{"pf":"0000:03:00.0","number":3,"managed":true,"set":true,
			"baseline":{"settings":{"trust":false},"own":"02:00:00:00:00:01"}}}`, string(all.All[0].Step))
		all, err = d.Claims("vf/0000:03:00.0/4")
		require.NoError(t, err)
		require.Empty(t, all.All, "who was refused has never had it")
		claimed, err := d.Claimed("vf/0000:03:00.0")
		require.NoError(t, err)
		require.Equal(t, []string{"vf/0000:03:00.0/3"}, claimed)
		require.NoError(t, d.Make())
	}
	require.Contains(t, files(t, d), "claims/vf/0000:03:00.0/3/"+uuid)
}

// What cannot be read is known to claim what its hints say, and is not set aside.
func TestUnreadableJournalsClaim(t *testing.T) {
	d := open(t)
	claims(t, d, uuid, Entry{Resource: "vf/a/1", Gen: 1})
	file := filepath.Join(d.Path(), "domains", uuid+".json")
	require.NoError(t, os.Remove(file))
	require.NoError(t, os.Mkdir(file, 0o700)) // reading it is EISDIR
	_, err := d.Load(uuid)
	require.Error(t, err)
	all, err := d.Claims("vf/a/1")
	require.NoError(t, err)
	require.Equal(t, []string{uuid}, all.Unreadable)
}

func TestBadResourcesReachNoFile(t *testing.T) {
	d := open(t)
	for _, r := range []string{"", "vf", "vf/", "vf/../x", "vf//1", "/etc/x", "vf/\x00"} {
		_, err := d.Claims(r)
		require.ErrorIs(t, err, ErrBadResource, r)
	}
}

// Nothing piles up: a journal directory that nothing is held in has four files at most.
func TestNothingPilesUp(t *testing.T) {
	d := open(t)
	for i := range 50 {
		unlock, err := d.Lock(t.Context(), fmt.Sprintf("link-%d", i))
		require.NoError(t, err)
		j := claims(t, d, uuid, Entry{Resource: fmt.Sprintf("vf/a/%d", i), Gen: 1})
		j.Entries = nil
		require.NoError(t, d.Save(j))
		unlock()
	}
	require.Equal(t, []string{"claims/.indexed", "lock"}, files(t, d))
}

// The first two guests after a boot start at once.
func TestTwoMakeTheFolderAtOnce(t *testing.T) {
	for range 200 {
		dir := t.TempDir()
		errs := make(chan error)
		for range 8 {
			go func() {
				d, err := Open(dir)
				if err == nil {
					err = d.Make()
				}
				errs <- err
			}()
		}
		for range 8 {
			require.NoError(t, <-errs)
		}
	}
}
