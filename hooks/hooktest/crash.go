package hooktest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"

	"libvirt-direct/internal/ovs"
)

// Snapshot is a host as a hook has left it that was killed, or as a guest runs on it: for
// the release after, which has to go on from there. It is written as JSON.
type Snapshot struct {
	// Name says the kind of NIC, the operation and the point, "owned start 3"; or "owned
	// runs".
	Name    string              `json:"name"`
	Devices *Devices            `json:"devices"`
	Ports   map[string]ovs.Port `json:"ports,omitempty"`
	Disk    map[string]string   `json:"disk,omitempty"`
	Libvirt map[string]string   `json:"libvirt,omitempty"`
	Domain  snapshotDomain      `json:"domain"`
	Hostdev bool                `json:"hostdev,omitempty"`
}

type snapshotDomain struct {
	Kind   Kind   `json:"kind"`
	State  State  `json:"state"`
	VLAN   int    `json:"vlan"`
	VF     int    `json:"vf"`
	Device string `json:"device,omitempty"`
	Saved  string `json:"saved,omitempty"`
}

func text(files map[string][]byte) map[string]string {
	t := map[string]string{}
	for name, data := range files {
		t[name] = string(data)
	}
	return t
}

func (w *World) snapshot(name string, d *Domain) Snapshot {
	s := Snapshot{
		Name: name, Devices: w.Kernel.Devices, Ports: w.OVS.ByName, Disk: text(w.Disk.Files), Libvirt: text(w.Libvirt),
		Domain:  snapshotDomain{d.kind, d.State, d.vlan, d.vf, d.device, d.saved},
		Hostdev: w.hostdevs[d.named] == d,
	}
	data, err := json.Marshal(s) // a copy: the host goes on
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		panic(err) // the types above cannot be written: a mistake in this package
	}
	return s
}

// load makes a host from a snapshot.
func load(program Program, s Snapshot) (*World, *Domain) {
	w := newWorld(program, nil)
	w.calm = true
	w.Kernel.Devices, w.OVS.Kernel = s.Devices, s.Devices
	if s.Devices.SelfMACs == nil { // of a release that did not know of them
		s.Devices.SelfMACs = map[int][]string{}
	}
	if s.Ports != nil {
		w.OVS.ByName = s.Ports
	}
	for name, data := range s.Disk {
		w.Disk.Files[name] = []byte(data)
	}
	for name, data := range s.Libvirt {
		w.Libvirt[name] = []byte(data)
	}
	d := newDomain(0)
	d.kind, d.State, d.vlan, d.vf, d.device, d.saved = s.Domain.Kind, s.Domain.State, s.Domain.VLAN, s.Domain.VF, s.Domain.Device, s.Domain.Saved
	if s.Hostdev {
		w.hostdevs[d.named] = d
	}
	w.Domains = []*Domain{d}
	return w, d
}

// CrashPoints plays a guest of each kind and returns the host after each point at which
// an operation can be killed, the guest being gone then, and the host with the guest that
// runs.
func CrashPoints(t *testing.T, program Program) []Snapshot {
	t.Helper()
	var all []Snapshot
	for _, kind := range []Kind{Plain, Managed, Owned, Hostdev, Shared, OVSPort} {
		for _, op := range []string{"prepare", "start", "stopped", "release"} {
			for point := 1; ; point++ {
				var s Snapshot
				reached := false
				synctest.Test(t, func(*testing.T) { s, reached = crash(program, kind, op, point) })
				if !reached {
					break
				}
				all = append(all, s)
			}
		}
		synctest.Test(t, func(*testing.T) {
			s, _ := crash(program, kind, "", 0)
			all = append(all, s)
		})
	}
	return all
}

// crash kills an operation at its point-th change, before it or after it in turn, and
// lets libvirt put away the guest without any further hook. With no operation the guest
// is left running.
func crash(program Program, kind Kind, op string, point int) (s Snapshot, reached bool) {
	w := newWorld(program, nil)
	w.calm = true
	d := newDomain(0)
	d.kind, d.vlan = kind, 42
	w.Domains = []*Domain{d}
	left := point
	w.kill = func(p *Process) bool {
		if p.name != d.Name+"."+op || !p.at.Change {
			return false
		}
		left--
		reached = reached || left == 0
		return left == 0
	}
	w.spawn("libvirt", d, false, func(p *Process) {
		if !w.start(p, d) || op == "" {
			return
		}
		w.stop(p, d)
	})
	w.killed = func() { w.installed = false }
	w.play()
	name := fmt.Sprintf("%s %s %d", kind, op, point)
	if op == "" {
		name = string(kind) + " runs"
	}
	return w.snapshot(name, d), reached
}

// Resume lets the program under test go on from a snapshot in each way in which that can
// come: gc finds what is left, the domain is started again, or its guest that runs is
// taken up and ends. It returns the first invariant that is broken then.
func Resume(t *testing.T, program Program, s Snapshot) *Violation {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	ways := map[string]func(w *World, p *Process, d *Domain){
		"gc": func(w *World, p *Process, d *Domain) {},
		"start": func(w *World, p *Process, d *Domain) {
			if !w.start(p, d) {
				w.violated("refused", "%s does not start any more", d.Name)
				return
			}
			w.stop(p, d)
		},
	}
	if s.Domain.State == Running {
		ways = map[string]func(w *World, p *Process, d *Domain){
			"end":       func(w *World, p *Process, d *Domain) { w.stop(p, d) },
			"reconnect": func(w *World, p *Process, d *Domain) { w.reconnect(p, d); w.stop(p, d) },
			"QEMU died": func(w *World, p *Process, d *Domain) { w.collect(p); w.detach(p, d); d.State = Shut },
		}
	}
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		var bad *Violation
		synctest.Test(t, func(*testing.T) {
			var copied Snapshot
			if err := json.Unmarshal(data, &copied); err != nil {
				t.Error(err)
				return
			}
			w, d := load(program, copied)
			w.tell("%s, then %s", s.Name, way)
			w.spawn("libvirt", d, false, func(p *Process) {
				ways[way](w, p, d)
				w.collect(p)
				w.collect(p)
			})
			w.play()
			if w.bad == nil {
				w.restored()
			}
			bad = w.bad
		})
		if bad != nil {
			return bad
		}
	}
	return nil
}
