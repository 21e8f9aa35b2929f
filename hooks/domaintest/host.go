package domaintest

import (
	"fmt"
	"strings"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// Host is one on which domains are defined, or to which they come: what a survey would find.
type Host struct {
	Name    string
	Config  *config.Config
	devices map[string]plan.Device // by name and alternative name
	uplinks map[string]string      // devices, by uplink
	vfs     map[string]plan.VFDevice
	free    map[string][]string // network devices of VFs that nobody has, by uplink
}

// profiles are on each host.
const profiles = "[profile.gold]\nallmulticast = true\n"

// Hosts are those of one site: the same networks, on devices with other names. What one calls
// its first card is another card on the next.
func Hosts() []*Host {
	one := newHost("one", map[string]string{"lan": "eth0", "san": "eth1", "fast": "ens1f0", "brnet": "br0", "ovsnet": "ovsbr0"}, `
[uplink.lan]
device = "eth0"
also = ["eno1", "enp3s0"]
[uplink.san]
device = "eth1"
also = ["eno2"]
[uplink.fast]
device = "ens1f0"
[uplink.brnet]
device = "br0"
[uplink.ovsnet]
device = "ovsbr0"
also = ["ovs-elsewhere"]
`)
	one.vlan("eth0", 100)
	two := newHost("two", map[string]string{"lan": "enp3s0", "san": "eno1", "fast": "enp9s0f0", "brnet": "br7", "ovsnet": "ovs-elsewhere"}, `
[uplink.lan]
device = "enp3s0"
also = ["eth0"]
vlans = ["1-99", "100"]
[uplink.san]
device = "eno1"
also = ["eth1", "eno2"]
allmulticast = true
[uplink.fast]
device = "enp9s0f0"
also = ["ens1f0"]
associate = "hook"
[uplink.brnet]
device = "br7"
also = ["br0"]
[uplink.ovsnet]
device = "ovs-elsewhere"
also = ["ovsbr0"]
`)
	two.vlan("eno1", 7)
	bare := newHost("bare", map[string]string{}, "")
	for i, name := range []string{"eth0", "eth1", "eno1", "eno2", "enp3s0", "br0", "ovsbr0"} {
		bare.device(name, 2+i)
	}
	bare.vlan("eth1", 7)
	return []*Host{one, two, bare}
}

func newHost(name string, uplinks map[string]string, text string) *Host {
	cfg, err := config.Parse("config.toml", []byte(text+profiles))
	if err != nil {
		panic(fmt.Sprintf("host %s: %v", name, err)) // a constant
	}
	h := &Host{Name: name, Config: cfg, devices: map[string]plan.Device{}, uplinks: uplinks, vfs: map[string]plan.VFDevice{}, free: map[string][]string{}}
	for i, uplink := range []string{"lan", "san", "brnet", "ovsnet", "fast"} {
		if dev := uplinks[uplink]; dev != "" {
			h.device(dev, 2+i)
		}
	}
	if pf, there := h.devices[uplinks["fast"]]; there {
		for n := range 4 {
			h.function("fast", pf, n)
		}
	}
	return h
}

func (h *Host) device(name string, index int) {
	dev := plan.Device{Name: name, Index: index, MTU: 1500}
	switch {
	case strings.HasPrefix(name, "br"):
		dev.Kind, dev.Bridge = "bridge", &link.Bridge{VLANFiltering: true}
	case strings.HasPrefix(name, "ovs"):
		dev.Kind = "openvswitch"
	}
	h.devices[name] = dev
}

func (h *Host) vlan(parent string, vid int) {
	p := h.devices[parent]
	name := fmt.Sprintf("%s.%d", parent, vid)
	h.devices[name] = plan.Device{Name: name, Index: 100 + vid, Kind: "vlan", VLANID: vid, Parent: p.Index, ParentName: parent, Below: &p, MTU: 1500}
}

// function adds a virtual function; the first is in use.
func (h *Host) function(uplink string, pf plan.Device, n int) {
	name := fmt.Sprintf("%sv%d", pf.Name, n)
	vf := plan.VFDevice{
		VFPlace: link.VFPlace{PF: "0000:03:00.0", Number: n, Device: link.PCIAddress(0, 3, 0x10, uint8(n))},
		PFName:  pf.Name, PFIndex: pf.Index, Netdev: name, Driver: "igbvf", NUMA: -1,
	}
	if n == 0 {
		vf.Used = "macvtap9 stands on it"
	} else {
		h.free[uplink] = append(h.free[uplink], name)
	}
	h.devices[name] = plan.Device{Name: name, Index: 50 + n, VF: true, MTU: 1500}
	h.vfs[name], h.vfs[vf.Device] = vf, vf
}

// Survey is what is found of the host for a domain (hooks.Survey).
func (h *Host) Survey(d *xmlfilter.Domain) plan.Snapshot {
	s := plan.Snapshot{
		Owner: d.UUID, Devices: h.devices, Uplinks: map[string]plan.Device{}, Missing: map[string]error{},
		VFs: map[string]plan.VFDevice{}, Free: map[string][]plan.VFDevice{}, Pooled: map[string][]string{},
		Held: map[string]plan.VFDevice{}, Obstacles: map[string][]link.Obstacle{},
	}
	for uplink, dev := range h.uplinks {
		s.Uplinks[uplink] = h.devices[dev]
	}
	named := map[string]bool{}
	for i := range d.NICs {
		n := &d.NICs[i]
		names := []string{n.Source.Dev, n.Source.PCI}
		if n.Settings != nil {
			names = append(names, n.Settings.Dev)
		}
		for _, name := range names {
			if vf, is := h.vfs[name]; is {
				s.VFs[name] = vf
				named[vf.Netdev] = true
			}
		}
	}
	for uplink, devs := range h.free {
		for _, dev := range devs {
			if !named[dev] {
				s.Free[uplink] = append(s.Free[uplink], h.vfs[dev])
			}
		}
	}
	return s
}
