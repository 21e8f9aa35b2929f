package step

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/settings"
)

// BridgePort sets on the tap that libvirt has put into a bridge what libvirt does not.
// There is nothing to undo: the tap goes with the domain.
type BridgePort struct {
	momentary
	Device string          `json:"device"` // "" before libvirt has made it
	Bridge string          `json:"bridge"`
	Flags  link.PortFlags  `json:"flags"`
	VLANs  []link.PortVLAN `json:"vlans,omitempty"` // nil: as they are
	// MAC is the guest's, for a port that does not learn.
	MAC string `json:"mac,omitempty"`
}

func (*BridgePort) Type() string { return "bridge_port" }

func (b *BridgePort) Key() string { return "bridge port " + b.Device }

func (b *BridgePort) Does() string {
	return fmt.Sprintf("set %s in bridge %s: %s", cmp.Or(b.Device, "its tap"), b.Bridge, b)
}

func (b *BridgePort) Holds() string { return b.Does() }

func (b *BridgePort) String() string {
	text := b.Flags.String()
	if v := portVLANText(b.VLANs); v != "" {
		text = joinText(text, v)
	}
	if b.MAC != "" {
		text = joinText(text, "address "+b.MAC)
	}
	return text
}

func joinText(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}

// portVLANText says what VLANs a port has: "VLAN 10", or "native VLAN 10, tagged 20-29".
func portVLANText(vlans []link.PortVLAN) string {
	var tagged []int
	text := ""
	for _, v := range vlans {
		switch {
		case v.PVID && v.Untagged && len(vlans) == 1:
			return "VLAN " + strconv.Itoa(v.ID)
		case v.PVID && v.Untagged:
			text = "native VLAN " + strconv.Itoa(v.ID)
		case v.PVID:
			text = "native VLAN " + strconv.Itoa(v.ID) + " (tagged)"
		default:
			tagged = append(tagged, v.ID)
		}
	}
	if len(tagged) > 0 {
		text = joinText(text, "tagged "+settings.FormatVLANs(tagged))
	}
	return text
}

func (b *BridgePort) Do(ctx context.Context, e *Env) error {
	dev, err := e.Kernel.ByName(ctx, b.Device)
	if err != nil {
		return err
	}
	bridge, err := e.Kernel.ByName(ctx, b.Bridge)
	if err != nil {
		return err
	}
	if dev.Master != bridge.Index {
		return fmt.Errorf("%w: %s is no port of %s", ErrWrongDevice, b.Device, b.Bridge)
	}
	if b.VLANs != nil {
		if err := e.Kernel.SetPortVLANs(ctx, dev.Index, b.VLANs); err != nil {
			return err
		}
	}
	if b.MAC != "" { // behind the VLANs: it is entered in each that the port has
		if err := e.Kernel.AddPortMAC(ctx, dev.Index, b.MAC); err != nil {
			return err
		}
	}
	// Behind the address: a locked port takes frames from no other.
	if b.Flags != (link.PortFlags{}) {
		if err := e.Kernel.SetPortFlags(ctx, dev.Index, b.Flags); err != nil {
			return err
		}
	}
	e.Event("%s in %s has %s", b.Device, b.Bridge, b)
	return nil
}
