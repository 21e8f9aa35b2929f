package daemon

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdpnl"
)

// v1 is a file as vdpd wrote it before there were lines.
const v1 = `{"version":1,"uplinks":{"eth0":{"edition":1,"vsis":[{"vsi":{"ID":{"Format":5,` +
	`"Octets":[250,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1]},"Manager":[12,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],` +
	`"TypeID":1193046,"TypeVersion":1,"FilterFormat":2,"Filters":[{"Group":0,"MAC":[82,84,0,0,0,1],` +
	`"VID":100,"PCPValid":false,"PCP":0}]},"mode":3,"requester":{"Type":19,"Seq":1,"Pid":42}}]}}}`

func testKept(n byte) kept {
	return kept{VSI: testVSI(n), Mode: vdp.Associate, Header: vdpnl.Header{Type: 19, Seq: 1, Pid: 42}}
}

func TestStateVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	s, err := readState(path)
	require.NoError(t, err)
	require.Empty(t, s)

	want := state{"eth0": {uplinkInfo{Edition: vdp.EditionDraft}, map[vdp.ID]kept{testVSI(1).ID: testKept(1)}}}
	require.NoError(t, os.WriteFile(path, []byte(v1), 0o600))
	s, err = readState(path)
	require.NoError(t, err)
	require.Equal(t, want, s)

	// It is converted by the first that writes it.
	b := newBench(t, vdp.EditionDraft)
	w := newSaver(path, s, b.d.log)
	go w.run()
	w.close()
	now, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(now, []byte("{\"version\":2}\n")), "%s", now)
	s, err = readState(path)
	require.NoError(t, err)
	require.Equal(t, want, s)
	files, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, files, 1, "no temporary file is left")

	set, err := appendLine(nil, record{Uplink: "e", Set: &kept{VSI: testVSI(1)}})
	require.NoError(t, err)
	for _, bad := range []string{
		"", "{", "null", "{}", `{"version":0}`, `{"version":-1}`,
		`{"version":1,"uplinks":{"e":{"vsis":[{"mode":3}]}}}`, `{"version":1,"uplinks":{"e":{"edition":9}}}`, v1 + v1,
		"{\"version\":2}\n\n", "{\"version\":2} {}\n", "{\"version\":2}\n{}\n", "{\"version\":2}\n" + string(set),
		"{\"version\":2}\n{\"uplink\":\"e\"}\n", "{\"version\":2}\n{\"uplink\":\"e\",\"info\":{\"edition\":3}}\n",
		"{\"version\":2}\nx\n{\"uplink\":\"e\",\"info\":{\"edition\":1}}\n",
	} {
		require.NoError(t, os.WriteFile(path, []byte(bad), 0o600))
		_, err := readState(path)
		require.ErrorIs(t, err, ErrState, bad)
		require.ErrorContains(t, err, path)
	}
}

// A file that only a newer vdpd can read is refused by name, and nothing is
// changed: no file, no socket, no pid file.
func TestStateOfNewerVersion(t *testing.T) {
	dir := t.TempDir()
	c := Config{
		StateFile: filepath.Join(dir, "state.json"), PidFile: filepath.Join(dir, "pid"),
		ControlSocket: filepath.Join(dir, "run", "control"), Uplinks: []Uplink{{Name: "eth0"}},
	}
	newer := "{\"version\":3,\"compressed\":true}\n\x00\x01"
	require.NoError(t, os.WriteFile(c.StateFile, []byte(newer), 0o640))
	require.NoError(t, os.WriteFile(c.PidFile, []byte("4194305\n"), 0o600))
	d := &Daemon{cfg: c, log: newBench(t, vdp.Edition2012).d.log}
	err := d.open()
	require.ErrorIs(t, err, ErrStateVersion)
	require.ErrorContains(t, err, "version 3, this vdpd knows 2: "+c.StateFile)
	files := make(map[string]string)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = string(b)
	}
	require.Equal(t, map[string]string{"state.json": newer, "pid": "4194305\n"}, files)
}

// What a crash has cut off, wherever, is a record that is not there yet.
func TestStateCutAnywhere(t *testing.T) {
	path := filepath.Join(memoryDir(t), "state.json")
	f := newFile(path)
	require.NoError(t, f.save(nil))
	s := make(state)
	states := []state{{}}
	for _, r := range []record{
		{Uplink: "eth0", Info: &uplinkInfo{Edition: vdp.Edition2012}}, {Uplink: "eth0", Set: ptr(testKept(1))},
		{Uplink: "eth1", Set: ptr(testKept(1))}, {Uplink: "eth0", Gone: ptr(testVSI(1).ID)}, {Uplink: "eth0", Set: ptr(testKept(2))},
	} {
		require.NoError(t, f.save([]record{r}))
		s.apply(&r)
		now := make(state)
		for name, u := range s {
			now[name] = &uplinkState{u.uplinkInfo, maps.Clone(u.vsis)}
		}
		states = append(states, now)
	}
	require.NoError(t, f.close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	header := bytes.IndexByte(whole, '\n') + 1
	for n := header; n <= len(whole); n++ {
		require.NoError(t, os.WriteFile(path, whole[:n], 0o600))
		want := states[bytes.Count(whole[header:n], []byte("\n"))]
		s, err := readState(path)
		require.NoError(t, err)
		require.Equal(t, want, s, n)
		// The next vdpd does not write behind what was cut.
		next := newSaver(path, s, nil)
		go next.run()
		next.info("eth9", uplinkInfo{Edition: vdp.EditionDraft})
		next.close()
		again, err := readState(path)
		require.NoError(t, err, n)
		for name, u := range s {
			require.Equal(t, u, again[name])
		}
		require.Equal(t, vdp.EditionDraft, again["eth9"].Edition)
	}
}

func newFile(path string) stateFile { return stateFile{path: path, live: make(map[savedKey][]byte)} }

func ptr[T any](v T) *T { return &v }

// The file stays in proportion to what is kept, however often that changes.
func TestStateFileIsCompacted(t *testing.T) {
	path := filepath.Join(memoryDir(t), "state.json")
	f, want := newFile(path), make(state)
	defer f.close()
	r := rand.New(rand.NewPCG(1, 2))
	longest := 0
	for range 20 * minDead {
		k := testKept(byte(r.IntN(40)))
		c := record{Uplink: "eth0", Set: &k}
		if r.IntN(3) == 0 {
			c = record{Uplink: "eth0", Gone: &k.VSI.ID}
		}
		require.NoError(t, f.save([]record{c}))
		want.apply(&c)
		longest = max(longest, f.lines)
		require.GreaterOrEqual(t, f.lines, len(f.live))
	}
	require.LessOrEqual(t, longest, 42+minDead)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, f.lines, bytes.Count(b, []byte("\n"))-1)
	s, err := readState(path)
	require.NoError(t, err)
	require.Equal(t, want, s)
	require.Equal(t, len(s["eth0"].vsis), len(f.live))
}

// A file that was removed, replaced or could not be written is written anew,
// with everything that was not saved meanwhile.
func TestStateFileAfterTrouble(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	path := filepath.Join(dir, "state.json")
	f, want := newFile(path), make(state)
	n := byte(0)
	save := func() error {
		n++
		r := record{Uplink: "eth0", Set: ptr(testKept(n))}
		want.apply(&r)
		return f.save([]record{r})
	}
	saved := func() {
		t.Helper()
		s, err := readState(path)
		require.NoError(t, err)
		require.Equal(t, want, s)
	}
	require.Error(t, save(), "there is no such folder")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, save())
	saved()
	require.NoError(t, os.Remove(path))
	require.NoError(t, save())
	saved()
	require.NoError(t, os.WriteFile(path+".other", nil, 0o600))
	require.NoError(t, os.Rename(path+".other", path))
	require.NoError(t, save())
	saved()
	require.NoError(t, f.f.Close(), "as if the disk was full")
	require.NoError(t, save())
	saved()
	require.NoError(t, f.close())
}

// While the disk hangs, changes wait in no more room than the VSIs need.
func TestSaverWhileDiskHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	s := newSaver(path, make(state), newBench(t, vdp.Edition2012).d.log) // run has not begun
	p := newPort(Uplink{Name: "eth0"}, uplinkState{}, s.log)
	p.saver = s
	v := testVSI(0)
	for i := range 100000 {
		v.ID.Octets[8], v.ID.Octets[9] = byte(i>>8), byte(i)
		p.keep(kept{VSI: v, Mode: vdp.PreAssociate})
		p.keep(kept{VSI: v, Mode: vdp.Associate})
		p.forget(v.ID)
		p.forget(v.ID)
	}
	require.Empty(t, s.vsis)
	for i := range byte(3) {
		p.keep(testKept(i))
	}
	s.take() // what run has under way
	p.forget(testVSI(0).ID)
	p.keep(testKept(0))
	p.forget(testVSI(0).ID)
	p.forget(testVSI(1).ID)
	p.keep(testKept(1))
	p.forget(testVSI(9).ID)
	require.Equal(t, map[savedKey]change{
		{"eth0", testVSI(0).ID}: {gone: true}, {"eth0", testVSI(1).ID}: {kept: testKept(1)},
	}, s.vsis)
}

// childVariable makes TestKilledWhileSaving the process that is to be killed.
const childVariable = "VDPD_TEST_SAVE"

// A process that is killed while it saves, at any moment, leaves a file that
// can be read, and in which each VSI is as it was at some time: what was saved
// is not older than what was there before.
func TestKilledWhileSaving(t *testing.T) {
	const vsis = 100
	if path := os.Getenv(childVariable); path != "" {
		s, err := readState(path)
		require.NoError(t, err)
		p := newPort(Uplink{Name: "eth0"}, uplinkState{}, newBench(t, vdp.Edition2012).d.log)
		from := 0
		if u := s["eth0"]; u != nil {
			p.kept = maps.Clone(u.vsis)
		}
		for _, k := range p.kept {
			from = max(from, int(k.VSI.TypeID)+1)
		}
		p.saver = newSaver(path, s, p.log)
		go p.saver.run()
		for i := from; ; i++ {
			k := testKept(byte(i % vsis))
			k.VSI.TypeID = uint32(i)
			p.keep(k)
			if i%vsis == vsis-1 {
				fmt.Println("at", i)
			}
		}
	}
	path := filepath.Join(memoryDir(t), "state.json")
	rounds := 20
	if os.Getenv("LONG") == "1" {
		rounds = 500
	}
	last := make(map[vdp.ID]uint32)
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWhileSaving$")
		cmd.Env = append(os.Environ(), childVariable+"="+path)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		// It is somewhere else each time, by how much it has said.
		for n := 1 + rand.IntN(5000); n > 0; {
			b := make([]byte, min(n, 512))
			m, err := out.Read(b)
			require.NoError(t, err)
			n -= m
		}
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		s, err := readState(path)
		require.NoError(t, err, "round %d", round)
		if s["eth0"] == nil {
			require.Empty(t, last)
			continue // it has saved nothing yet
		}
		for id, was := range last {
			require.GreaterOrEqual(t, s["eth0"].vsis[id].VSI.TypeID, was)
		}
		for id, k := range s["eth0"].vsis {
			require.Equal(t, int(id.Octets[15]), int(k.VSI.TypeID%vsis))
			last[id] = k.VSI.TypeID
		}
	}
	require.NotEmpty(t, last)
}

// written returns a state's file.
func written(tb testing.TB, path string, s state) []byte {
	w := newSaver(path, s, nil)
	go w.run()
	w.close()
	b, err := os.ReadFile(path)
	require.NoError(tb, err)
	return b
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(v1))
	s, err := parseState([]byte(v1))
	require.NoError(f, err)
	b := written(f, filepath.Join(f.TempDir(), "state.json"), s)
	f.Add(b)
	f.Add(b[:len(b)-5])
	gone, err := appendLine(b, record{Uplink: "eth0", Gone: ptr(testVSI(1).ID)})
	require.NoError(f, err)
	f.Add(gone)
	f.Add([]byte("{\"version\":3}\n"))
	path := filepath.Join(memoryDir(f), "state.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			if s != nil {
				t.Fatal("a state in spite of the error")
			}
			return
		}
		whole := written(t, path, s)
		again, err := parseState(whole)
		require.NoError(t, err, "%s", whole)
		require.Equal(t, s, again)
		// Without its last octet it has one record less.
		less, err := parseState(whole[:len(whole)-1])
		if len(s) > 0 {
			require.NoError(t, err)
		}
		require.LessOrEqual(t, len(less), len(s))
	})
}
