package hooks

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	uuidA = "aaaaaaaa-0000-4000-8000-000000000001"
	uuidB = "bbbbbbbb-0000-4000-8000-000000000002"
)

// domain is a domain's XML with the given interfaces and words.
func domain(uuid, words, nics string) string {
	meta := ""
	if words != "" {
		meta = "<metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'>" + words + "</ld:nics></metadata>"
	}
	return "<domain type='qemu'><name>vm " + uuid[:1] + "</name><uuid>" + uuid + "</uuid>" + meta +
		"<devices>" + nics + "</devices></domain>"
}

func direct(mac, dev, mode string, more ...string) string {
	return fmt.Sprintf("<interface type='direct'><mac address='%s'/><source dev='%s' mode='%s'/>%s</interface>", mac, dev, mode, strings.Join(more, ""))
}

func owned(mac, target string, more ...string) string {
	return fmt.Sprintf("<interface type='ethernet'><mac address='%s'/><target dev='%s' managed='no'/>%s</interface>", mac, target, strings.Join(more, ""))
}

const (
	mac1 = "52:54:00:00:00:01"
	mac2 = "52:54:00:00:00:02"
	mac3 = "52:54:00:00:00:03"
	mac4 = "52:54:00:00:00:04"
)

// world is a host with the hook on it.
type world struct {
	t      *testing.T
	kernel *hooktest.Kernel
	cfg    *config.Config
	hook   *Hook
	log    *bytes.Buffer
	ovs    *hooktest.OVS
	// station is the host's, with the switch behind it.
	station *hooktest.Station

	calls int                             // that change something, of all of them
	fail  func(call int, op string) error // what such a call returns, nothing done
	die   func(call int, after bool)      // panics to play a SIGKILL

	// Where the journal and libvirt's state lie.
	journal, libvirt string
}

func newWorld(t *testing.T, cfg string, devices ...string) *world {
	t.Helper()
	c, err := config.Parse("test.toml", []byte(cfg))
	require.NoError(t, err)
	w := &world{t: t, kernel: hooktest.NewKernel(devices...), cfg: c, log: &bytes.Buffer{}, station: hooktest.NewStation(),
		journal: filepath.Join(t.TempDir(), "journal"), libvirt: t.TempDir()}
	w.hook = &Hook{
		Config:     func() (*config.Config, error) { return w.cfg, nil },
		Kernel:     func() (step.Kernel, func(), error) { return w.kernel, func() {}, nil },
		Station:    w.openStation,
		Journal:    journal.Existing(w.journal),
		Libvirt:    LibvirtFolder(w.libvirt),
		Log:        slog.New(slog.NewTextHandler(w.log, nil)),
		Privileged: true,
	}
	w.withSwitch("ovsbr0")
	w.station.NotYet = step.ErrNotYet
	w.kernel.Gate, w.station.Gate = w.gate, w.gate
	return w
}

// gate counts the calls that change something, and stops them where a test wants that.
func (w *world) gate(p hooktest.Point) error {
	if !p.Change {
		return nil
	}
	if !p.After {
		w.calls++
		if w.fail != nil {
			if err := w.fail(w.calls, p.Op); err != nil {
				return err
			}
		}
	}
	if w.die != nil {
		w.die(w.calls, p.After)
	}
	return nil
}

func (w *world) openStation(context.Context) (step.Station, func(), error) {
	if w.station.Absent != nil {
		return nil, nil, w.station.Absent
	}
	return w.station, func() {}, nil
}

func (w *world) openSwitch() step.Switch { return w.ovs }

func (w *world) run(op step.Op, doc string) (string, error) {
	var out bytes.Buffer
	err := w.hook.Run(context.Background(), Call{Domain: "vm", Op: op, Stdin: strings.NewReader(doc), Stdout: &out})
	return out.String(), err
}

// rewritten is what rewrite makes of a domain on this host.
func (w *world) rewritten(doc string) (string, error) {
	w.t.Helper()
	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(w.t, err)
	host, err := Survey(w.t.Context(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(w.t, err)
	changes, err := plan.Rewrite(d, w.cfg, host)
	if err != nil {
		return "", err
	}
	out, err := d.Rewrite(changes)
	return string(out), err
}

func (w *world) must(op step.Op, doc string) string {
	w.t.Helper()
	out, err := w.run(op, doc)
	require.NoError(w.t, err)
	return out
}

func (w *world) journals() []string {
	all, err := w.hook.Journal.Domains()
	require.NoError(w.t, err)
	return all
}

// dump is the state of kernel and switch.
func (w *world) dump() string { return w.kernel.Dump() + fmt.Sprint(w.ovs.ByName) }

func (w *world) has(name string) bool {
	_, err := w.kernel.ByName(context.Background(), name)
	return err == nil
}

const twoUplinks = `
[uplink.storage]
device = "enpb"
also = ["nica"]
vlans = ["100-199"]
[uplink.lan]
pci = "0000:03:00.0"
allmulticast = true
[profile.gold]
uplink = "storage"
vlan = 120
mode = "vepa"
own = "hook"
`

func TestVLANIsSharedAndGoesWithItsLastGuest(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.dump()
	a, b := domain(uuidA, "", direct(mac1, "nica.100", "vepa")), domain(uuidB, "", direct(mac2, "nica.100", "vepa"))
	w.must(step.Prepare, a)
	require.True(t, w.has("nica.100"))
	w.must(step.Prepare, b)
	w.must(step.Release, a)
	require.True(t, w.has("nica.100"), "b still uses it")
	w.must(step.Release, b)
	require.Equal(t, before, w.dump())
	require.Empty(t, w.journals())
}

func TestVLANOfTheAdministratorStays(t *testing.T) {
	w := newWorld(t, "", "nica")
	nica, _ := w.kernel.ByName(context.Background(), "nica")
	require.NoError(t, w.kernel.AddVLAN(context.Background(), link.VLAN{Name: "nica.100", Index: 50, Parent: nica.Index, ID: 100}))
	before := w.dump()
	doc := domain(uuidA, "", direct(mac1, "nica.100", "vepa"))
	w.must(step.Prepare, doc)
	w.must(step.Release, doc)
	require.Equal(t, before, w.dump())
}

func TestVLANOfOursWithSomebodyOnItStays(t *testing.T) {
	w := newWorld(t, "", "nica")
	doc := domain(uuidA, "", direct(mac1, "nica.100", "vepa"))
	w.must(step.Prepare, doc)
	vlan, _ := w.kernel.ByName(context.Background(), "nica.100")
	require.NoError(t, w.kernel.AddMacvtap(context.Background(), link.Macvtap{Name: "foreign", Index: 60, Lower: vlan.Index, Mode: "bridge", MAC: mac3}))
	w.must(step.Release, doc)
	require.True(t, w.has("nica.100") && w.has("foreign"))
	require.Contains(t, w.log.String(), "left nica.100: foreign stands on it")
}

// The kernel would remove a container's macvlan with the VLAN below it. gc takes the VLAN
// when nothing stands on it, and leaves it while that cannot be told.
func TestVLANUnderAContainerStays(t *testing.T) {
	for _, use := range []link.Use{
		{Kind: link.UseElsewhere, Evidence: "macvlan eth0 (bridge) stands on it in the network namespace of process 7 (nginx)"},
		{Kind: link.UseUnknown, Evidence: "whether something stands on it there cannot be told", Err: errors.New("no permission")},
	} {
		w := newWorld(t, "", "nica")
		before := w.dump()
		doc := domain(uuidA, "", direct(mac1, "nica.100", "vepa"))
		w.must(step.Prepare, doc)
		w.kernel.Elsewhere = map[string][]link.Use{"nica.100": {use}}
		w.must(step.Release, doc)
		require.True(t, w.has("nica.100"))
		require.Contains(t, w.log.String(), "left nica.100: "+use.Evidence)
		require.Empty(t, w.gc(false))
		require.True(t, w.has("nica.100"))
		w.kernel.Elsewhere = nil
		require.Len(t, w.gc(false), 1)
		require.Equal(t, before, w.dump())
	}
}

// The helper's macvtaps are in namespaces of their own and do not show: it puts its
// alias in place of ours.
func TestVLANOfOursThatTheHelperTookOverStays(t *testing.T) {
	w := newWorld(t, "", "nica")
	doc := domain(uuidA, "", direct(mac1, "nica.100", "vepa"))
	w.must(step.Prepare, doc)
	vlan, _ := w.kernel.ByName(context.Background(), "nica.100")
	require.NoError(t, w.kernel.SetAlias(context.Background(), vlan.Index, step.Alias+" (in use by the helper)"))
	w.must(step.Release, doc)
	require.True(t, w.has("nica.100"))
	b := domain(uuidB, "", direct(mac2, "nica.100", "vepa"))
	w.must(step.Prepare, b)
	w.must(step.Release, b)
	w.gc(false)
	require.True(t, w.has("nica.100"))
	require.Empty(t, w.journals())
}

func TestAltNameIsSharedAndGoesWithItsLastGuest(t *testing.T) {
	w := newWorld(t, twoUplinks, "enpb")
	before := w.dump()
	a, b := domain(uuidA, "", direct(mac1, "storage", "vepa")), domain(uuidB, "", direct(mac2, "storage", "vepa")+direct(mac3, "nica.150", "vepa"))
	w.must(step.Prepare, a)
	w.must(step.Prepare, b)
	require.True(t, w.has("storage") && w.has("enpb.150") && w.has("nica.150"))
	w.must(step.Release, a)
	require.True(t, w.has("storage"))
	w.must(step.Release, b)
	require.Equal(t, before, w.dump())
}

// A guest that the release before has started is up by its macvtap's own step.
func TestHookOwnedGuestOfTheReleaseBefore(t *testing.T) {
	w := newWorld(t, twoUplinks, "enpb")
	before := w.dump()
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' uplink='storage'/>", owned(mac1, "ldt1"))
	lower, err := w.kernel.ByName(t.Context(), "enpb")
	require.NoError(t, err)
	w.kernel.Add(link.Link{Index: 1000, Name: "ldt1", Kind: "macvtap", MAC: mac1, Mode: "vepa", Parent: lower.Index, Up: true, Alias: step.Alias + " " + uuidA})
	dir, err := journal.Open(w.journal)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(w.journal, "domains", uuidA+".json"), []byte(`{"version":2,"uuid":"`+uuidA+`","name":"vm a","since":"2026-11-01T00:00:00Z",
		"serial":3,"started":true,"entries":[{"resource":"link/ldt1","gen":1,"phase":"done","step":{"nic":"`+mac1+`","macvtap":{"name":"ldt1","lower":"enpb","mode":"vepa","mac":"`+mac1+`","index":1000}}}]}`), 0o600))
	j, err := dir.Load(uuidA)
	require.NoError(t, err)
	require.Len(t, j.Entries, 2)
	w.must(step.Reconnect, doc)
	w.must(step.Stopped, doc)
	l, err := w.kernel.ByName(t.Context(), "ldt1")
	require.NoError(t, err)
	require.False(t, l.Up)
	w.must(step.Release, doc)
	require.Equal(t, before, w.dump())
}

func TestHookOwnedLife(t *testing.T) {
	w := newWorld(t, twoUplinks, "enpb")
	before := w.dump()
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' uplink='storage' vlan='100' mode='passthrough' allmulticast='yes'/>", owned(mac1, "ldt1"))
	w.must(step.Prepare, doc)
	l, err := w.kernel.ByName(context.Background(), "ldt1")
	require.NoError(t, err)
	require.Equal(t, mac1, l.MAC)
	require.True(t, l.AllMulti)
	require.False(t, l.Up, "nothing answers for a guest that does not run yet")
	require.Equal(t, "libvirt-direct "+uuidA, l.Alias)
	w.must(step.Start, doc)
	l, err = w.kernel.ByName(context.Background(), "ldt1")
	require.NoError(t, err)
	require.True(t, l.Up)
	w.must(step.Started, doc)
	w.must(step.Stopped, doc)
	l, err = w.kernel.ByName(context.Background(), "ldt1")
	require.NoError(t, err)
	require.False(t, l.Up, "nothing answers for a dead guest")
	// libvirt's stop XML can be anything by then: the journal decides.
	w.must(step.Release, domain(uuidA, "", ""))
	require.Equal(t, before, w.dump())
}

func TestNodeTakenTriesAnotherIndex(t *testing.T) {
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt1"))
	w := newWorld(t, "", "nica")
	w.kernel.NodeTaken = 2
	w.must(step.Prepare, doc)
	w.must(step.Release, doc)
	before := w.dump()
	w.kernel.NodeTaken = 9
	_, err := w.run(step.Prepare, doc)
	require.ErrorIs(t, err, link.ErrNodeTaken)
	require.Equal(t, before, w.dump())
}

func TestPassthroughAllMultiAndStart(t *testing.T) {
	w := newWorld(t, "", "nica", "macvtap0")
	mt, _ := w.kernel.ByName(context.Background(), "macvtap0")
	w.kernel.Links[mt.Index].Kind = "macvtap"
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' allmulticast='yes'/>", direct(mac1, "nica", "bridge", "<target dev='macvtap0'/>"))
	w.must(step.Prepare, doc)
	require.False(t, w.kernel.Links[mt.Index].AllMulti)
	w.must(step.Start, doc)
	require.True(t, w.kernel.Links[mt.Index].AllMulti)
	require.Empty(t, w.journals(), "libvirt's device goes with the domain")
}

// every is one domain with a step of each kind that is undone.
func every() string {
	nic, word := wasOnSwitch(mac4, "ldt4", "")
	return domain(uuidA,
		"<ld:nic mac='"+mac1+"' own='hook' uplink='storage' vlan='100' mode='bridge' allmulticast='yes'/>"+word,
		owned(mac1, "ldt1")+direct(mac2, "storage", "vepa")+direct(mac3, "nica.101", "vepa")+nic)
}

func TestFailureOfAnyCallLeavesNothing(t *testing.T) {
	for n := 1; ; n++ {
		w := newWorld(t, twoUplinks, "enpb")
		before := w.dump()
		boom := errors.New("EIO")
		w.fail = func(call int, op string) error {
			if call == n {
				return boom
			}
			return nil
		}
		_, err := w.run(step.Prepare, every())
		if w.calls < n {
			require.NoError(t, err)
			require.Greater(t, n, 15, "the domain exercises many calls")
			return
		}
		require.ErrorIs(t, err, boom, "call %d", n)
		var nic *plan.NICError
		require.ErrorAs(t, err, &nic)
		require.Contains(t, []string{"NIC " + mac1, "NIC " + mac2, "NIC " + mac3, "NIC " + mac4}, nic.NIC)
		require.NotContains(t, OneLine(err), "\n")
		require.Equal(t, before, w.dump(), "call %d", n)
		require.Empty(t, w.journals(), "call %d", n)
	}
}

type killed struct{}

// kill runs an operation and reports whether it was killed at the given call.
func (w *world) kill(op step.Op, doc string, at int, after bool) (died bool) {
	w.calls = 0
	w.die = func(call int, isAfter bool) {
		if call == at && isAfter == after {
			panic(killed{})
		}
	}
	defer func() {
		w.die = nil
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			died = true
		}
	}()
	w.must(op, doc)
	return false
}

// A process killed at any change of the kernel, in a start or in a stop, leaves a
// journal from which gc, or the domain's next start, puts everything back.
func TestKilledAnywhereIsUndone(t *testing.T) {
	for _, op := range []step.Op{step.Prepare, step.Release} {
		for _, after := range []bool{false, true} {
			for n := 1; ; n++ {
				var died bool
				for _, cure := range []string{"gc", "restart", "release"} {
					w := newWorld(t, twoUplinks, "enpb")
					before := w.dump()
					if op == step.Release {
						w.must(step.Prepare, every())
					}
					if died = w.kill(op, every(), n, after); !died {
						break
					}
					switch cure {
					case "gc":
						w.gc(false)
						w.gc(false) // and once more changes nothing
					case "restart":
						w.must(step.Prepare, every())
						w.must(step.Release, every())
					case "release":
						w.must(step.Release, every())
					}
					require.Equal(t, before, w.dump(), "%s killed at %d (after=%t), then %s", op, n, after, cure)
					require.Empty(t, w.journals())
				}
				if !died {
					require.Greater(t, n, 4)
					break
				}
			}
		}
	}
}

func (w *world) gc(dry bool, alive ...string) []string {
	w.t.Helper()
	dir, err := journal.Open(w.journal)
	require.NoError(w.t, err)
	c := &Collector{Kernel: w.kernel, Station: w.openStation, OVS: w.openSwitch, Dir: dir, Libvirt: w.hook.Libvirt, DryRun: dry, Alive: func(_ context.Context, uuid, _ string) (bool, error) {
		for _, a := range alive {
			if a == uuid {
				return true, nil
			}
		}
		return false, nil
	}}
	lines, err := c.Run(context.Background())
	require.NoError(w.t, err)
	return lines
}

func TestCollectorLeavesTheLivingAlone(t *testing.T) {
	w := newWorld(t, twoUplinks, "enpb")
	w.must(step.Prepare, every())
	running := w.dump()
	require.Empty(t, w.gc(false, uuidA))
	require.Equal(t, running, w.dump())
	require.NotEmpty(t, w.gc(true))
	require.Equal(t, running, w.dump(), "a dry run touches nothing")
	require.NotEmpty(t, w.gc(false))
}

func TestCollectorFindsMarkedDevicesWithoutJournal(t *testing.T) {
	w := newWorld(t, twoUplinks, "enpb")
	before := w.dump()
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' uplink='storage' vlan='100'/>", owned(mac1, "ldt1"))
	w.must(step.Prepare, doc)
	require.NoError(t, os.RemoveAll(w.journal))
	require.Empty(t, w.gc(false, uuidA), "a running domain keeps its device")
	require.Len(t, w.gc(false), 2, "the macvtap, then the VLAN that it stood on")
	require.Equal(t, before, w.dump())
}

func TestLostJournalDoesNotBlockTheNextStart(t *testing.T) {
	w := newWorld(t, "", "nica")
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt1"))
	w.must(step.Prepare, doc)
	require.NoError(t, os.RemoveAll(w.journal))
	w.must(step.Prepare, doc)
	require.Contains(t, w.log.String(), "left by an earlier run")
}

func TestMTUAboveTheUplinksIsRefused(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.dump()
	_, err := w.run(step.Prepare, domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt1", "<mtu size='9000'/>")))
	require.ErrorIs(t, err, step.ErrUnsuitable)
	require.Contains(t, err.Error(), "MTU 9000 is larger than 1500 of nica")
	require.Equal(t, before, w.dump())
}

func TestForeignDeviceOfThatNameIsNotTouched(t *testing.T) {
	w := newWorld(t, "", "nica", "ldt1")
	before := w.dump()
	_, err := w.run(step.Prepare, domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt1")))
	require.ErrorIs(t, err, step.ErrWrongDevice)
	require.Equal(t, before, w.dump())
}

func TestCorruptJournalIsSetAsideAndNeverExecuted(t *testing.T) {
	for name, data := range map[string]string{
		"garbage":      "{",
		"unknown step": `{"version":1,"uuid":"` + uuidA + `","name":"x","since":"2026-01-01T00:00:00Z","entries":[{"phase":"done","step":{"nic":"x","exec":"rm -rf /"}}]}`,
		"empty step":   `{"version":1,"uuid":"` + uuidA + `","name":"x","since":"2026-01-01T00:00:00Z","entries":[{"phase":"done","step":{"nic":"x"}}]}`,
		"bad name":     `{"version":1,"uuid":"` + uuidA + `","name":"x","since":"2026-01-01T00:00:00Z","entries":[{"phase":"done","step":{"nic":"x","macvtap":{"name":"../x","lower":"a","mode":"vepa","mac":"","index":2}}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "", "nica")
			before := w.dump()
			_, err := journal.Open(w.journal)
			require.NoError(t, err)
			file := filepath.Join(w.journal, "domains", uuidA+".json")
			require.NoError(t, os.WriteFile(file, []byte(data), 0o600))
			doc := domain(uuidA, "<ld:nic mac='"+mac1+"' allmulticast='yes'/>", direct(mac1, "nica", "bridge"))
			_, err = w.run(step.Prepare, doc)
			require.ErrorIs(t, err, journal.ErrCorrupt)
			require.Contains(t, err.Error(), "corrupt-")
			require.Equal(t, before, w.dump())
			w.must(step.Prepare, doc)
		})
	}
}

func TestJournalOfANewerReleaseIsLeftAlone(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.kernel.Dump()
	_, err := journal.Open(w.journal)
	require.NoError(t, err)
	file := filepath.Join(w.journal, "domains", uuidA+".json")
	const text = `{"version":99,"held":["who knows"]}`
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	doc := domain(uuidA, "", direct(mac1, "nica.100", "vepa"))
	for _, op := range []step.Op{step.Prepare, step.Stopped, step.Release} {
		_, err = w.run(op, doc)
		require.ErrorIs(t, err, journal.ErrNewer, op)
	}
	require.Equal(t, before, w.kernel.Dump())
	kept, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, text, string(kept))
	w.must(step.Reconnect, doc)
	// Its domain may hold what another one uses too.
	w.must(step.Prepare, domain(uuidB, "", direct(mac2, "nica", "bridge")))
}

func TestBrokenConfigNeverStopsTheUndoing(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.dump()
	doc := domain(uuidA, "", direct(mac1, "nica.100", "vepa"))
	w.must(step.Prepare, doc)
	w.hook.Config = func() (*config.Config, error) { return nil, &config.Error{File: "x", Msg: "broken"} }
	w.must(step.Stopped, doc)
	w.must(step.Release, doc)
	require.Equal(t, before, w.dump())
	_, err := w.run(step.Prepare, doc)
	require.ErrorIs(t, err, config.ErrConfig)
	w.must(step.Reconnect, doc)
	require.Contains(t, w.log.String(), "goes on, but")
}

func TestBrokenWordsNeverStopTheUndoing(t *testing.T) {
	w := newWorld(t, "", "nica")
	before := w.dump()
	w.must(step.Prepare, domain(uuidA, "", direct(mac1, "nica.100", "vepa")))
	broken := domain(uuidA, "<ld:nic mac='"+mac1+"' vlna='3'/>", direct(mac1, "nica.100", "vepa"))
	w.must(step.Stopped, broken)
	w.must(step.Release, broken)
	require.Equal(t, before, w.dump())
	_, err := w.run(step.Prepare, broken)
	require.ErrorIs(t, err, xmlfilter.ErrSettings)
	w.must(step.Reconnect, broken)
}

func TestGuestsThatAreNotOursCostNothing(t *testing.T) {
	w := newWorld(t, "", "nica")
	w.hook.Config = func() (*config.Config, error) { panic("config read") }
	w.hook.Kernel = func() (step.Kernel, func(), error) { panic("kernel asked") }
	for _, op := range []step.Op{step.Prepare, step.Start, step.Started, step.Stopped, step.Release, step.Migrate, step.Restore, step.Reconnect, "attach", "made-up"} {
		require.Empty(t, w.must(op, domain(uuidA, "", "<interface type='network'><source network='default'/></interface>")))
	}
	_, err := os.Stat(w.journal)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestUnknownOperationsAreAccepted(t *testing.T) {
	w := newWorld(t, "", "nica")
	for _, op := range []step.Op{step.Started, "attach", "", "frobnicate"} {
		require.Empty(t, w.must(op, "not even XML"))
	}
}

func TestSessionDaemonOnlyFilters(t *testing.T) {
	w := newWorld(t, twoUplinks, "enpb")
	w.hook.Privileged = false
	before := w.dump()
	doc := domain(uuidA, "", direct(mac1, "nica", "vepa"))
	for _, op := range []step.Op{step.Prepare, step.Start, step.Stopped, step.Release, step.Reconnect} {
		require.Empty(t, w.must(op, doc))
	}
	require.Contains(t, w.must(step.Migrate, doc), "dev='enpb'")
	require.Equal(t, before, w.dump())
}

func TestReconnectAdoptsWhatTheJournalLost(t *testing.T) {
	w := newWorld(t, twoUplinks, "enpb")
	before := w.dump()
	doc := every()
	w.must(step.Prepare, doc)
	require.NoError(t, os.RemoveAll(w.journal))
	w.must(step.Reconnect, doc)
	require.Equal(t, []string{uuidA}, w.journals())
	w.must(step.Release, doc)
	// The altnames carry no mark: without journal nobody knows that they are ours.
	for _, l := range w.kernel.Links {
		l.AltNames = nil
	}
	require.Equal(t, before, w.dump())
}

func TestReconnectOfALostDeviceIsSaidAndNotFatal(t *testing.T) {
	w := newWorld(t, "", "nica")
	w.must(step.Reconnect, domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica'/>", owned(mac1, "ldt1")))
	require.Contains(t, w.log.String(), "restart the guest")
}

func TestRewriteDefinesWhatPrepareAccepts(t *testing.T) {
	w := newWorld(t, twoUplinks, "enpb")
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' profile='gold'/>",
		direct(mac1, "anything", "bridge")+direct(mac2, "enpb", "vepa", "<vlan><tag id='130'/></vlan>"))
	_, err := w.run(step.Prepare, doc)
	require.ErrorIs(t, err, plan.ErrNotRewritten)
	require.Contains(t, err.Error(), "run: libvirt-direct rewrite --domain 'vm a'")
	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(t, err)
	host, err := Survey(context.Background(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(t, err)
	changes, err := plan.Rewrite(d, w.cfg, host)
	require.NoError(t, err)
	out, err := d.Rewrite(changes)
	require.NoError(t, err)
	w.must(step.Prepare, string(out))
	require.True(t, w.has("enpb.120") && w.has("enpb.130"))

	// Rewriting again finds nothing to do, and undoing gives back the bytes.
	again, err := xmlfilter.Parse(out)
	require.NoError(t, err)
	host, err = Survey(context.Background(), w.kernel, w.cfg, w.hook.records(), again)
	require.NoError(t, err)
	more, err := plan.Rewrite(again, w.cfg, host)
	require.NoError(t, err)
	require.Empty(t, more)
	back, err := again.Undo()
	require.NoError(t, err)
	require.Equal(t, doc, string(back))
}

func TestDeadlineOfTheOperation(t *testing.T) {
	w := newWorld(t, "deadline = '30ms'", "nica")
	dir, err := journal.Open(w.journal)
	require.NoError(t, err)
	unlock, err := dir.Lock(context.Background(), "domain-"+uuidA)
	require.NoError(t, err)
	defer unlock()
	from := time.Now()
	_, err = w.run(step.Prepare, domain(uuidA, "", direct(mac1, "nica.100", "vepa")))
	require.ErrorIs(t, err, journal.ErrLocked)
	require.Less(t, time.Since(from), 5*time.Second)
}

// A document is refused for its size, or because it cannot be read, where it may have settings
// for us. libvirt knows what to make of the others.
func TestHugeDocument(t *testing.T) {
	for start, refused := range map[string]bool{"": false, "<interface type='direct'/>": false, xmlfilter.Namespace: true} {
		for _, size := range []int64{100, maxXML + 100} {
			w := newWorld(t, "")
			w.hook.Config = func() (*config.Config, error) { panic("config read") }
			stdin := io.MultiReader(strings.NewReader(start), io.LimitReader(zeros{}, size))
			err := w.hook.Run(context.Background(), Call{Op: step.Prepare, Stdin: stdin, Stdout: io.Discard})
			if refused {
				require.ErrorIs(t, err, xmlfilter.ErrSyntax)
			} else {
				require.NoError(t, err, start)
			}
			require.NoDirExists(t, w.journal)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// The guest's device has gone, and somebody else's has its index.
func TestDeviceThatHasTheIndexNow(t *testing.T) {
	w := newWorld(t, "", "nica")
	doc := domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica' mode='bridge'/>", owned(mac1, "ldt1"))
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	l, err := w.kernel.ByName(t.Context(), "ldt1")
	require.NoError(t, err)
	delete(w.kernel.Links, l.Index)
	w.kernel.Links[l.Index] = &link.Link{Index: l.Index, Name: "other0", Up: true, Kind: "veth"}
	w.must(step.Stopped, doc)
	require.True(t, w.kernel.Links[l.Index].Up)
}
