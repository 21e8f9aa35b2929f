package hooktest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// State is a domain's, as libvirt has it.
type State string

// The states. A domain that is being stopped is Running until its release hook.
const (
	Shut     State = "shut off"
	Starting State = "starting"
	Running  State = "running"
)

// Kind is what a domain's NIC is.
type Kind string

// The kinds of NICs, the foreign one first.
const (
	User     Kind = "user"     // nothing that concerns us
	Plain    Kind = "plain"    // macvtap on a named VF, passthrough, no settings
	Managed  Kind = "managed"  // the same with settings
	Owned    Kind = "owned"    // hook-owned, on a free VF of the uplink
	Incoming Kind = "incoming" // arrives by migration, its XML names the uplink
	Hostdev  Kind = "hostdev"  // a named VF by VFIO, with settings
	Shared   Kind = "shared"   // macvtap on a shared VLAN sub-interface
	OVSPort  Kind = "ovs"      // a port of Open vSwitch, with settings
)

var kinds = []Kind{User, Plain, Managed, Owned, Incoming, Hostdev, Shared, OVSPort}

// Domain is a domain of libvirt with one NIC.
type Domain struct {
	Name, UUID, MAC string
	State           State

	kind   Kind
	named  int // VF in its XML
	vlan   int
	xml    string // as migrate has printed it, "" for the definition
	vf     int    // VF that its guest has; -1 for none
	device string // macvtap or tap that libvirt has made
	saved  string // file of libvirt's that it has written
	inHook bool
	// excused: there is a reason why it may be refused.
	excused bool
	// reserved is the VF that migrate has printed, -1 for none.
	reserved int
	// disturbed: libvirt alone has changed its VF while its guest ran.
	disturbed bool
	// attaching: libvirt is making its NIC at this moment.
	attaching bool
	// hookless: it was started before the hook was installed.
	hookless bool
	// reconnecting: a libvirtd that was started is looking after it.
	reconnecting bool
	// starts counts its starts.
	starts int
	// spared is the guest that was on the VF of this domain when its stopped hook began,
	// and which start of that it was: what libvirt undoes now must not be that guest's.
	spared      *Domain
	sparedStart int
	called      *Process // the hook that was called for it last
}

// The names of the host of a World.
const (
	pfName     = "ens1f0"
	sharedVLAN = "nica.100"
	ovsBridge  = "ovsbr0"
)

// Config is the configuration of the host of a World.
const Config = `
[uplink.fast]
device = "ens1f0"
[profile.shaped.ovs]
ingressrate = 5000
`

func (d *Domain) nic() string {
	mac := "<mac address='" + d.MAC + "'/>"
	target := ""
	if d.device != "" {
		target = "<target dev='" + d.device + "'/>"
	}
	vlan := fmt.Sprintf("<vlan><tag id='%d'/></vlan>", d.vlan)
	switch d.kind {
	case Plain, Managed:
		return fmt.Sprintf("<interface type='direct'>%s<source dev='vf%d' mode='passthrough'/>%s%s</interface>", mac, d.named, target, vlan)
	case Incoming:
		return fmt.Sprintf("<interface type='direct'>%s<source dev='fast' mode='passthrough'/>%s</interface>", mac, target)
	case Owned:
		return fmt.Sprintf("<interface type='ethernet'>%s<target dev='ldt%s' managed='no'/></interface>", mac, d.Name)
	case Hostdev:
		return fmt.Sprintf("<interface type='hostdev' managed='yes'>%s<source><address type='pci' domain='0' bus='3' slot='0x10' function='%d'/></source>%s</interface>", mac, d.named, vlan)
	case Shared:
		return fmt.Sprintf("<interface type='direct'>%s<source dev='%s' mode='bridge'/>%s</interface>", mac, sharedVLAN, target)
	case OVSPort:
		return fmt.Sprintf("<interface type='bridge'>%s<source bridge='%s'/><virtualport type='openvswitch'><parameters interfaceid='%s'/></virtualport>%s</interface>", mac, ovsBridge, d.UUID, target)
	}
	return "<interface type='user'>" + mac + "</interface>"
}

// XML is the domain's XML, as libvirt gives it to the hook.
func (d *Domain) XML() string {
	if d.xml != "" {
		return d.xml
	}
	settings := map[Kind]string{
		Managed: "trust='yes'", Hostdev: "trust='yes'", OVSPort: "profile='shaped' fdb='pf'",
		Owned: fmt.Sprintf("own='hook' uplink='fast' mode='passthrough' vlan='%d' trust='yes'", d.vlan),
	}[d.kind]
	if settings != "" {
		settings = "<metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='" + d.MAC + "' " + settings + "/></ld:nics></metadata>"
	}
	return "<domain type='qemu'><name>" + d.Name + "</name><uuid>" + d.UUID + "</uuid>" + settings + "<devices>" + d.nic() + "</devices></domain>"
}

// live is the XML with the names that libvirt has given.
func (d *Domain) live() string {
	if d.xml != "" && d.device != "" {
		return strings.Replace(d.xml, "mode='passthrough'/>", "mode='passthrough'/><target dev='"+d.device+"'/>", 1)
	}
	return d.XML()
}

// onVF reports whether the guest gets a VF.
func (d *Domain) onVF() bool {
	switch d.kind {
	case Plain, Managed, Owned, Incoming, Hostdev:
		return true
	}
	return false
}

// settings are what its guest's VF is to have.
func (d *Domain) settings() link.VFSettings {
	yes := true
	s := link.VFSettings{MAC: &d.MAC, VLAN: &link.VFVLAN{ID: d.vlan, Proto: link.Dot1Q}}
	switch d.kind {
	case Managed, Owned, Hostdev:
		s.Trust = &yes
	case Incoming:
		s.VLAN.ID = 0
	}
	return s
}

// guest is libvirt with one domain.
func (w *World) guest(p *Process, d *Domain) {
	for life := 0; life < 3 && (life == 0 || w.tape.Next(3) > 0); life++ {
		d.kind, d.named, d.vlan, d.xml = kinds[w.tape.Next(len(kinds))], w.tape.Next(2), 40+w.tape.Next(3), ""
		if d.kind == Incoming && !w.incoming(p, d) {
			continue
		}
		if !w.start(p, d) {
			continue
		}
		for range w.tape.Next(12) {
			p.pause()
		}
		if w.tape.Rarely(6) {
			w.reconnect(p, d)
		}
		if d.onVF() && d.kind != Owned && w.tape.Rarely(4) {
			w.tell("%s is unplugged from VF %d", d.Name, d.vf)
			w.detach(p, d)
			for range w.tape.Next(30) {
				p.pause()
			}
		}
		w.stop(p, d)
	}
}

// incoming plays the destination's side of a migration before the start; false when it
// goes no further.
func (w *World) incoming(p *Process, d *Domain) bool {
	d.begin(w)
	out, err := w.hook(p, d, "migrate", d.XML())
	if err != nil {
		w.refused(d, "migrate", err)
		return false
	}
	if _, after, found := strings.Cut(out, "<source dev='vf"); found {
		_, _ = fmt.Sscanf(after, "%d", &d.named)
		d.xml, d.reserved = out, d.named
		w.tell("%s: migrate prints VF %d", d.Name, d.named)
		for _, o := range w.Domains {
			if o != d && o.reserved == d.named && o.State == Shut {
				w.violated("distinct", "migrations of %s and %s were both given VF %d", o.Name, d.Name, d.named)
			}
		}
	} else {
		return false // not rewritten: the hook is not installed
	}
	for range w.tape.Next(20) {
		p.pause()
	}
	if w.tape.Rarely(4) {
		w.tell("%s: its migration is abandoned", d.Name)
		d.reserved = -1
		return false
	}
	return true
}

func (d *Domain) begin(w *World) {
	d.excused = false
	w.excuse(d)
}

// start is qemuProcessStart.
func (w *World) start(p *Process, d *Domain) bool {
	d.State, d.vf, d.device, d.disturbed, d.hookless = Starting, -1, "", false, !w.installed
	d.starts++
	d.begin(w)
	defer func() { d.reserved = -1 }()
	if _, err := w.hook(p, d, "prepare", d.XML()); err != nil {
		w.refused(d, "prepare", err)
		w.end(p, d)
		return false
	}
	if err := w.attach(p, d); err != nil {
		w.tell("%s: libvirt: %v", d.Name, err)
		w.refused(d, "libvirt", err)
		w.end(p, d)
		return false
	}
	if _, err := w.hook(p, d, "start", d.live()); err != nil {
		w.refused(d, "start", err)
		w.end(p, d)
		return false
	}
	for _, l := range w.Kernel.sorted() { // qemuInterfaceStartDevice
		if l.Name == d.device && l.Kind == "macvtap" {
			w.Kernel.Links[l.Parent].Up, l.Up = true, true
		}
	}
	p.pause()
	d.State = Running
	w.tell("%s runs (%s, VF %d)", d.Name, d.kind, d.vf)
	return true
}

// stop is qemuProcessStop of a guest that ran.
func (w *World) stop(p *Process, d *Domain) {
	for d.reconnecting { // libvirt does one thing with a domain at a time
		time.Sleep(time.Millisecond)
	}
	w.tell("%s ends", d.Name)
	d.State = Starting // no longer a guest that keeps its things, and not shut off yet
	w.end(p, d)
}

// end is qemuProcessStop.
func (w *World) end(p *Process, d *Domain) {
	shut := *d
	shut.device = ""
	if d.spared = nil; w.installed && d.onVF() && d.kind != Owned && d.vf < 0 {
		if o := w.holder(d.named); o != nil && o.kind != Hostdev && o != d && o.State == Running {
			d.spared, d.sparedStart = o, o.starts
		}
	}
	_, _ = w.hook(p, d, "stopped", shut.XML())
	if d.called != nil && (d.called.killed || d.called.blind) {
		d.spared = nil
	}
	w.detach(p, d)
	_, _ = w.hook(p, d, "release", shut.XML())
	d.State, d.saved = Shut, ""
	p.pause()
}

func (w *World) vf(number int) *VF { return w.Kernel.Function(number) }

// attach is what libvirt does for the NIC between prepare and start.
func (w *World) attach(p *Process, d *Domain) error {
	ctx := context.Background()
	p.pause()
	if d.onVF() && d.kind != Owned {
		if d.kind == Plain && w.installed && !w.journalled(d, w.vf(d.named).Device) {
			// It starts although nothing could be written of it, and nobody knows of it.
			d.disturbed, w.residue[d.named] = true, true
		}
		for _, o := range w.Domains { // a plain guest goes on where another's claim is
			if o != d && d.kind == Plain && w.journalled(o, w.vf(d.named).Device) {
				w.residue[d.named] = true
				d.disturbed = d.disturbed || w.hiding()
			}
		}
		for _, o := range w.Domains { // libvirt knows of no other that wants it
			if o != d && (o.vf == d.named && d.kind != Hostdev || o.attaching && o.named == d.named) {
				w.disturb(o, d)
			}
		}
		d.attaching = true
		defer func() { d.attaching = false }()
	}
	switch d.kind {
	case Plain, Managed, Incoming:
		return w.attachPassthrough(ctx, p, d)
	case Hostdev:
		v := w.vf(d.named)
		if w.hostdevs[d.named] != nil || v.Netdev == "" {
			return errors.New("PCI device is in use by another domain")
		}
		w.save(d, "hostdevmgr", v)
		w.hostdevs[d.named], d.vf = d, d.named
		w.Kernel.Unbind(d.named, "vfio-pci")
		v.Give(d.MAC, d.vlan)
		v.Fixed = true
	case Owned:
		l := w.Kernel.byName("ldt" + d.Name)
		if l == nil {
			return errors.New("no such device")
		}
		d.device = l.Name
		if v := w.Kernel.under(l.Index); v != nil {
			d.vf = v.Number
		}
	case Shared:
		lower := w.Kernel.byName(sharedVLAN)
		if lower == nil {
			return errors.New("no such device " + sharedVLAN)
		}
		d.device = "macvtap" + d.Name
		return p.Kernel.AddMacvtap(ctx, link.Macvtap{Name: d.device, Lower: lower.Index, Mode: "bridge", MAC: d.MAC})
	case OVSPort:
		if w.OVS.Down {
			d.excused = true
			return errors.New("ovs-vsctl: no answer")
		}
		d.device = "vnet" + d.Name
		w.Kernel.Add(link.Link{Name: d.device, Kind: "tun", MTU: 1500, Up: true})
		w.OVS.ByName[d.device] = ovs.Port{Name: d.device, Bridge: ovsBridge}
	}
	return nil
}

// attachPassthrough is virNetDevMacVLanCreateWithVPortProfile: the VF's settings are
// saved and changed before the macvtap is made.
func (w *World) attachPassthrough(ctx context.Context, p *Process, d *Domain) error {
	v := w.vf(d.named)
	lower := w.Kernel.byName(v.Netdev)
	if v.Netdev == "" || lower == nil {
		return errors.New("no such device")
	}
	w.save(d, "qemu", v)
	defer func() {
		if d.vf < 0 { // what it has saved and changed it can leave
			w.residue[d.named] = true
		}
	}()
	vlan := d.settings().VLAN.ID
	err := p.Kernel.SetMAC(ctx, lower.Index, d.MAC)
	if errors.Is(err, link.ErrMACFixed) { // then it is given by the PF, and the driver bound again
		v.Give(d.MAC, vlan)
		lower.MAC, err = d.MAC, nil
	}
	if err != nil {
		return err
	}
	v.VLAN = &link.VFVLAN{ID: vlan, Proto: link.Dot1Q}
	name := "macvtap" + d.Name
	if err := p.Kernel.AddMacvtap(ctx, link.Macvtap{Name: name, Lower: lower.Index, Mode: "passthrough", MAC: d.MAC}); err != nil {
		for _, o := range w.Domains { // whose device stands there by now
			if o != d && (o.vf == d.named || slices.Contains(w.Kernel.uppers(lower.Index), "ldt"+o.Name)) {
				w.disturb(o, d)
			}
		}
		return err
	}
	d.device, d.vf = name, d.named
	return nil
}

// config is what libvirt saves of a VF (virNetDevSaveNetConfig).
type config struct {
	AdminMAC string `json:"adminMac"`
	VLAN     int    `json:"vlanTag"`
	MAC      string `json:"mac"`
}

func (w *World) save(d *Domain, part string, v *VF) {
	c := config{AdminMAC: *v.MAC, VLAN: v.VLAN.ID}
	if l := w.Kernel.byName(v.Netdev); l != nil {
		c.MAC = l.MAC
	}
	d.saved = fmt.Sprintf("%s/%s_vf%d", part, pfName, v.Number)
	text, _ := json.Marshal(c) // it is plain text and numbers
	w.Libvirt[d.saved] = text
}

// restore is virNetDevReadNetConfig, which removes the file, and virNetDevSetNetConfig.
func (w *World) restore(p *Process, d *Domain, file string, v *VF) {
	text, there := w.Libvirt[file]
	if !there {
		return
	}
	delete(w.Libvirt, file)
	var c config
	_ = json.Unmarshal(text, &c) // we have written it
	for _, o := range w.Domains {
		if o.vf == v.Number && o == d.spared && o.starts == d.sparedStart && o.State == Running && !o.disturbed {
			w.violated("kept", "libvirt undoes VF %d of %s, which runs, at the end of %s", v.Number, o.Name, d.Name)
		}
		if o.vf == v.Number || o.attaching && o.named == v.Number {
			w.disturb(o, nil)
		}
	}
	if strings.HasPrefix(file, "hostdevmgr") {
		v.Give(c.MAC, c.VLAN)
		return
	}
	if l := w.Kernel.byName(v.Netdev); l != nil && v.Netdev != "" {
		if err := p.Kernel.SetMAC(context.Background(), l.Index, c.MAC); err != nil {
			v.Give(c.MAC, c.VLAN)
			l.MAC = c.MAC
		}
	}
	v.VLAN = &link.VFVLAN{ID: c.VLAN, Proto: link.Dot1Q}
}

// detach is what libvirt does for the NIC between stopped and release, and at an unplug.
// Before version 11 it also restores the VF of a NIC that it has not got to.
func (w *World) detach(p *Process, d *Domain) {
	p.pause()
	had, device := d.vf >= 0, d.device
	d.vf, d.device = -1, ""
	switch d.kind {
	case Plain, Managed, Incoming:
		v := w.vf(d.named)
		if l := w.Kernel.byName(device); l != nil && device != "" {
			_ = p.Kernel.Delete(context.Background(), l.Index)
		}
		if had || w.old && d.State != Running {
			w.restore(p, d, fmt.Sprintf("qemu/%s_vf%d", pfName, v.Number), v)
		}
	case Hostdev:
		if w.hostdevs[d.named] == d {
			delete(w.hostdevs, d.named)
			v := w.vf(d.named)
			w.restore(p, d, d.saved, v)
			w.Kernel.Bind(d.named, fmt.Sprintf("vf%d", d.named))
		}
	case Shared, OVSPort:
		if l := w.Kernel.byName(device); l != nil && device != "" {
			w.Kernel.remove(l.Index)
		}
		delete(w.OVS.ByName, device)
	}
	p.pause()
}

// reconnect is what a libvirtd that is started does for a guest that runs.
func (w *World) reconnect(p *Process, d *Domain) {
	if d.State != Running { // it ended just now
		return
	}
	d.reconnecting = true
	defer func() { d.reconnecting = false }()
	live := *d
	if d.vf < 0 && d.onVF() { // its NIC was unplugged
		live.kind, live.xml = User, ""
	}
	if d.hookless && d.vf >= 0 && d.settings().Trust != nil { // set now, and not known from before
		w.residue[d.vf] = true
	}
	if _, err := w.hook(p, d, "reconnect", live.live()); err != nil && !errors.Is(err, errKilled) {
		w.violated("reconnect", "%s: reconnect fails: %v", d.Name, err)
	}
}

// hiding reports whether a file of libvirt's is hidden at this moment, or was by a hook
// that was killed.
func (w *World) hiding() bool {
	for name := range w.Libvirt {
		if strings.HasSuffix(name, ".libvirt-direct") {
			return true
		}
	}
	return false
}

// disturb notes that libvirt itself changes the VF of a guest that runs: because another
// domain has got as far as taking it, or because a start that failed is undone from the
// file that libvirt has saved for the guest.
func (w *World) disturb(o, by *Domain) {
	w.tell("libvirt changes VF %d of %s", o.named, o.Name)
	o.disturbed = true
	if o.vf >= 0 {
		w.residue[o.vf] = true
	} else if o.attaching {
		w.residue[o.named] = true
	}
	if by != nil {
		by.disturbed = true
		w.residue[by.named] = true
	}
}

// holder is the domain whose guest has a VF.
func (w *World) holder(number int) *Domain {
	for _, d := range w.Domains {
		if d.vf == number {
			return d
		}
	}
	return nil
}
