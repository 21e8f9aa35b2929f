package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpd/internal/uplink"
)

// A fakeWire hears nothing and sends nowhere.
type fakeWire struct{}

func (fakeWire) Send([]byte) error { return nil }
func (fakeWire) Close() error      { return nil }
func (fakeWire) Bound() bool       { return true }
func (fakeWire) ReadLoop(ctx context.Context, _ func(uplink.Frames)) error {
	<-ctx.Done()
	return ctx.Err()
}

// newFollower is a daemon with ports and without wires.
func newFollower(ports ...string) *Daemon {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	d := &Daemon{
		log: log, nl: &endpoint{pid: 99}, watchers: make(map[*watcher]watcher), work: make(chan func(time.Time), 64), links: newLinkTable(),
		wire: func(*linkInfo) (wire, error) { return fakeWire{}, nil },
	}
	d.evidence = newEvidence(d)
	for _, name := range ports {
		d.ports = append(d.ports, newPort(Uplink{Name: name}, uplinkState{}, log))
	}
	return d
}

func aLink(index int, name string) linkInfo {
	return linkInfo{name: name, index: index, mac: vdp.MAC{2, 0xaa, 5: byte(index)}, mtu: 1500, up: true}
}

// tell passes on changes as the kernel would.
func (d *Daemon) tell(t *testing.T, links ...linkInfo) {
	for i := range links {
		d.linkChanged(t.Context(), time.Unix(1e9, 0), &links[i])
	}
}

func (d *Daemon) at(t *testing.T, want ...int) {
	t.Helper()
	var got []int
	for _, p := range d.ports {
		got = append(got, p.ifindex)
	}
	require.Equal(t, want, got)
}

// What was removed and made again under the same name is another device, whether its end was
// told or not.
func TestReplacedInterface(t *testing.T) {
	for _, told := range []bool{true, false} {
		d := newFollower("eth0")
		p := d.ports[0]
		d.tell(t, aLink(3, "eth0"))
		d.at(t, 3)
		p.kept[testVSI(1).ID] = kept{VSI: testVSI(1), Mode: vdp.Associate}
		if told {
			gone := aLink(3, "eth0")
			gone.removed = true
			d.tell(t, gone)
			d.at(t, 0)
			require.ErrorIs(t, p.ready(time.Unix(1e9, 0)), control.ErrNoInterface)
		}
		again := aLink(17, "eth0")
		again.mac = p.mac
		d.tell(t, again)
		d.at(t, 17)
		require.ErrorIs(t, p.ready(time.Unix(1e9, 0)), vdp.ErrNoEVB)
		d.tell(t, aLink(17, "eth0"))
		require.Equal(t, vdp.MAC{2, 0xaa, 5: 17}, p.mac)
		v, ok := p.st.VSI(testVSI(1).ID)
		require.True(t, ok, "restored under the new address")
		require.Equal(t, vdp.StateLost, v.State)
	}
}

func TestRenamedInterface(t *testing.T) {
	d := newFollower("eth0", "eth1")
	d.tell(t, aLink(3, "eth0"), aLink(4, "eth1"))
	d.at(t, 3, 4)
	st := d.ports[0].st

	d.tell(t, aLink(3, "wan0"))
	d.at(t, 3, 4)
	require.Same(t, st, d.ports[0].st)
	require.False(t, d.ports[0].upSince.IsZero(), "the link was up all the time")
	for _, byName := range []struct {
		name  string
		index int
	}{{"eth0", 0}, {"wan0", 0}, {"eth0", 3}, {"wan0", 3}, {"", 3}} {
		require.Same(t, d.ports[0], d.port(byName.name, byName.index), "%+v", byName)
	}
	require.Nil(t, d.port("wan1", 0))
	require.Same(t, d.ports[0], d.named("wan0"))

	// Another one has the configured name.
	d.tell(t, aLink(5, "eth0"))
	d.at(t, 5, 4)
	// Swapped: in between, eth0's device has no port's name.
	d.tell(t, aLink(5, "tmp"), aLink(4, "eth0"))
	d.at(t, 4, 0)
	d.tell(t, aLink(5, "eth1"))
	d.at(t, 4, 5)
	device := func() string { return d.ports[0].status(time.Unix(1e9, 0)).Device }
	d.tell(t, aLink(4, "wan0"))
	require.Equal(t, "wan0", device())
	away := aLink(4, "wan0")
	away.removed, away.moved = true, true
	d.tell(t, away)
	d.at(t, 0, 5)
	require.Empty(t, device(), "it has none any more")
}

// What a station was asked for goes on when another takes its place, as when libvirt gives the
// uplink the guest's address (mode='passthrough').
func TestReaddressedInterface(t *testing.T) {
	d := newFollower("eth0")
	d.tell(t, aLink(3, "eth0"))
	p := d.ports[0]
	now := time.Unix(1e9, 0)
	_, _, err := p.ask(now, vdp.Associate, testVSI(1))
	require.NoError(t, err)
	other := aLink(3, "eth0")
	other.mac = testVSI(1).Filters[0].MAC
	d.tell(t, other)
	d.at(t, 3)
	v, ok := p.st.VSI(testVSI(1).ID)
	require.True(t, ok)
	require.Equal(t, vdp.StateRequesting, v.State)
	require.Equal(t, vdp.Associate, v.Mode)
}

func TestBonds(t *testing.T) {
	d := newFollower("bond0")
	p := d.ports[0]
	bond := func(mode uint8, active int) linkInfo {
		l := aLink(3, "bond0")
		l.kind, l.bond = "bond", bondInfo{mode, active}
		return l
	}
	for mode := range uint8(7) {
		d.tell(t, bond(mode, 0))
		if mode == bondActiveBackup {
			require.ErrorIs(t, p.ready(time.Unix(1e9, 0)), vdp.ErrNoEVB)
			continue
		}
		require.ErrorIs(t, p.ready(time.Unix(1e9, 0)), control.ErrBond, "mode %d", mode)
		_, _, err := p.ask(time.Unix(1e9, 0), vdp.Associate, testVSI(1))
		require.ErrorIs(t, err, control.ErrBond)
		require.ErrorIs(t, p.status(time.Unix(1e9, 0)).Error, control.ErrBond)
	}
	d.tell(t, bond(bondActiveBackup, 7))
	up := p.upSince
	d.linkChanged(t.Context(), up.Add(time.Second), new(bond(bondActiveBackup, 7)))
	require.Equal(t, up, p.upSince)
	d.linkChanged(t.Context(), up.Add(2*time.Second), new(bond(bondActiveBackup, 8)))
	require.Equal(t, up.Add(2*time.Second), p.upSince, "as after a loss of carrier")
	down := bond(bondActiveBackup, 0)
	down.up = false
	d.tell(t, down)
	require.True(t, p.upSince.IsZero())
}

// A socket that cannot be opened, or fails, is opened again.
func TestReopened(t *testing.T) {
	d := newFollower("eth0")
	fails := true
	d.wire = func(*linkInfo) (wire, error) {
		if fails {
			return nil, unix.ENOMEM
		}
		return failingWire{}, nil
	}
	d.tell(t, aLink(3, "eth0"))
	d.at(t, 0)
	now := time.Unix(1e9, 0)
	require.Equal(t, now.Add(retryPause), d.nextLook())
	fails = false
	d.reopen(t.Context(), now)
	d.at(t, 0)
	d.reopen(t.Context(), now.Add(retryPause))
	d.at(t, 3)
	(<-d.work)(now.Add(retryPause)) // its end
	d.at(t, 0)
	d.wire = func(*linkInfo) (wire, error) { return fakeWire{}, nil }
	d.reopen(t.Context(), now.Add(2*retryPause))
	d.at(t, 3)
}

type failingWire struct{ fakeWire }

func (failingWire) ReadLoop(context.Context, func(uplink.Frames)) error { return net.ErrClosed }

// A kernel changes interfaces and tells of it through a queue that loses messages.
type kernel struct {
	*rand.Rand
	links map[int]linkInfo
	last  int // index
	queue []linkStep
	lossy bool
	lost  bool // and not reported yet
}

var simNames = []string{"eth0", "eth1", "bond0", "wan0", "wan1"}

func (k *kernel) event(l linkInfo) {
	if k.lossy && k.IntN(4) == 0 {
		k.lost = true
		return
	}
	k.queue = append(k.queue, linkStep{link: l})
}

func (k *kernel) indices() []int { return slices.Sorted(maps.Keys(k.links)) }

func (k *kernel) named(name string) int {
	for i, l := range k.links {
		if l.name == name {
			return i
		}
	}
	return 0
}

func (k *kernel) change() {
	name := simNames[k.IntN(len(simNames))]
	if len(k.links) == 0 || k.IntN(5) == 0 {
		if k.named(name) == 0 {
			k.last++
			l := aLink(k.last, name)
			l.up, l.mac[4] = k.IntN(2) == 0, byte(k.last>>8)
			if name == "bond0" {
				l.kind, l.bond = "bond", bondInfo{uint8(k.IntN(2)), k.IntN(3)}
			}
			k.links[l.index] = l
			k.event(l)
		}
		return
	}
	all := k.indices()
	l := k.links[all[k.IntN(len(all))]]
	switch k.IntN(6) {
	case 0:
		delete(k.links, l.index)
		l.removed, l.moved = true, k.IntN(2) == 0
		k.event(l)
		return
	case 1:
		if k.named(name) != 0 {
			return
		}
		l.name = name
	case 2:
		l.mac[3]++
	case 3:
		l.master = k.IntN(3)
	case 4:
		l.bond.active = k.IntN(3)
	default:
		l.up = !l.up
	}
	k.links[l.index] = l
	k.event(l)
}

// list does what linkWatch does after a loss: it reads what is queued, and then the list, in
// parts, between which things change.
func (k *kernel) list(next func()) {
	k.lost = false
	k.queue = append([]linkStep{{typ: listLost}}, k.queue...)
	k.queue = append(k.queue, linkStep{typ: listBegin})
	next()
	for from := 0; ; {
		part := k.indices()
		part = slices.DeleteFunc(part, func(i int) bool { return i <= from })
		if len(part) == 0 {
			break
		}
		for _, i := range part[:min(2, len(part))] {
			k.queue = append(k.queue, linkStep{link: k.links[i]})
			from = i
		}
		for range k.IntN(3) {
			k.change()
		}
		next()
	}
	if !k.lost {
		k.queue = append(k.queue, linkStep{typ: listEnd})
	}
	next()
}

// simulate checks a daemon against a kernel.
func simulate(t *testing.T, seed uint64, lossy bool) {
	k := &kernel{Rand: rand.New(rand.NewPCG(seed, 14)), links: make(map[int]linkInfo)}
	d := newFollower("eth0", "eth1", "bond0")
	now := time.Unix(1e9, 0)
	next := func() {
		now = now.Add(time.Millisecond)
		d.linkSteps(t.Context(), now, k.queue)
		k.queue = k.queue[:0]
	}
	expected := make([]int, len(d.ports)) // without losses
	for range 20 {
		for range 1 + k.IntN(20) {
			k.lossy = lossy
			k.change()
			if k.IntN(3) == 0 {
				next()
			}
			if !lossy {
				next()
				for i, p := range d.ports {
					switch own, had := k.named(p.cfg.Name), k.links[expected[i]]; {
					case own != 0:
						expected[i] = own
					case had.index == 0 || had.name == "eth0" || had.name == "eth1" || had.name == "bond0":
						expected[i] = 0
					}
				}
				d.at(t, expected...)
			}
		}
		for k.lossy = false; ; {
			if k.list(next); !k.lost {
				break
			}
		}
		k.check(t, d)
		for i, p := range d.ports {
			expected[i] = p.ifindex // several things may have changed at once
		}
	}
}

func (k *kernel) check(t *testing.T, d *Daemon) {
	require.Len(t, d.links.all, len(k.links))
	require.True(t, d.links.whole)
	for i, l := range k.links {
		require.Equal(t, l, *d.links.byIndex(i))
	}
	for _, p := range d.ports {
		if own := k.named(p.cfg.Name); own != 0 {
			require.Equal(t, own, p.ifindex, p.cfg.Name)
		}
		if p.ifindex == 0 {
			require.True(t, p.upSince.IsZero())
			continue
		}
		l, ok := k.links[p.ifindex]
		require.True(t, ok, "a device that exists")
		if l.name != p.cfg.Name {
			require.NotContains(t, []string{"eth0", "eth1", "bond0"}, l.name, "another port's")
		}
		require.Equal(t, l.mac, p.mac)
		require.Equal(t, l.name, p.device.name)
		require.Equal(t, l.up && l.unfit() == nil, !p.upSince.IsZero())
		require.Equal(t, l.unfit(), p.device.unfit)
	}
	for _, index := range []map[vdp.MAC]map[int]struct{}{d.links.macs} {
		n := 0
		for _, s := range index {
			n += len(s)
		}
		require.Equal(t, len(k.links), n, "nothing is left in the index")
	}
}

// Random changes of interfaces, all told: each port is where it should be after each. Then
// with some that are lost, and a list after that: each is where it should be after the list.
func TestInterfacesSimulated(t *testing.T) {
	for seed := range uint64(500) {
		for _, lossy := range []bool{false, true} {
			if !t.Run(fmt.Sprintf("seed=%d,lossy=%v", seed, lossy), func(t *testing.T) { simulate(t, seed, lossy) }) {
				return
			}
		}
	}
}
