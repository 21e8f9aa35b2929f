package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"libvirt-direct/internal/journal"
	"libvirt-direct/vdp"
	"libvirt-direct/xmlfilter"
)

// typeQbg is the <virtualport type=> of 802.1Qbg, whose VSIs are associated by VDP.
const typeQbg = "802.1Qbg"

// Station associates VSIs with the switch: the host's vdpd or lldpad.
type Station interface {
	// Ready returns nil when the switch has agreed to EVB on a port, and otherwise
	// why it has not. It does not wait; the error matches ErrNotYet where waiting
	// can help.
	Ready(ctx context.Context, port string) error
	// Associate waits for the switch's answer.
	Associate(ctx context.Context, port string, v vdp.VSI) error
	// DeAssociate is no error for a VSI that the station does not have.
	DeAssociate(ctx context.Context, port string, v vdp.VSI) error
}

// EVB waits until the switch has agreed to EVB on the port, so that libvirt's own
// association, which follows, does not come too early. There is nothing to undo.
type EVB struct {
	momentary
	Port string `json:"port"`
}

// VSI associates a hook-owned NIC with the switch (IEEE 802.1Qbg, VDP). The numbers
// are libvirt's virtualport parameters.
type VSI struct {
	Port        string `json:"port"`
	Instance    string `json:"instance"` // UUID
	Manager     uint8  `json:"manager"`
	TypeID      uint32 `json:"type_id"`
	TypeVersion uint8  `json:"type_version"`
	MAC         string `json:"mac"`
	VLAN        int    `json:"vlan"`
}

// vdp is the VSI as the station takes it.
func (v *VSI) vdp() (vdp.VSI, error) {
	id, err := vdp.ParseUUID(v.Instance)
	if err != nil {
		return vdp.VSI{}, err
	}
	mac, err := net.ParseMAC(v.MAC)
	if err != nil {
		return vdp.VSI{}, err
	}
	if len(mac) != 6 {
		return vdp.VSI{}, fmt.Errorf("MAC address %s", v.MAC)
	}
	return vdp.VSI{
		ID: id, Manager: vdp.ManagerID{v.Manager}, TypeID: v.TypeID, TypeVersion: v.TypeVersion,
		FilterFormat: vdp.FilterMACVID,
		Filters:      []vdp.Filter{{MAC: vdp.MAC(mac), VID: uint16(v.VLAN)}},
	}, nil
}

// isQbg reports whether a NIC is to be associated by VDP.
func (v *VSI) key() string { return "vsi " + v.Instance }

func (v *VSI) resource() (name string, shared bool) {
	return fmt.Sprintf("vsi/%s/i-%s", v.Port, v.Instance), false
}

func (v *VSI) does() string {
	return fmt.Sprintf("associate VSI %s with the switch at %s: manager %d, type %d version %d, VLAN %d",
		v.Instance, v.Port, v.Manager, v.TypeID, v.TypeVersion, v.VLAN)
}

func (v *VSI) holds() string {
	return fmt.Sprintf("VSI %s on %s (VLAN %d)", v.Instance, v.Port, v.VLAN)
}

func (v *VSI) undoes() string { return "de-associate VSI " + v.Instance }

func (v *VSI) check() error {
	_, err := v.vdp()
	return cmp.Or(err, checkNames(v.Port))
}

func (v *VSI) quiet(ctx context.Context, a *applier, s Step) error { return a.leave(ctx, s) }

func (v *VSI) quiets() (text string, last bool) { return v.undoes(), false }

// takeOver: two guests cannot have one instance.
func (v *VSI) takeOver(s Step, holder journal.Claim) (Step, journal.Phase, error) {
	return s, "", remedy(ErrInUse, "VSI %s is domain %q's; give this guest an instance of its own, or run libvirt-direct gc if that is gone", v.Instance, holder.Name)
}

// compare: how it is associated is the station's to show.
func (v *VSI) compare(context.Context, Kernel, *Held) error { return nil }

func (e *EVB) key() string { return "evb " + e.Port }

func (e *EVB) does() string {
	return fmt.Sprintf("wait until the switch at %s has agreed to EVB", e.Port)
}

func (e *EVB) holds() string { return e.does() }

func isQbg(v *xmlfilter.VirtualPort) bool { return v != nil && v.Type == typeQbg }

// vsiOf reads the parameters of a <virtualport type='802.1Qbg'>, and refuses before
// libvirt tries what no switch can take: manager 0, which is reserved, and VLAN 0.
func vsiOf(v *xmlfilter.VirtualPort, mac, port string, vlan int) (*VSI, error) {
	if vlan == 0 {
		return nil, remedy(ErrUnsuitable, "802.1Qbg needs a VLAN: name it in <source dev='%s.VID'>, or a VF's in <vlan>", port)
	}
	number := func(name string, bits int) (uint64, error) {
		n, err := strconv.ParseUint(v.Parameters[name], 0, bits) // base 0, as libvirt reads it
		if err != nil {
			return 0, remedy(ErrUnsuitable, "<virtualport> %s=%q; want a number of %d bits", name, v.Parameters[name], bits)
		}
		return n, nil
	}
	manager, err := number("managerid", 8)
	if err != nil {
		return nil, err
	}
	if manager == 0 {
		return nil, remedy(ErrUnsuitable, "<virtualport> managerid 0 is reserved: name the VSI manager's, 1 to 255")
	}
	typeID, err := number("typeid", 24)
	if err != nil {
		return nil, err
	}
	version, err := number("typeidversion", 8)
	if err != nil {
		return nil, err
	}
	instance := v.Parameters["instanceid"]
	if _, err := vdp.ParseUUID(instance); err != nil {
		return nil, remedy(ErrUnsuitable, "<virtualport> instanceid=%q; define the domain first, libvirt gives it one", instance)
	}
	return &VSI{
		Port: port, Instance: instance, Manager: uint8(manager), TypeID: uint32(typeID), TypeVersion: uint8(version),
		MAC: mac, VLAN: vlan,
	}, nil
}

// assistedQbg checks what libvirt would only find out on the way, and plans to wait
// for the switch.
func (p *planner) assistedQbg(n *xmlfilter.NIC) error {
	source := p.host.Devices[n.Source.Dev]
	port, vid := cmp.Or(source.Name, n.Source.Dev), 0
	if source.Kind == "vlan" {
		port, vid = source.ParentName, source.VLANID
	}
	for _, s := range p.steps {
		if s.VLAN != nil && s.NIC == p.id(n) {
			port, vid = s.VLAN.Parent, s.VLAN.ID
		}
	}
	v, err := vsiOf(n.VirtualPort, n.MAC, port, vid)
	if err != nil {
		return err
	}
	p.add(Step{NIC: p.id(n), EVB: &EVB{Port: v.Port}})
	return nil
}

// hostdevQbg plans the association of a VF that is a guest's by VFIO, for which libvirt
// knows no 802.1Qbg: at start, when the VF has its MAC and VLAN.
func (p *planner) hostdevQbg(n *xmlfilter.NIC, s settings, vf VFDevice) error {
	if n.Type != "hostdev" || n.Settings == nil || n.Settings.Was == nil || !isQbg(n.Settings.Was.VirtualPort) {
		return nil
	}
	v, err := vsiOf(n.Settings.Was.VirtualPort, n.MAC, vf.PFName, vlanOf(n, s))
	if err != nil {
		return err
	}
	p.add(Step{NIC: p.id(n), VSI: v})
	return nil
}

// vlanOf is the VLAN of a VF: by the NIC's words, or its <vlan>.
func vlanOf(n *xmlfilter.NIC, s settings) int {
	if s.vlan == 0 && n.VLAN != nil && len(n.VLAN.Tags) == 1 {
		return n.VLAN.Tags[0]
	}
	return s.vlan
}

// withStation lets the steps connect to the host's station, when one first needs it.
// The returned function ends the connection.
func (a *applier) withStation(open func(context.Context) (Station, func(), error)) (end func()) {
	closeIt := func() {}
	a.openStation = func(ctx context.Context) (Station, error) {
		st, closeStation, err := open(ctx)
		if err == nil {
			closeIt = closeStation
		}
		return st, err
	}
	return func() { closeIt() }
}

// theStation is the host's station, connected to once.
func (a *applier) theStation(ctx context.Context) (Station, error) {
	if a.station == nil {
		s, err := a.openStation(ctx)
		if err != nil {
			return nil, err
		}
		a.station = s
	}
	return a.station, nil
}

// evbPoll is how often a station is asked whether the switch has agreed by now.
const evbPoll = 100 * time.Millisecond

// do waits for the switch. At reconnect libvirt's own association is long over.
func (e *EVB) do(ctx context.Context, a *applier, _ Step) error {
	if a.op == Reconnect {
		return nil
	}
	return a.awaitEVB(ctx, e.Port)
}

func (a *applier) awaitEVB(ctx context.Context, port string) error {
	st, err := a.theStation(ctx)
	if err != nil {
		return err
	}
	for {
		err := st.Ready(ctx, port)
		if !errors.Is(err, ErrNotYet) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(evbPoll):
		}
	}
}

func (*VSI) do(ctx context.Context, a *applier, s Step) error {
	if err := a.awaitEVB(ctx, s.VSI.Port); err != nil {
		return err
	}
	v, err := s.VSI.vdp()
	if err != nil {
		return err
	}
	done, err := a.intend(s)
	if err != nil {
		return err
	}
	if err := a.station.Associate(ctx, s.VSI.Port, v); err != nil {
		return err
	}
	a.note("associated VSI %s on %s", s.VSI.Instance, s.VSI.Port)
	return done()
}

// leave takes a VSI back from the switch. A station that is gone has forgotten it, or
// restores it: then its VSI ends with the switch's own time-out.
func (a *applier) leave(ctx context.Context, s Step) error {
	v, err := s.VSI.vdp()
	if err != nil {
		return err
	}
	st, err := a.theStation(ctx)
	if errors.Is(err, ErrNoStation) {
		a.note("VSI %s was not taken back: %v", s.VSI.Instance, err)
		return nil
	}
	if err != nil {
		return err
	}
	return st.DeAssociate(ctx, s.VSI.Port, v)
}

func (*VSI) undo(ctx context.Context, a *applier, s Step) error {
	if err := a.leave(ctx, s); err != nil {
		return err
	}
	a.note("de-associated VSI %s", s.VSI.Instance)
	return a.drop(s.key())
}
