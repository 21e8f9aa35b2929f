package hooktest

import (
	"testing"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// fakeSwitch is a SwitchHost without Open vSwitch.
type fakeSwitch struct{ s *OVS }

func (h fakeSwitch) Switch() step.Switch { return h.s }

func (h fakeSwitch) Away() step.Switch {
	s := NewOVS("br0")
	s.Down = true
	return s
}

func (h fakeSwitch) Tap(name string) { h.s.Kernel.Add(link.Link{Name: name, Kind: "tun"}) }

func (h fakeSwitch) Port(name string, tag int, ids map[string]string) {
	h.s.ByName[name] = ovs.Port{Name: name, Bridge: "br0", VLAN: &ovs.VLAN{Tag: &tag}, IDs: ids}
}

func (h fakeSwitch) Bind(name string) { h.s.Bound[name] = true }

func (h fakeSwitch) Shown(name string) (ovs.Port, bool) {
	p, ok := h.s.ByName[name]
	return p, ok
}

func TestSwitch(t *testing.T) {
	SwitchContract().Run(t, func(*testing.T) SwitchHost {
		s := NewOVS("br0")
		s.Kernel, s.Bound = NewKernel().Devices, map[string]bool{}
		return fakeSwitch{s}
	})
}
