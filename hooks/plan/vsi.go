package plan

import (
	"cmp"

	"libvirt-direct/hooks/step"
	"libvirt-direct/vdp"
	"libvirt-direct/xmlfilter"
)

// typeQbg is the <virtualport type=> of 802.1Qbg, whose VSIs are associated by VDP.
const typeQbg = "802.1Qbg"

// isQbg reports whether a NIC is to be associated by VDP.
func isQbg(v *xmlfilter.VirtualPort) bool { return v != nil && v.Type == typeQbg }

// vsiOf reads the parameters of a <virtualport type='802.1Qbg'>, and refuses before
// libvirt tries what no switch can take: manager 0, which is reserved, and VLAN 0.
func vsiOf(v *xmlfilter.VirtualPort, mac, port string, vlan int) (*step.VSI, error) {
	if vlan == 0 {
		return nil, step.Hint(step.ErrUnsuitable, "802.1Qbg needs a VLAN: name it in <source dev='%s.VID'>, or a VF's in <vlan>", port)
	}
	number := func(name string, bits int) (uint64, error) {
		n, ok := xmlfilter.Number(v.Parameters[name], 0, bits)
		if !ok {
			return 0, step.Hint(step.ErrUnsuitable, "<virtualport> %s=%q; want a number of %d bits", name, v.Parameters[name], bits)
		}
		return n, nil
	}
	manager, err := number("managerid", 8)
	if err != nil {
		return nil, err
	}
	if manager == 0 {
		return nil, step.Hint(step.ErrUnsuitable, "<virtualport> managerid 0 is reserved: name the VSI manager's, 1 to 255")
	}
	typeID, err := number("typeid", 24)
	if err != nil {
		return nil, err
	}
	version, err := number("typeidversion", 8)
	if err != nil {
		return nil, err
	}
	instance, err := vdp.ParseUUID(xmlfilter.CanonicalUUID(v.Parameters["instanceid"]))
	if err != nil {
		return nil, step.Hint(step.ErrUnsuitable, "<virtualport> instanceid=%q; define the domain first, libvirt gives it one", v.Parameters["instanceid"])
	}
	return &step.VSI{
		Port: port, Instance: instance.String(), Manager: uint8(manager), TypeID: uint32(typeID), TypeVersion: uint8(version),
		MAC: mac, VLAN: vlan,
	}, nil
}

// assistedQbg checks what libvirt would only find out on the way, and plans to wait
// for the switch.
func (p macvtap) assistedQbg(n *xmlfilter.NIC) error {
	source := p.host.Devices[n.Source.Dev]
	port, vid := cmp.Or(source.Name, n.Source.Dev), 0
	if source.Kind == "vlan" {
		port, vid = source.ParentName, source.VLANID
	}
	for _, s := range p.steps {
		if v, is := s.Kind.(*step.VLAN); is && s.NIC == p.id(n) {
			port, vid = v.Parent, v.ID
		}
	}
	v, err := vsiOf(n.VirtualPort, n.MAC, port, vid)
	if err != nil {
		return err
	}
	p.add(step.Step{NIC: p.id(n), Kind: &step.EVB{Port: v.Port}})
	return nil
}

// hostdevQbg plans the association of a VF that is a guest's by VFIO, for which libvirt
// knows no 802.1Qbg: at start, when the VF has its MAC and VLAN.
func (p function) hostdevQbg(n *xmlfilter.NIC, s Settings, vf VFDevice) error {
	if n.Type != "hostdev" || n.Settings == nil || n.Settings.Was == nil || !isQbg(n.Settings.Was.VirtualPort) {
		return nil
	}
	v, err := vsiOf(n.Settings.Was.VirtualPort, n.MAC, vf.PFName, vlanOf(n, s))
	if err != nil {
		return err
	}
	p.add(step.Step{NIC: p.id(n), Kind: v})
	return nil
}

// vlanOf is the VLAN of a VF: by the NIC's settings, or its <vlan>.
func vlanOf(n *xmlfilter.NIC, s Settings) int {
	if s.VLAN == 0 && n.VLAN != nil && len(n.VLAN.Tags) == 1 {
		return n.VLAN.Tags[0]
	}
	return s.VLAN
}
