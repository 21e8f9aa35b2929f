package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"libvirt-direct/internal/noevb"
	"libvirt-direct/vdp"
)

// heard is the last LLDPDU of somebody who could be the switch, whether it has made its sender
// the switch or not.
type heard struct {
	at       time.Time // zero for none
	src, dst vdp.MAC
	lldpdu   vdp.LLDPDU
	foreign  bool // the configuration does not admit the sender
}

// take takes note of a frame that came from the wire.
func (h *heard) take(now time.Time, frame []byte, foreign bool) {
	var (
		f vdp.Frame
		p vdp.LLDPDU
	)
	if f.UnmarshalBinary(frame) != nil || f.EtherType != vdp.EtherTypeLLDP || p.UnmarshalBinary(f.Payload) != nil {
		return
	}
	*h = heard{at: now, src: f.Src, dst: f.Dst, lldpdu: p, foreign: foreign}
}

// flaw says why the EVB TLV has not made its sender the switch; "" where there is none. With
// a fixed edition none is needed.
func (h *heard) flaw() string {
	switch evb, draft := h.lldpdu.EVB, h.lldpdu.Draft; {
	case evb == nil && draft == nil:
		return ""
	case h.foreign:
		return "neighbor in vdpd.toml does not admit"
	case evb != nil && evb.Role == vdp.RoleStation:
		return noevb.NotABridge
	case evb != nil && evb.Role == vdp.RoleBridge, draft != nil && draft.SpeaksVDP():
		return "vdpd has not answered yet"
	case evb != nil:
		return noevb.NotABridge
	}
	return noevb.NoVDP
}

// otherEdition says so where the configuration fixes another edition than a switch offers.
func (h *heard) otherEdition(fixed string) string {
	evb := h.lldpdu.EVB
	bridge := evb != nil && evb.Role == vdp.RoleBridge
	draft := h.lldpdu.Draft != nil && h.lldpdu.Draft.SpeaksVDP()
	switch {
	case fixed == vdp.EditionDraft.String() && bridge && !draft:
		return "it offers the 2012 edition, and vdpd.toml says edition = \"draft\""
	case fixed == vdp.Edition2012.String() && draft && evb == nil:
		return "it offers the draft, and vdpd.toml says edition = \"2012\""
	}
	return ""
}

// explain adds to vdp.ErrNoEVB where to look, and to vdp.ErrNoAnswer that it is the
// configuration. Other errors it returns as they are.
func (p *port) explain(now time.Time, err error) error {
	if errors.Is(err, vdp.ErrNoAnswer) {
		if why := p.heard.otherEdition(p.cfg.Edition); why != "" {
			err = fmt.Errorf("%w: %s", err, why)
		}
		return err
	}
	if !errors.Is(err, vdp.ErrNoEVB) {
		return err
	}
	at := noevb.Port{Name: cmp.Or(p.device.name, p.cfg.Name)}
	if !p.upSince.IsZero() {
		at.Up = now.Sub(p.upSince)
	}
	if h := &p.heard; !h.at.IsZero() {
		at.Heard = &noevb.LLDPDU{Ago: now.Sub(h.at), From: h.src.String(), To: h.dst.String(), Flaw: h.flaw()}
	}
	return fmt.Errorf("%w: %s", err, at.Causes())
}
