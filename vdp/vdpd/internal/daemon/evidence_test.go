package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/journal"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpd/internal/uplink"
)

// A guestBench is a bench whose evidence the test makes.
type guestBench struct {
	*bench
	vfs    map[vdp.MAC]struct{}
	guests map[vdp.ID]bool // by the journal and their process
	err    error           // of looking
	looks  int
}

func newGuestBench(t *testing.T) *guestBench {
	g := &guestBench{bench: newBench(t, vdp.Edition2012), vfs: make(map[vdp.MAC]struct{}), guests: make(map[vdp.ID]bool)}
	g.d.work = make(chan func(time.Time), 64)
	g.d.wire = func(*linkInfo) (wire, error) { return benchWire{g: g}, nil }
	g.d.evidence.sources = sources{
		vfs: func(context.Context, int) ([]vdp.MAC, error) {
			g.looks++
			return slices.Collect(maps.Keys(g.vfs)), g.err
		},
		vfOf:  func(name, port string) (bool, error) { return name == "vf0" && port == "eth0", nil },
		guest: func(_ []string, id vdp.ID) (bool, error) { return g.guests[id], g.err },
	}
	g.list(g.uplink())
	g.run(2 * time.Second)
	return g
}

// A benchWire leads to the bench's bridge.
type benchWire struct {
	fakeWire
	g *guestBench
}

func (w benchWire) Send(f []byte) error {
	for _, r := range w.g.br.Handle(w.g.now, f) {
		w.g.d.frames(w.g.now, w.g.p, uplink.Frames{Arrived: [][]byte{r}}, nil)
	}
	return nil
}

// uplink is the port's interface, which the bench has attached.
func (g *guestBench) uplink() linkInfo {
	return linkInfo{name: "eth0", index: 3, mac: vdp.MAC{2, 0xaa}, mtu: 1500, up: true}
}

func (g *guestBench) list(links ...linkInfo) {
	steps := []linkStep{{typ: listBegin}}
	for _, l := range links {
		steps = append(steps, linkStep{link: l})
	}
	g.d.linkSteps(g.Context(), g.now, append(steps, linkStep{typ: listEnd}))
}

func (g *guestBench) change(links ...linkInfo) {
	for i := range links {
		g.d.linkChanged(g.Context(), g.now, &links[i])
	}
}

// pass lets time pass, and looks when it is time to.
func (g *guestBench) pass(d time.Duration) {
	for end := g.now.Add(d); g.now.Before(end); {
		g.run(500 * time.Millisecond)
		g.d.evidence.judge(g.Context(), g.now)
		for g.d.evidence.looking {
			(<-g.d.work)(g.now)
		}
	}
}

// macvtap is the device of testVSI(n).
func macvtap(n byte, parent int) linkInfo {
	return linkInfo{name: fmt.Sprint("macvtap", n), index: 100 + int(n), mac: testVSI(n).Filters[0].MAC, kind: "macvtap", parent: parent, up: true}
}

func gone(l linkInfo) linkInfo {
	l.removed = true
	return l
}

func (g *guestBench) associate(v vdp.VSI, owner control.Owner) {
	if owner == control.OwnerLibvirt {
		require.Zero(g, g.ask(vdp.Associate, v))
		return
	}
	out, _, err := g.p.ask(g.now, vdp.Associate, v)
	require.NoError(g, err)
	g.d.evidence.asked(g.now, g.p, v.ID, owner)
	g.d.apply(g.now, g.p, out)
}

func (g *guestBench) has(n byte) bool { return g.br.Mode(testVSI(n).ID) == vdp.Associate }

// The VSI ends 30 s after the last of what shows its guest.
func TestVSIEndsWithItsGuest(t *testing.T) {
	vlan := linkInfo{name: "eth0.100", index: 50, kind: "vlan", parent: 3, up: true}
	inBridge := vlan
	inBridge.master = 60
	bridge := linkInfo{name: "br100", index: 60, kind: "bridge", up: true}
	tap := linkInfo{name: "vnet0", index: 70, kind: "tun", mac: tapMAC(testVSI(1).Filters[0].MAC), master: 60, up: true}
	inBond, inBond2 := newBondSlave(3), linkInfo{name: "bond0", index: 80, kind: "bond", up: true}
	passthrough := linkInfo{name: "eth0", index: 3, mac: testVSI(1).Filters[0].MAC, mtu: 1500, up: true}
	elsewhere := linkInfo{name: "eth7", index: 7, up: true}
	for name, c := range map[string]struct {
		links []linkInfo
		end   linkInfo
		none  bool // it is no evidence at all
	}{
		"macvtap":                          {[]linkInfo{macvtap(1, 3)}, gone(macvtap(1, 3)), false},
		"macvtap on a VLAN":                {[]linkInfo{vlan, macvtap(1, 50)}, gone(macvtap(1, 50)), false},
		"TAP in a bridge":                  {[]linkInfo{bridge, inBridge, tap}, gone(tap), false},
		"bridge taken apart":               {[]linkInfo{bridge, inBridge, tap}, vlan, false},
		"on the bond of the port":          {[]linkInfo{inBond2, inBond, macvtap(1, 80)}, gone(macvtap(1, 80)), false},
		"passthrough":                      {[]linkInfo{passthrough}, linkInfo{name: "eth0", index: 3, mac: vdp.MAC{2, 0xaa}, mtu: 1500, up: true}, false},
		"on another interface":             {[]linkInfo{elsewhere, macvtap(1, 7)}, linkInfo{}, true},
		"parent in another namespace":      {[]linkInfo{macvtap(1, 0)}, linkInfo{}, true},
		"a TAP's address, but not a TAP's": {[]linkInfo{{name: "d", index: 9, mac: tap.mac, parent: 3, kind: "macvlan"}}, linkInfo{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuestBench(t)
			g.change(c.links...)
			g.pass(35 * time.Second) // with another address it is another station
			g.associate(testVSI(1), control.OwnerLibvirt)
			g.pass(2 * time.Second)
			require.True(t, g.has(1))
			if !c.none {
				g.pass(2 * time.Minute)
				require.True(t, g.has(1))
				g.change(c.end)
				if name == "bridge taken apart" {
					g.pass(lookInterval) // this is noticed only then
				}
			}
			g.pass(guestGrace - 4*time.Second)
			require.True(t, g.has(1), "for 30 s")
			g.pass(6 * time.Second)
			require.False(t, g.has(1))
			require.Empty(t, g.p.kept)
			require.Empty(t, g.p.owners)
			require.Empty(t, g.d.evidence.vsis)
			require.Empty(t, g.d.evidence.macs)
			require.Empty(t, g.d.evidence.missing)
			g.pass(time.Minute)
			require.True(t, g.d.nextLook().IsZero(), "nothing to look for")
		})
	}
}

func newBondSlave(index int) linkInfo {
	return linkInfo{name: "eth0", index: index, mac: vdp.MAC{2, 0xaa}, mtu: 1500, up: true, master: 80}
}

func TestOtherEvidence(t *testing.T) {
	v := testVSI(1)
	t.Run("VF", func(t *testing.T) {
		g := newGuestBench(t)
		g.vfs[v.Filters[0].MAC] = struct{}{}
		g.associate(v, control.OwnerLibvirt)
		g.pass(5 * time.Minute)
		require.True(t, g.has(1))
		require.LessOrEqual(t, g.looks, 35)
		clear(g.vfs)
		g.pass(guestGrace - time.Second)
		require.True(t, g.has(1))
		g.pass(lookInterval + 2*time.Second)
		require.False(t, g.has(1))
	})
	t.Run("macvtap on a VF", func(t *testing.T) {
		g := newGuestBench(t)
		g.change(linkInfo{name: "vf0", index: 20, mac: vdp.MAC{2, 0xcc}, up: true}, macvtap(1, 20))
		g.associate(v, control.OwnerLibvirt)
		g.pass(5 * time.Minute)
		require.True(t, g.has(1))
		g.change(gone(macvtap(1, 20)))
		g.pass(guestGrace + 2*lookInterval)
		require.False(t, g.has(1))
	})
	t.Run("VF of a bond's slave", func(t *testing.T) {
		g := newGuestBench(t)
		port := g.uplink()
		port.kind, port.bond.mode = "bond", bondActiveBackup
		g.change(port, linkInfo{name: "eth1", index: 31, master: 3}, linkInfo{name: "eth2", index: 32, master: 3})
		g.d.evidence.sources.vfs = func(_ context.Context, ifindex int) ([]vdp.MAC, error) {
			if ifindex == 32 {
				return slices.Collect(maps.Keys(g.vfs)), nil
			}
			return nil, nil
		}
		g.vfs[v.Filters[0].MAC] = struct{}{}
		g.associate(v, control.OwnerLibvirt)
		g.pass(2 * time.Minute)
		require.True(t, g.has(1))
		clear(g.vfs)
		g.pass(guestGrace + 2*lookInterval)
		require.False(t, g.has(1))
	})
	t.Run("journal", func(t *testing.T) {
		g := newGuestBench(t)
		g.guests[v.ID] = true
		g.associate(v, control.OwnerHook)
		g.pass(5 * time.Minute)
		require.True(t, g.has(1))
		clear(g.guests)
		g.pass(2*guestGrace + lookInterval)
		require.False(t, g.has(1))
	})
	t.Run("by hand", func(t *testing.T) {
		g := newGuestBench(t)
		g.associate(v, control.OwnerHand)
		g.pass(5 * time.Minute)
		require.True(t, g.has(1))
		require.Zero(t, g.looks)
		g.associate(v, control.OwnerLibvirt)
		g.pass(guestGrace + lookInterval)
		require.False(t, g.has(1), "who asked last has it")
	})
	t.Run("no address", func(t *testing.T) {
		g := newGuestBench(t)
		w := v
		w.FilterFormat, w.Filters = vdp.FilterVID, []vdp.Filter{{VID: 100}}
		g.associate(w, control.OwnerHook)
		g.pass(5 * time.Minute)
		require.True(t, g.has(1))
	})
	t.Run("what cannot be looked at", func(t *testing.T) {
		g := newGuestBench(t)
		g.err = errors.New("no answer")
		g.associate(v, control.OwnerLibvirt)
		g.pass(5 * time.Minute)
		require.True(t, g.has(1))
		g.err = nil
		g.pass(2 * lookInterval)
		require.False(t, g.has(1))
	})
	t.Run("a list that is not whole", func(t *testing.T) {
		g := newGuestBench(t)
		g.change(macvtap(1, 3))
		g.associate(v, control.OwnerLibvirt)
		g.pass(time.Second)
		g.d.linkSteps(t.Context(), g.now, []linkStep{{typ: listLost}, {link: gone(macvtap(1, 3))}})
		g.pass(5 * time.Minute)
		require.True(t, g.has(1))
		g.list(g.uplink(), macvtap(1, 3))
		g.pass(5 * time.Minute)
		require.True(t, g.has(1))
		g.list(g.uplink())
		g.pass(guestGrace + lookInterval)
		require.False(t, g.has(1), "it was not in the list")
	})
	t.Run("no switch that could be told", func(t *testing.T) {
		g := newGuestBench(t)
		g.associate(v, control.OwnerLibvirt)
		g.pass(time.Second)
		g.change(func() linkInfo { l := g.uplink(); l.up = false; return l }(), g.uplink())
		g.br.NoEVB = true
		g.pass(5 * time.Minute)
		require.Len(t, g.p.kept, 1)
		g.br.NoEVB = false
		g.pass(35 * time.Second)
		require.Empty(t, g.p.kept)
		require.False(t, g.has(1))
	})
	t.Run("a container's device", func(t *testing.T) {
		g := newGuestBench(t)
		g.change(macvtap(1, 3))
		g.associate(v, control.OwnerLibvirt)
		g.pass(time.Second)
		away := gone(macvtap(1, 3))
		away.moved = true
		g.change(away)
		g.pass(5 * time.Minute)
		require.True(t, g.has(1))
		require.True(t, g.p.kept[v.ID].Moved)
		g.change(macvtap(1, 3)) // and back
		require.False(t, g.p.kept[v.ID].Moved)
		g.change(gone(macvtap(1, 3)))
		g.pass(guestGrace + lookInterval)
		require.False(t, g.has(1))
	})
	t.Run("an address that the guest changes", func(t *testing.T) {
		g := newGuestBench(t)
		g.change(macvtap(1, 3))
		g.associate(v, control.OwnerLibvirt)
		g.pass(time.Second)
		for n := range byte(3) {
			l := macvtap(1, 3)
			l.mac = vdp.MAC{2, 5: n}
			g.change(l)
			g.pass(2 * time.Minute)
			require.True(t, g.has(1))
			g.change(macvtap(1, 3))
		}
		require.Len(t, g.d.evidence.vsis[vsiKey{g.p, v.ID}].changed, 1)
		l := macvtap(1, 3)
		l.mac = vdp.MAC{2}
		g.change(l, gone(l))
		g.pass(guestGrace + lookInterval)
		require.False(t, g.has(1))
		require.Empty(t, g.d.evidence.changed)
	})
	t.Run("no interface", func(t *testing.T) {
		g := newGuestBench(t)
		g.associate(v, control.OwnerLibvirt)
		g.pass(time.Second)
		g.change(gone(g.uplink()))
		g.pass(5 * time.Minute)
		require.Len(t, g.p.kept, 1)
		g.change(g.uplink())
		g.pass(guestGrace - time.Second)
		require.Len(t, g.p.kept, 1)
		g.pass(lookInterval)
		require.Empty(t, g.p.kept)
	})
}

// Guests that end while the daemon is down are noticed seconds after its start; others, and
// VSIs made by hand, stay.
func TestGuestsEndMeanwhile(t *testing.T) {
	g := newGuestBench(t)
	for n := range byte(6) {
		g.change(macvtap(n, 3))
		g.associate(testVSI(n), []control.Owner{control.OwnerHand, control.OwnerLibvirt, control.OwnerHook}[n%3])
	}
	g.vfs[testVSI(5).Filters[0].MAC] = struct{}{}
	g.pass(2 * time.Second)
	g.p = newPort(Uplink{Name: "eth0"}, uplinkState{vsis: g.p.kept}, g.d.log)
	g.d.ports, g.d.deadlines, g.d.links = []*port{g.p}, deadlines{}, newLinkTable()
	sources := g.d.evidence.sources
	g.d.evidence = newEvidence(g.d)
	g.d.evidence.sources = sources
	g.d.evidence.restored(g.now)
	g.attach()
	g.change(g.uplink())
	g.pass(time.Minute)
	require.Len(t, g.p.kept, 6, "nothing is known yet")
	g.list(g.uplink(), macvtap(4, 3))
	g.pass(restoredGrace - time.Second)
	require.Len(t, g.p.kept, 6)
	g.pass(2 * time.Second)
	var left []byte
	for n := range byte(6) {
		if _, ok := g.p.kept[testVSI(n).ID]; ok {
			left = append(left, n)
		}
	}
	require.Equal(t, []byte{0, 3, 4, 5}, left)
	g.change(gone(macvtap(4, 3)))
	g.pass(guestGrace - 2*time.Second)
	require.True(t, g.has(4), "it has been seen since")
	g.pass(lookInterval)
	require.False(t, g.has(4))
}

// Random guests: a VSI ends only if nothing shows its guest and no device has for 30 s, and ends
// soon after that.
func TestGuestsSimulated(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { newGuestSim(t, seed).run() })
	}
}

// A guestSim has a VSI of each owner in turn for a number of guests.
type guestSim struct {
	*guestBench
	*rand.Rand
	devices map[byte]linkInfo
	asked   [9]time.Time // zero for none
	shown   [9]time.Time // last
	device  [9]time.Time // last
}

func newGuestSim(t *testing.T, seed uint64) *guestSim {
	return &guestSim{guestBench: newGuestBench(t), Rand: rand.New(rand.NewPCG(seed, 5)), devices: make(map[byte]linkInfo)}
}

func (s *guestSim) shows(i byte) bool {
	_, vf := s.vfs[testVSI(i).Filters[0].MAC]
	_, device := s.devices[i]
	return device || vf || s.guests[testVSI(i).ID]
}

func (s *guestSim) run() {
	for range 400 {
		s.step(byte(s.IntN(len(s.asked))))
		s.pass(time.Duration(2+s.IntN(8)) * time.Second)
		for i := range byte(len(s.asked)) {
			if s.shows(i) {
				s.shown[i] = s.now
			}
			if _, ok := s.devices[i]; ok {
				s.device[i] = s.now
			}
			if !s.asked[i].IsZero() {
				s.check(i)
			}
		}
	}
	held := len(s.p.kept)
	require.Len(s, s.p.owners, held)
	require.LessOrEqual(s, len(s.d.evidence.vsis), held)
}

func (s *guestSim) step(i byte) {
	v := testVSI(i)
	switch s.IntN(12) {
	case 0, 1:
		if s.asked[i].IsZero() {
			s.associate(v, simOwner(i))
			s.asked[i] = s.now
		}
	case 2, 3:
		s.devices[i] = macvtap(i, 3)
		s.change(s.devices[i])
	case 4, 5:
		if l, ok := s.devices[i]; ok {
			delete(s.devices, i)
			s.change(gone(l))
		}
	case 6:
		s.vfs[v.Filters[0].MAC] = struct{}{}
	case 7:
		delete(s.vfs, v.Filters[0].MAC)
	case 8:
		s.guests[v.ID] = true
	case 9:
		delete(s.guests, v.ID)
	default: // some was lost
		s.d.linkSteps(s.Context(), s.now, []linkStep{{typ: listLost}})
		s.list(append(slices.Collect(maps.Values(s.devices)), s.uplink())...)
	}
}

func simOwner(i byte) control.Owner {
	return []control.Owner{control.OwnerHand, control.OwnerLibvirt, control.OwnerHook}[i%3]
}

func (s *guestSim) check(i byte) {
	_, has := s.p.kept[testVSI(i).ID]
	switch {
	case simOwner(i) == control.OwnerHand:
		require.True(s, has, "made by hand")
	case !has:
		require.False(s, s.shows(i), "VSI %d", i)
		require.GreaterOrEqual(s, s.now.Sub(s.device[i]), guestGrace)
		require.GreaterOrEqual(s, s.now.Sub(s.asked[i]), guestGrace)
		s.asked[i] = time.Time{} // it may be asked for again
	default:
		// The VFs are read now and then, the journal when it is all that is left.
		require.Less(s, min(s.now.Sub(s.shown[i]), s.now.Sub(s.asked[i])), 2*guestGrace+2*lookInterval, "VSI %d", i)
	}
}

// A journal names the domain, a process shows that it runs.
func TestGuestRuns(t *testing.T) {
	const domain = "3b6a4a9c-8b2f-4c07-9d37-51a1b2c3d4e5"
	v := testVSI(1)
	j, err := journal.Open(filepath.Join(t.TempDir(), "journal"))
	require.NoError(t, err)
	proc := t.TempDir()
	process := func(pid int, args string) {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cmdline"), []byte(args), 0o644))
	}
	process(1, "init\x00")
	names := []string{"eth0", "wan0"}
	runs := func() bool {
		ok, err := guestRuns(j, proc, names, v.ID)
		require.NoError(t, err)
		return ok
	}
	require.False(t, runs())
	process(7, "qemu-system-x86_64\x00-uuid\x00"+domain+"\x00-nographic\x00")
	require.False(t, runs(), "no journal has it")
	e := j.New(domain, "g")
	e.Entries = []journal.Entry{{Resource: journal.VSIResource("wan0", v.ID.String()), Phase: journal.Done, Step: []byte("{}")}}
	require.NoError(t, j.Save(e))
	require.True(t, runs())
	process(7, "qemu-system-x86_64\x00-uuid\x00"+domain[:35]+"6\x00")
	require.False(t, runs(), "another domain's")
	require.NoError(t, os.RemoveAll(filepath.Join(proc, "1")))
	_, err = guestRuns(j, proc, names, v.ID)
	require.ErrorIs(t, err, os.ErrNotExist, "processes are hidden")
	require.NoError(t, os.WriteFile(filepath.Join(j.Path(), "domains", domain+".json"), []byte("{"), 0o600))
	_, err = guestRuns(j, proc, names, v.ID)
	require.ErrorIs(t, err, journal.ErrRead)
	ok, err := guestRuns(journal.Existing(filepath.Join(proc, "none")), proc, names, v.ID)
	require.NoError(t, err)
	require.False(t, ok)
}

// A change of a link costs the same however many VSIs there are.
func BenchmarkLinkChange(b *testing.B) {
	for _, n := range []int{10, 64000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			d := newFollower("eth0")
			p := d.ports[0]
			now := time.Unix(1e9, 0)
			up := aLink(3, "eth0")
			d.linkChanged(b.Context(), now, &up)
			for i := range n {
				v := testVSI(1)
				v.ID.Octets[8], v.ID.Octets[9] = byte(i>>8), byte(i)
				v.Filters[0].MAC[3], v.Filters[0].MAC[4] = byte(i>>8), byte(i)
				p.kept[v.ID] = kept{VSI: v, Mode: vdp.Associate}
				d.evidence.watch(now, p, &v, guestGrace)
			}
			l := macvtap(1, 3)
			end := gone(l)
			for b.Loop() {
				d.linkChanged(b.Context(), now, &l)
				d.linkChanged(b.Context(), now, &end)
			}
		})
	}
}
