package hooktest

import (
	"fmt"
	"slices"
	"testing"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
)

// fakeHost is a KernelHost without a kernel.
type fakeHost struct {
	*testing.T
	k *Kernel
}

func newFakeHost(t *testing.T) KernelHost { return &fakeHost{t, NewKernel()} }

func (h *fakeHost) Kernel() step.Kernel { return h.k }

func (h *fakeHost) Card(name string) {
	h.k.Add(link.Link{Name: name, Kind: "veth", MAC: fmt.Sprintf("02:00:00:00:00:%02x", h.k.Next), MTU: 1500, Up: true, Carrier: true})
}

func (h *fakeHost) Bridge(name string) {
	h.k.Add(link.Link{Name: name, Kind: "bridge", MTU: 1500, Up: true, Bridge: &link.Bridge{}})
}

func (h *fakeHost) Join(port, bridge string) { h.k.Join(port, bridge) }

func (h *fakeHost) Container() string { return "process 7 (sleep)" }

func (h *fakeHost) Move(name, container string) { h.k.Move(name, container) }

func (h *fakeHost) In(container string) (names []string) {
	for _, l := range h.k.Away[container] {
		names = append(names, l.Name)
	}
	return names
}

func (h *fakeHost) Receiver(from, mac string, _ ...string) string {
	if l := h.k.Receiver(from, mac); l != nil {
		return l.Name
	}
	return ""
}

func (h *fakeHost) IPv6(name string) bool { return !h.k.NoIPv6[h.k.byName(name).Index] }

func (h *fakeHost) PortVLANs(name string) []link.PortVLAN {
	return slices.Clone(h.k.PortVLANs[h.k.byName(name).Index])
}

func (h *fakeHost) PortMACs(name string) []string { return h.k.PortMACs[h.k.byName(name).Index] }

// Against link.Conn the same rows run in a network namespace and in the test machine.
func TestKernel(t *testing.T) {
	KernelContract().Run(t, newFakeHost)
	VLANContract().Run(t, newFakeHost)
}

// fakeCard is a CardHost and a PortHost without a card.
type fakeCard struct{ k *Kernel }

func newFakeCard() fakeCard {
	k := NewKernel("eth0")
	k.byName("eth0").PermMAC = "02:00:00:00:00:99"
	k.AddVFs("eth0", 2)
	k.Driver.Refuse = []string{link.AttrMinRate}
	return fakeCard{k}
}

func (h fakeCard) Kernel() step.Kernel { return h.k }

func (h fakeCard) Unbind(number int) { h.k.Unbind(number, "") }

type fakeVFs struct{ fakeCard }

func (h fakeVFs) PF() (netdev, address string) { return "eth0", PFAddress }

type fakePorts struct{ fakeCard }

func (h fakePorts) PF() string { return "eth0" }

func (h fakePorts) Profile(vf int) string { return h.k.Profiles[fmt.Sprintf("eth0/%d", vf)] }

func TestCard(t *testing.T) {
	VFContract().Run(t, func(*testing.T) CardHost { return fakeVFs{newFakeCard()} })
	PortContract().Run(t, func(*testing.T) PortHost { return fakePorts{newFakeCard()} })
}
