package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const uuid = "2a6a4a9c-8b2f-4c07-9d37-51a1b2c3d4e5"

func open(t *testing.T) *Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "j"))
	require.NoError(t, err)
	return d
}

func journal(steps ...string) *Journal {
	j := &Journal{UUID: uuid, Name: "vm", Since: time.Unix(1, 0).UTC()}
	for _, s := range steps {
		j.Entries = append(j.Entries, Entry{Resource: "vlan/7/100", Shared: true, Phase: Intended, Step: json.RawMessage(s)})
	}
	return j
}

func TestRoundTrip(t *testing.T) {
	d := open(t)
	j, err := d.Load(uuid)
	require.NoError(t, err)
	require.Nil(t, j)

	require.NoError(t, d.Save(journal(`{"a":1}`)))
	fi, err := os.Stat(filepath.Join(d.Path(), "domains", uuid+".json"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
	fi, err = os.Stat(d.Path())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())

	j, err = d.Load(uuid)
	require.NoError(t, err)
	require.Equal(t, "vm", j.Name)
	require.JSONEq(t, `{"a":1}`, string(j.Entries[0].Step))
	all, err := d.Domains()
	require.NoError(t, err)
	require.Equal(t, []string{uuid}, all)

	j.Entries = nil
	require.NoError(t, d.Save(j))
	require.NoError(t, d.Save(j), "saving nothing twice is no error")
	all, err = d.Domains()
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestUntrustedFilesAreRefusedAndSetAside(t *testing.T) {
	whole := journal(`{}`)
	whole.Version = Version
	text, err := json.Marshal(whole)
	require.NoError(t, err)
	good := string(text)
	entry := func(text string) string {
		return `{"version":3,"uuid":"` + uuid + `","entries":[` + text + `]}`
	}
	for name, c := range map[string]struct {
		data string
		mode os.FileMode
	}{
		"empty":           {"", 0o600},
		"cut off":         {good[:len(good)/2], 0o600},
		"text behind":     {good + "{}", 0o600},
		"no version":      {strings.Replace(good, `"version":3,`, "", 1), 0o600},
		"another domain":  {strings.ReplaceAll(good, uuid, "11111111-8b2f-4c07-9d37-51a1b2c3d4e5"), 0o600},
		"unknown field":   {strings.Replace(good, `"version":3`, `"version":3,"run":"rm"`, 1), 0o600},
		"others write it": {good, 0o666},
		"no step":         {entry(`{"resource":"vlan/7/1","phase":"done"}`), 0o600},
		"unknown phase":   {entry(`{"resource":"vlan/7/1","phase":"x","step":{}}`), 0o600},
		"no resource":     {entry(`{"phase":"done","step":{}}`), 0o600},
		"file elsewhere":  {entry(`{"resource":"vlan/../../../x","phase":"done","step":{}}`), 0o600},
		"ending claim":    {entry(`{"resource":"vlan/7/1","phase":"done","expires":7,"step":{}}`), 0o600},
		"generation":      {entry(`{"resource":"vlan/7/1","phase":"done","gen":-1,"step":{}}`), 0o600},
		"unknown step 1":  {`{"version":1,"uuid":"` + uuid + `","entries":[{"phase":"done","step":{"wlan":{}}}]}`, 0o600},
		"huge":            {strings.Repeat(" ", maxSize+1), 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			file := filepath.Join(d.Path(), "domains", uuid+".json")
			require.NoError(t, os.WriteFile(file, []byte(c.data), 0o600))
			require.NoError(t, os.Chmod(file, c.mode))
			_, err := d.Load(uuid)
			require.ErrorIs(t, err, ErrCorrupt)
			aside, err := d.SetAside(uuid)
			require.NoError(t, err)
			kept, err := os.ReadFile(aside)
			require.NoError(t, err)
			require.Equal(t, c.data, string(kept))
			j, err := d.Load(uuid)
			require.NoError(t, err)
			require.Nil(t, j)
		})
	}
}

// A pipe in a file's place keeps nobody waiting for its other end.
func TestPipesAreErrorsAtOnce(t *testing.T) {
	for _, file := range []string{"domains/" + uuid + ".json", "domains/" + uuid + ".json.new", "claims/vlan/7/100/" + uuid} {
		t.Run(file, func(t *testing.T) {
			d := open(t)
			full := filepath.Join(d.Path(), file)
			require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o700))
			require.NoError(t, syscall.Mkfifo(full, 0o600))
			_, err := d.Load(uuid)
			if err == nil {
				err = d.Save(journal(`{"a":1}`))
			}
			require.Error(t, err)
		})
	}
	d := open(t)
	require.NoError(t, syscall.Mkfifo(filepath.Join(d.Path(), "lock"), 0o600))
	if unlock, err := d.Lock(t.Context(), "x"); err == nil {
		unlock()
	}
}

func TestNewerFormatIsRefusedAndLeftAlone(t *testing.T) {
	d := open(t)
	file := filepath.Join(d.Path(), "domains", uuid+".json")
	// Nobody knows what it will look like, but for its version.
	const text = `{"version":4,"guests":{"a":[1]}}`
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	_, err := d.Load(uuid)
	require.ErrorIs(t, err, ErrNewer)
	require.NotErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "format 4, and this release reads up to 3")
	kept, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, text, string(kept))
	all, err := d.Domains()
	require.NoError(t, err)
	require.Equal(t, []string{uuid}, all)
}

func TestOlderFormatsMigrate(t *testing.T) {
	const first = `{"version":1,"uuid":"` + uuid + `","name":"a","since":"2026-01-01T00:00:00Z","entries":[{"resource":"lan/5","phase":"done","step":{"lan":5}}]}`
	migrate := func(version int, text []byte) ([]byte, error) {
		next := strings.Replace(string(text), fmt.Sprintf(`"version":%d`, version), fmt.Sprintf(`"version":%d`, version+1), 1)
		return []byte(strings.Replace(next, map[int]string{1: `"lan":`, 2: `"vlan":`}[version], map[int]string{1: `"vlan":`, 2: `"vlan_id":`}[version], 1)), nil
	}
	j, err := decode([]byte(first), 3, migrate)
	require.NoError(t, err)
	require.Equal(t, 3, j.Version)
	require.JSONEq(t, `{"vlan_id":5}`, string(j.Entries[0].Step))

	_, err = decode([]byte(strings.Replace(first, `"version":1`, `"version":4`, 1)), 3, migrate)
	require.ErrorIs(t, err, ErrNewer)
}

func TestSweepRemovesWhatAKilledWriterLeft(t *testing.T) {
	d := open(t)
	old, young := filepath.Join(d.Path(), "domains", ".new-1"), filepath.Join(d.Path(), "domains", "x.json.new")
	stray := filepath.Join(d.Path(), "domains", "y.json.new")
	for _, f := range []string{old, young, stray} {
		require.NoError(t, os.WriteFile(f, nil, 0o600))
	}
	for _, f := range []string{old, stray} {
		require.NoError(t, os.Chtimes(f, time.Time{}, time.Now().Add(-time.Hour)))
	}
	require.NoError(t, d.Save(journal(`{}`)))
	empty := filepath.Join(d.Path(), "claims", "vf", "a", "1")
	require.NoError(t, os.MkdirAll(empty, 0o700))
	require.NoError(t, d.Sweep())
	require.NoDirExists(t, filepath.Join(d.Path(), "claims", "vf"))
	require.FileExists(t, filepath.Join(d.Path(), "claims", "vlan", "7", "100", uuid))
	require.NoFileExists(t, old)
	require.NoFileExists(t, stray)
	require.FileExists(t, young, "it may be at work")
	all, err := d.Domains()
	require.NoError(t, err)
	require.Equal(t, []string{uuid}, all)
}

func TestSymlinkIsRefused(t *testing.T) {
	d := open(t)
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(d.Path(), "domains", uuid+".json")))
	_, err := d.Load(uuid)
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestBadUUIDsReachNoFile(t *testing.T) {
	d := open(t)
	for _, u := range []string{"", "../../etc/passwd", strings.ToUpper(uuid), uuid + "/"} {
		_, err := d.Load(u)
		require.ErrorIs(t, err, ErrBadUUID)
		require.ErrorIs(t, d.Save(&Journal{UUID: u}), ErrBadUUID)
	}
}

func TestLockExcludes(t *testing.T) {
	d := open(t)
	ctx := context.Background()
	var wg sync.WaitGroup
	held, most := 0, 0
	var mu sync.Mutex
	for range 8 {
		wg.Go(func() {
			for range 20 {
				unlock, err := d.Lock(ctx, "link-7")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				held++
				most = max(most, held)
				mu.Unlock()
				mu.Lock()
				held--
				mu.Unlock()
				unlock()
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, most)

	unlock, err := d.Lock(ctx, "link-7")
	require.NoError(t, err)
	defer unlock()
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = d.Lock(short, "link-7")
	require.ErrorIs(t, err, ErrLocked)
}

func FuzzDecode(f *testing.F) {
	good, _ := json.Marshal(journal(`{"vlan":{}}`))
	f.Add(good)
	for _, step := range []string{
		`{"vlan":{"id":100,"parent_index":7}}`, `{"vf":{"pf":"0000:03:00.0","number":3,"claim":2,"before":{"trust":true},"own":"02:00:00:00:00:01"}}`,
		`{"vf":{"contested":true}}`, `{"port":{"netdev":"eth0"}}`, `{"x":1}`,
	} {
		f.Add([]byte(`{"version":1,"uuid":"` + uuid + `","entries":[{"phase":"done","step":` + step + `}]}`))
	}
	f.Add([]byte(`{"version":2,"uuid":"` + uuid + `","entries":[{"resource":"link/ldt0","gen":1,"phase":"done","step":{"nic":"x","tap":{"name":"ldt0","index":7}}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := decode(b, Version, migrate)
		if err != nil {
			return
		}
		again, err := json.Marshal(j)
		require.NoError(t, err)
		_, err = decode(again, Version, migrate)
		require.NoError(t, err)
	})
}
