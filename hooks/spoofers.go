package hooks

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/vdp/control"
	"libvirt-direct/xmlfilter"
)

// Spoofers says which virtual functions can speak as the switch at a port of the host's, one
// line for each card and reason. A card's own switch carries their frames to its PF, where
// they look like the wire's. The port can be a bond, whose ports' count.
func Spoofers(ctx context.Context, k step.Kernel, port link.Link) (lines []string, err error) {
	links, err := k.All(ctx)
	if err != nil {
		return nil, err
	}
	pfs, err := PFsBelow(ctx, k, links, []link.Link{port})
	if err != nil {
		return nil, err
	}
	for _, pf := range pfs {
		vfs, err := k.Spoofers(ctx, pf)
		if err != nil {
			return nil, err
		}
		lines = append(lines, spoofing(pf.Name, vfs)...)
	}
	return lines, nil
}

func spoofing(pf string, vfs []link.VF) (lines []string) {
	numbers := map[string][]string{}
	var reasons []string
	for _, vf := range vfs {
		why := vf.Spoofs()
		if numbers[why] == nil {
			reasons = append(reasons, why)
		}
		numbers[why] = append(numbers[why], strconv.Itoa(vf.Number))
	}
	for _, why := range reasons {
		n := numbers[why]
		who := "VF " + n[0]
		if last := len(n) - 1; last > 0 {
			who = fmt.Sprintf("VFs %s and %s", strings.Join(n[:last], ", "), n[last])
		}
		lines = append(lines, fmt.Sprintf("%s of %s can speak as the switch: %s", who, pf, why))
	}
	return lines
}

// UplinkSpoofers is Spoofers for one of vdpd's uplinks: none while that has no interface, or
// has one in another network namespace.
func UplinkSpoofers(ctx context.Context, k step.Kernel, u *control.Uplink) ([]string, error) {
	port, err := k.ByName(ctx, cmp.Or(u.Device, u.Name)) // an older vdpd does not say which device
	if err != nil || port.Index != u.Ifindex {
		return nil, step.Ignore(err, link.ErrNotFound)
	}
	return Spoofers(ctx, k, port)
}

// SurveySpoofers adds Spoofers to what is known of the host, for the ports where a domain's
// NICs are associated by 802.1Qbg.
func SurveySpoofers(ctx context.Context, k step.Kernel, d *xmlfilter.Domain, cfg *config.Config, h *plan.Snapshot) error {
	h.Spoofers = map[string][]string{}
	for _, name := range newExplanation("", d, cfg, *h).ports() {
		port, err := k.ByName(ctx, name)
		if err == nil {
			h.Spoofers[name], err = Spoofers(ctx, k, port)
		}
		if err := step.Ignore(err, link.ErrNotFound); err != nil {
			return err
		}
	}
	return nil
}
