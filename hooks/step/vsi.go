package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"

	"libvirt-direct/internal/journal"
	"libvirt-direct/vdp"
)

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

func (*VSI) Type() string { return "vsi" }

func (v *VSI) AssociatedAt() string { return v.Port }

func (v *VSI) Key() string { return "vsi " + v.Instance }

func (v *VSI) Resource() (name string, shared bool) {
	return journal.VSIResource(v.Port, v.Instance), false
}

// Until is the moment when the guest is gone: the switch is to have the VSI free when it
// starts elsewhere.
func (*VSI) Until() Op { return Stopped }

func (v *VSI) Does() string {
	return fmt.Sprintf("associate VSI %s with the switch at %s: manager %d, type %d version %d, VLAN %d",
		v.Instance, v.Port, v.Manager, v.TypeID, v.TypeVersion, v.VLAN)
}

func (v *VSI) Holds() string {
	return fmt.Sprintf("VSI %s on %s (VLAN %d)", v.Instance, v.Port, v.VLAN)
}

func (v *VSI) Undoes() string { return "de-associate VSI " + v.Instance }

func (v *VSI) Check() error {
	_, err := v.vdp()
	return cmp.Or(err, checkNames(v.Port))
}

// TakeOver refuses: two guests cannot have one instance.
func (v *VSI) TakeOver(_ Kind, holder journal.Claim) (Kind, journal.Phase, error) {
	return nil, "", Hint(ErrInUse, "VSI %s is domain %q's; give this guest an instance of its own, or run libvirt-direct gc if that is gone", v.Instance, holder.Name)
}

// Observe sees nothing: how it is associated is the station's to show.
func (v *VSI) Observe(context.Context, Kernel, *Observed) error { return nil }

// Do waits for the switch, and associates.
func (v *VSI) Do(ctx context.Context, e *Env) error {
	station, err := e.awaitEVB(ctx, v.Port)
	if err != nil {
		return err
	}
	request, err := v.vdp()
	if err != nil {
		return err
	}
	if err := e.Save(journal.Intended); err != nil {
		return err
	}
	if err := station.Associate(ctx, v.Port, request); err != nil {
		return err
	}
	e.Event("associated VSI %s on %s", v.Instance, v.Port)
	return e.Save(journal.Done)
}

// Undo takes a VSI back from the switch. A station that is gone has forgotten it, or
// restores it: then its VSI ends with the switch's own time-out.
func (v *VSI) Undo(ctx context.Context, e *Env) error {
	request, err := v.vdp()
	if err != nil {
		return err
	}
	station, err := e.Station(ctx)
	if errors.Is(err, ErrNoStation) {
		e.Event("VSI %s was not taken back: %v", v.Instance, err)
		return nil
	}
	if err != nil {
		return err
	}
	if err := station.DeAssociate(ctx, v.Port, request); err != nil {
		return err
	}
	e.Event("de-associated VSI %s", v.Instance)
	return nil
}
