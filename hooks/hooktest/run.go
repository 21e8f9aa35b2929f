package hooktest

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"libvirt-direct/internal/link"
)

// VFCount is how many VFs the host of a World has.
const VFCount = 3

// Play plays the story of a tape and returns the first invariant that it breaks, nil if
// it breaks none.
func Play(t *testing.T, program Program, tape []byte) *Violation {
	t.Helper()
	var bad *Violation
	synctest.Test(t, func(*testing.T) { bad = play(program, tape) })
	return bad
}

// newWorld is a host on which nothing has happened yet, with its hook installed.
func newWorld(program Program, tape []byte) *World {
	w := &World{
		Kernel: NewKernel(pfName, "nica", ovsBridge), Disk: NewDisk(), OVS: NewOVS(ovsBridge), Station: NewStation(), Libvirt: Folder{},
		program: program, tape: NewTape(tape), hostdevs: map[int]*Domain{}, tool: map[int]string{}, residue: map[int]bool{},
		installed: true, boot: time.Now(),
	}
	w.OVS.Kernel = w.Kernel.Devices
	w.OVS.Others = []string{pfName} // the card is the switch's way out
	w.Kernel.AddVFs(pfName, VFCount)
	w.vf(1).VLAN = &link.VFVLAN{ID: 7, Proto: link.Dot1Q} // an administrator's
	w.before = w.truth()
	return w
}

func newDomain(i int) *Domain {
	return &Domain{
		Name: string(rune('A' + i)), UUID: fmt.Sprintf("%c%07x-0000-4000-8000-00000000000%d", 'a'+i, i, i),
		MAC: fmt.Sprintf("52:54:00:00:00:%02x", i+1), State: Shut, vf: -1, reserved: -1,
	}
}

func play(program Program, tape []byte) *Violation {
	w := newWorld(program, tape)
	w.old, w.installed = w.tape.Next(2) == 1, w.tape.Next(8) != 7
	for i := range 2 + w.tape.Next(2) {
		d := newDomain(i)
		w.Domains = append(w.Domains, d)
		w.spawn("libvirt "+d.Name, d, false, func(p *Process) { w.guest(p, d) })
	}
	w.spawn("gc", nil, false, w.timer)
	w.spawn("tool", nil, false, w.otherTool)
	w.spawn("host", nil, false, w.weather)
	w.play()
	if w.bad == nil {
		w.quiesce()
	}
	return w.bad
}

// timer runs gc now and then.
func (w *World) timer(p *Process) {
	for range w.tape.Next(3) {
		for range w.tape.Next(60) {
			p.pause()
		}
		w.collect(p)
	}
}

func (w *World) collect(p *Process) {
	if !w.installed {
		return
	}
	_, err := w.run(p, "gc", nil, func(p *Process) error { return w.program.Collect(context.Background(), p, w.alive(p)) })
	if err != nil {
		w.tell("gc: %v", err)
	} else {
		w.tell("gc")
	}
}

// otherTool takes a VF that the kernel shows nobody to use, and gives it back.
func (w *World) otherTool(p *Process) {
	for range w.tape.Next(3) {
		for range w.tape.Next(60) {
			p.pause()
		}
		n := w.tape.Next(VFCount)
		v := w.vf(n)
		l := w.Kernel.byName(v.Netdev)
		if v.Netdev == "" || l == nil || len(w.Kernel.uppers(l.Index)) > 0 || w.claimed(n) {
			continue
		}
		w.tell("another tool takes VF %d", n)
		for _, d := range w.Domains {
			d.excused = d.excused || d.onVF() // it can have been chosen at this moment
		}
		was, name := v.VFSettings, v.Netdev
		w.Kernel.Unbind(n, "other")
		v.VLAN = &link.VFVLAN{ID: 77, Proto: link.Dot1Q}
		w.tool[n] = v.String()
		for range w.tape.Next(30) {
			p.pause()
		}
		delete(w.tool, n)
		v.VFSettings = was
		w.Kernel.Bind(n, name)
		w.tell("another tool gives VF %d back", n)
	}
}

// claimed reports whether a journal mentions a VF, or libvirt is giving it to a guest.
func (w *World) claimed(number int) bool {
	for _, d := range w.Domains {
		names := d.State != Shut && d.onVF() && d.kind != Owned && d.named == number
		if w.journalled(d, w.vf(number).Device) || names {
			return true
		}
	}
	return false
}

// weather is what befalls the host: Open vSwitch is down for a while, the hook comes to a
// host whose guests run.
func (w *World) weather(p *Process) {
	for range w.tape.Next(2) {
		for range w.tape.Next(100) {
			p.pause()
		}
		w.OVS.Down = true
		w.tell("Open vSwitch is down")
		for range w.tape.Next(100) {
			p.pause()
		}
		w.OVS.Down = false
		w.tell("Open vSwitch is up")
	}
	if w.installed {
		return
	}
	for range w.tape.Next(100) {
		p.pause()
	}
	for _, d := range w.Domains {
		if d.State == Starting { // packages are installed when nobody starts a guest
			return
		}
	}
	w.install()
	for _, d := range w.Domains {
		if d.State == Running {
			w.reconnect(p, d)
		}
	}
}

// install puts the hook on a host, where libvirt's guests may have left VFs otherwise than
// they found them.
func (w *World) install() {
	w.installed = true
	w.tell("the hook is installed, libvirtd started again")
	for number := range w.Kernel.VFs {
		name := fmt.Sprintf("VF %d", number)
		w.residue[number] = w.residue[number] || w.holder(number) == nil && w.truth()[name] != w.before[name]
	}
	for _, d := range w.Domains {
		if d.vf >= 0 && (*w.vf(d.vf).MAC != d.MAC || w.vf(d.vf).VLAN.ID != d.settings().VLAN.ID) {
			w.disturb(d, nil)
		}
	}
}

// quiesce lets everything end without trouble, and looks at what is left.
func (w *World) quiesce() {
	if !w.installed {
		w.install()
	}
	w.calm, w.OVS.Down = true, false
	w.tell("everything has ended")
	time.Sleep(time.Hour) // what was reserved is so no more
	w.spawn("end", nil, false, func(p *Process) {
		w.collect(p)
		w.collect(p)
		for _, d := range w.Domains {
			if d.kind == "" || d.kind == Incoming {
				continue
			}
			d.xml = ""
			if !w.start(p, d) {
				w.violated("refused", "%s does not start any more, and everything has ended", d.Name)
				return
			}
			w.stop(p, d)
		}
		w.collect(p)
		w.collect(p)
	})
	w.play()
	if w.bad == nil {
		w.restored()
	}
}

// Line is a tape as a line of text, for a file of tapes that once failed.
func Line(tape []byte) string {
	text, _ := json.Marshal(tape) // octets always are
	return string(text)
}

// FromLine is a tape from such a line.
func FromLine(line string) (tape []byte, err error) {
	err = json.Unmarshal([]byte(line), &tape)
	return tape, err
}
