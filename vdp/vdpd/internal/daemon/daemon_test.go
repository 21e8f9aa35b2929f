package daemon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdpd/internal/uplink"
	"libvirt-direct/vdp/vdpnl"
	"libvirt-direct/vdp/vdptest"
)

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`
deassociate_on_stop = true
[[uplink]]
name = "eth0"
edition = "draft"
reflective_relay = false
[[uplink]]
name = "eth1"
vdp_rka = 21
ecp_rte = 8
`))
	require.NoError(t, err)
	require.True(t, c.Deassociate)
	require.Equal(t, DefaultStateFile, c.StateFile)
	require.Len(t, c.Uplinks, 2)
	s, err := c.Uplinks[0].station(vdp.MAC{2})
	require.NoError(t, err)
	require.Equal(t, vdp.EditionDraft, s.Edition)
	require.False(t, s.EVB.ReflectiveRelay)
	s, err = c.Uplinks[1].station(vdp.MAC{2})
	require.NoError(t, err)
	require.True(t, s.EVB.ReflectiveRelay)
	require.Equal(t, uint8(21), s.EVB.RKA)

	c, err = ParseConfig([]byte("\ufeff[[uplink]]\r\nname = 'eth0'\r\n"))
	require.NoError(t, err, "as Windows' editors write it")
	require.Equal(t, "eth0", c.Uplinks[0].Name)

	for in, want := range map[string]string{
		"[[uplink]]\nname = 'eth0'\nedtion = 'draft'":  `bad configuration: line 3: unknown key "uplink.edtion"`,
		"[[uplink]]\nname = 'a'\nmax_vsis = '5'":       "bad configuration: line 3: max_vsis: it is a TOML string: want a number, without quotes",
		"[[uplink]]\nname = 'a'\necp_retries = 256":    "bad configuration: line 3: ecp_retries: 256: want 0 to 255",
		"[[uplink]]\nname = 'a/b'":                     `bad configuration: uplink name "a/b": want a network device's name, no altname`,
		"\xff\xfe[\x00":                                "bad configuration: it is not in UTF-8 but in UTF-16: save it as UTF-8",
		"[[uplink]]\nedition = 'auto'":                 `bad configuration: uplink name ""`,
		"[[uplink]]\nname = 'a'\n[[uplink]]\nname='a'": "bad configuration: uplink a twice",
		"[[uplink]]\nname = 'a'\nedition = '2013'":     `bad configuration: uplink a: edition "2013" is none of auto, draft, 2012: value out of range`,
		"[[uplink]]\nname = 'a'\nvdp_rka = 32":         "bad configuration: uplink a: station: EVB exponents: value out of range",
	} {
		_, err := ParseConfig([]byte(in))
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, want, "%s", in)
	}
	_, err = ParseConfig([]byte("uplink = 3"))
	require.ErrorIs(t, err, ErrConfig)
}

// The documentation's example is accepted, and so is what it has commented out.
func TestDocumentedConfig(t *testing.T) {
	doc, err := os.ReadFile("../../../../docs/802.1Qbg.md")
	require.NoError(t, err)
	_, example, _ := strings.Cut(string(doc), "```toml\n")
	example, _, found := strings.Cut(example, "```")
	require.True(t, found)
	for _, text := range []string{example, strings.ReplaceAll(example, "\n# ", "\n")[len("# "):]} {
		c, err := ParseConfig([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, "eth0", c.Uplinks[0].Name)
	}
	_, tables, _ := strings.Cut(string(doc), "\n| key |")
	tables, _, _ = strings.Cut(tables, "\n## ")
	var listed, known []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(tables, -1) {
		listed = append(listed, m[1])
	}
	for _, table := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[Uplink]()} {
		for i := range table.NumField() {
			if key := table.Field(i).Tag.Get("toml"); key != "uplink" {
				known = append(known, key)
			}
		}
	}
	require.ElementsMatch(t, known, listed)
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("[[uplink]]\nname = 'eth0'\nedition = 'draft'\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseConfig(b); err != nil && !errors.Is(err, ErrConfig) {
			t.Fatal(err)
		}
	})
}

func testVSI(n byte) vdp.VSI {
	return vdp.VSI{
		ID: vdp.UUID([16]byte{0xfa, 15: n}), Manager: vdp.ManagerID{12}, TypeID: 0x123456, TypeVersion: 1,
		FilterFormat: vdp.FilterMACVID,
		Filters:      []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 0, 0, n}, VID: 100}},
	}
}

func TestRival(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lldpad.pid")
	if c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: lldpadSocket, Net: "unixgram"}); err == nil {
		c.Close()
		t.Skip("lldpad runs on this machine")
	}
	require.NoError(t, checkRival(path))
	require.NoError(t, writePid(path))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("%d\n", os.Getpid()), string(b))
	require.NoError(t, checkRival(path), "our own")
	require.NoError(t, os.WriteFile(path, []byte("4194305\n\x00\x00"), 0o600))
	require.NoError(t, checkRival(path), "a dead one")
	require.NoError(t, removePid(path))
	require.FileExists(t, path, "another's file stays")
	require.NoError(t, os.WriteFile(path, []byte("1\n"), 0o600))
	require.NoError(t, checkRival(path), "process 1 is no VDP daemon")

	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: lldpadSocket, Net: "unixgram"})
	require.NoError(t, err)
	defer l.Close()
	require.ErrorIs(t, checkRival(path), ErrRival)
}

// A bench is a daemon with one port that is wired to a bridge in memory.
type bench struct {
	*testing.T
	d   *Daemon
	p   *port
	br  *vdptest.Bridge
	now time.Time
	seq uint32
}

func newBench(t *testing.T, ed vdp.Edition) *bench {
	b := &bench{T: t, now: time.Unix(1e9, 0)}
	b.br = vdptest.NewBridge(vdptest.Config{MAC: vdp.MAC{2, 0xbb}, Edition: ed})
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	b.p = newPort(Uplink{Name: "eth0"}, uplinkState{}, log)
	b.d = &Daemon{log: log, nl: &endpoint{pid: 99}, ports: []*port{b.p}, watchers: make(map[*watcher]watcher), links: newLinkTable()}
	b.d.evidence = newEvidence(b.d)
	b.d.cfg.Uplinks = []Uplink{b.p.cfg}
	b.attach()
	return b
}

func (b *bench) attach() {
	out, err := b.p.attach(b.now, 3, vdp.MAC{2, 0xaa}, 1500, func(f []byte) error {
		for _, g := range b.br.Handle(b.now, f) {
			b.d.frames(b.now, b.p, uplink.Frames{Arrived: [][]byte{g}}, nil)
		}
		return nil
	})
	require.NoError(b, err)
	b.p.bound = fakeWire{}.Bound
	b.d.apply(b.now, b.p, out)
}

func (b *bench) run(d time.Duration) {
	for end := b.now.Add(d); b.now.Before(end); b.now = b.now.Add(50 * time.Millisecond) {
		b.d.tick(b.now)
		for _, g := range b.br.Tick(b.now) {
			b.d.frames(b.now, b.p, uplink.Frames{Arrived: [][]byte{g}}, nil)
		}
	}
}

// ask sends a request as libvirt does and returns the error number.
func (b *bench) ask(m vdp.Mode, v vdp.VSI) unix.Errno {
	b.seq++
	h := vdpnl.Header{Type: unix.RTM_SETLINK, Seq: b.seq, Pid: 0}
	msg := vdpnl.Deassociated(h, 0, 3, "eth0", &v)
	msg[len(msg)-4] = byte(m - 1) // PORT_REQUEST is the last attribute
	r := b.d.request(b.now, msg)
	require.Len(b, r, 1)
	require.Equal(b, uint16(unix.NLMSG_ERROR), binary.NativeEndian.Uint16(r[0][4:]))
	return unix.Errno(-int32(binary.NativeEndian.Uint32(r[0][16:])))
}

// poll returns what RTM_GETLINK says of a VSI.
func (b *bench) poll(v vdp.VSI) (response uint16, done, found bool) {
	b.p.results.expire(b.now)
	for p := range b.p.results.ports() {
		if p.ID == v.ID {
			return p.Response, p.Done, true
		}
	}
	return 0, false, false
}

func (b *bench) expect(v vdp.VSI, response uint16) {
	b.Helper()
	got, done, found := b.poll(v)
	require.True(b, found)
	require.True(b, done)
	require.Equal(b, response, got)
}

func TestRequests(t *testing.T) {
	for _, ed := range []vdp.Edition{vdp.EditionDraft, vdp.Edition2012} {
		t.Run(ed.String(), func(t *testing.T) {
			b := newBench(t, ed)
			v := testVSI(1)
			require.Equal(t, unix.ENETDOWN, b.ask(vdp.Associate, v))
			b.br.NoEVB = true
			b.d.apply(b.now, b.p, b.p.link(b.now, true))
			require.Zero(t, b.ask(vdp.Associate, v), "the switch may still turn up")
			_, done, found := b.poll(v)
			require.True(t, found && !done)
			b.run(6 * time.Second)
			require.Equal(t, unix.ENXIO, b.ask(vdp.Associate, testVSI(2)))
			b.br.NoEVB = false
			b.br.Restart()
			b.run(time.Second)
			b.expect(v, 0)
			b.expect(v, 0) // reading has no side effect
			require.Len(t, b.p.kept, 1)
			require.Equal(t, unix.EBUSY, b.ask(vdp.PreAssociate, v))

			require.Zero(t, b.ask(vdp.DeAssociate, v))
			b.run(time.Second)
			b.expect(v, 0)
			require.Empty(t, b.p.kept)
			require.Zero(t, b.ask(vdp.DeAssociate, v), "twice is no error")
			b.expect(v, 0)
			b.run(resultTTL)
			_, _, found = b.poll(v)
			require.False(t, found)

			b.br.Answer = func(vdp.Message) vdptest.Reply { return vdptest.Reply{Status: vdp.ReasonNoResources} }
			require.Zero(t, b.ask(vdp.Associate, v))
			b.run(time.Second)
			b.expect(v, 2)

			b.br.NoAck = true
			require.Zero(t, b.ask(vdp.Associate, v))
			b.run(10 * time.Second)
			b.expect(v, responseError)
			require.Empty(t, b.p.kept)
		})
	}
}

// A guest restarted with another MAC address under the same instance id: the
// old association's end is not the new one's success.
func TestReplacedVSI(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	v, w := testVSI(1), testVSI(1)
	w.Filters[0].MAC[5] = 9
	require.Zero(t, b.ask(vdp.Associate, v))
	b.run(2 * time.Second)
	b.br.Answer = func(m vdp.Message) vdptest.Reply { return vdptest.Reply{Silent: m.Mode == vdp.Associate} }
	require.Zero(t, b.ask(vdp.Associate, w))
	b.run(time.Second)
	_, done, found := b.poll(w)
	require.True(t, found && !done)
	b.br.Answer = nil
	b.br.Restart()
	require.Zero(t, b.ask(vdp.Associate, w))
	b.run(time.Second)
	b.expect(w, 0)
	require.Equal(t, w.Filters, b.p.kept[w.ID].VSI.Filters)
}

func TestRestart(t *testing.T) {
	b := newBench(t, vdp.EditionDraft)
	b.d.cfg.StateFile = filepath.Join(t.TempDir(), "state.json")
	b.p.saver = newSaver(b.d.cfg.StateFile, make(state), b.d.log)
	go b.p.saver.run()
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	for i := range byte(10) {
		require.Zero(t, b.ask(vdp.Associate, testVSI(i)))
	}
	b.run(3 * time.Second)
	b.p.saver.close()
	s, err := readState(b.d.cfg.StateFile)
	require.NoError(t, err)
	b.p = newPort(Uplink{Name: "eth0"}, *s["eth0"], b.d.log)
	b.d.ports = []*port{b.p}
	b.br.Restart()
	b.br.Log = nil
	b.attach()
	_, done, found := b.poll(testVSI(1))
	require.True(t, found && !done)
	b.d.apply(b.now, b.p, b.p.link(b.now, true))
	b.run(5 * time.Second)
	for i := range byte(10) {
		b.expect(testVSI(i), 0)
	}
	require.Equal(t, 10, b.br.Len())
	require.LessOrEqual(t, len(b.br.Log), 30, "at once, when answers are heard, and when the switch has shown itself")
}

func TestMalformedRequests(t *testing.T) {
	b := newBench(t, vdp.Edition2012)
	v := testVSI(1)
	msg := vdpnl.Deassociated(vdpnl.Header{Seq: 5}, 0, 3, "eth0", &v)
	require.Empty(t, b.d.request(b.now, msg[:10]))
	other := vdpnl.Deassociated(vdpnl.Header{Seq: 5}, 0, 7, "eth7", &v)
	bad := append([]byte{}, msg...)
	bad[len(bad)-4] = 9
	unknown := append([]byte{}, msg...)
	unknown[4] = 16
	var all []byte
	for _, m := range [][]byte{other, bad, unknown, msg} {
		all = append(all, m...)
	}
	var got []unix.Errno
	for _, r := range b.d.request(b.now, all) {
		got = append(got, unix.Errno(-int32(binary.NativeEndian.Uint32(r[16:]))))
	}
	require.Equal(t, []unix.Errno{unix.ENODEV, unix.EINVAL, unix.EOPNOTSUPP, 0}, got)
}

func FuzzRequest(f *testing.F) {
	v := testVSI(1)
	f.Add(vdpnl.Deassociated(vdpnl.Header{Seq: 5}, 0, 3, "eth0", &v))
	f.Fuzz(func(t *testing.T, in []byte) {
		b := newBench(t, vdp.Edition2012)
		b.d.apply(b.now, b.p, b.p.link(b.now, true))
		for _, r := range b.d.request(b.now, in) {
			if int(binary.NativeEndian.Uint32(r)) != len(r) {
				t.Fatal("length of a reply")
			}
		}
	})
}
