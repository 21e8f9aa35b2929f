package vdptest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"libvirt-direct/vdp"
)

// hostile is what the hostile parties know. They know everything that was ever on the
// wire, which is more than a guest hears.
type hostile struct {
	heard [2][][]byte // the last frames, by the end they went to
	seq   [2]uint16   // the last sequence number of an ECP request
	left  []departed  // what guests have sent
}

type departed struct {
	at    time.Time
	frame []byte
}

const heardFrames = 8

// overhears takes note of a frame.
func (h *hostile) overhears(to End, frame []byte) {
	h.heard[to] = append(h.heard[to], frame)
	if n := len(h.heard[to]); n > heardFrames {
		h.heard[to] = h.heard[to][n-heardFrames:]
	}
	var f vdp.Frame
	if f.UnmarshalBinary(frame) != nil {
		return
	}
	if p, err := ecpdu(&f); err == nil && !p.Ack {
		h.seq[to] = p.Sequence
	}
}

func ecpdu(f *vdp.Frame) (*vdp.ECPDU, error) {
	switch f.EtherType {
	case vdp.EtherTypeECP:
		return vdp.UnmarshalECPDU(vdp.Edition2012, f.Payload)
	case vdp.EtherTypeECPDraft:
		return vdp.UnmarshalECPDU(vdp.EditionDraft, f.Payload)
	}
	return nil, vdp.ErrUnsupported
}

// sent reports whether a guest sent the same bytes so lately that they count as an echo.
func (h *hostile) sent(now time.Time, frame []byte) bool {
	h.left = slices.DeleteFunc(h.left, func(d departed) bool { return now.Sub(d.at) > echoMemory })
	frame = unpad(frame)
	return slices.ContainsFunc(h.left, func(d departed) bool { return bytes.Equal(unpad(d.frame), frame) })
}

// unpad leaves out zeros at the end: nobody can tell padding from them.
func unpad(frame []byte) []byte { return bytes.TrimRight(frame, "\x00") }

// pad is what a wire makes of a short frame.
func pad(frame []byte) []byte {
	if n := len(frame); n < 60 {
		frame = append(slices.Clone(frame), make([]byte, 60-n)...)
	}
	return frame
}

// guest lets a guest send something. It leaves through the uplink, and may come back.
func (p *play) guest(r *rand.Rand) {
	if p.harmless || !p.link {
		return
	}
	f := p.forge(r)
	back, after, burst := r.IntN(4) > 0, time.Duration(r.Int64N(int64(hairpinTime))), r.IntN(16) == 0
	tag := r.IntN(12) == 0
	n := 1
	if burst {
		n = 40
	}
	for i := range n {
		if i > 0 {
			f = p.forge(r)
		}
		out := f
		if tag && len(f) >= 14 { // with the port's own VLAN, which the switch takes off
			out = slices.Concat(f[:12], []byte{0x81, 0, 0, byte(i % 2)}, f[12:])
		}
		p.tell("guest sends %s", described(f))
		if p.st != nil {
			p.st.Sent(p.now, out)
		}
		p.evil.left = append(p.evil.left, departed{p.now, f})
		if p.hairpin && back {
			p.wire.Put(Carried{At: p.now.Add(after), Frame: pad(f), To: ToStation, From: FromGuest})
		}
		if p.reaches {
			p.wire.Put(Carried{At: p.now.Add(p.wire.Delay), Frame: pad(f), To: ToSwitch, From: FromGuest})
		}
	}
}

// stranger lets somebody behind the switch send something, which the switch forwards if
// it is to the station's address.
func (p *play) stranger(r *rand.Rand) {
	if p.harmless || !p.link {
		return
	}
	f := pad(p.forge(r))
	copy(f, stationMAC[:])
	p.wire.Put(Carried{At: p.now.Add(p.wire.Delay), Frame: f, To: ToStation, From: FromStranger})
}

// agent lets another agent on the wire speak: one of the switch's own to another group
// address or at another port, or a second switch. Now and then there are many.
func (p *play) agent(r *rand.Rand) {
	if !p.link {
		return
	}
	n := 1
	if r.IntN(12) == 0 {
		n = 12
	}
	for i := range n {
		f := p.agentFrame(r, i)
		p.wire.Put(Carried{At: p.now.Add(p.wire.Delay), Frame: must(f.MarshalBinary()), To: ToStation, From: FromAgent})
	}
}

func (p *play) agentFrame(r *rand.Rand, i int) vdp.Frame {
	second := secondMAC
	second[4] = byte(i)
	f := vdp.Frame{Src: second, Dst: groups[r.IntN(3)], EtherType: vdp.EtherTypeLLDP}
	switch r.IntN(8) {
	case 0, 1: // the switch's own agents
		f.Src, f.Dst = switchMAC, groups[1+r.IntN(2)]
		f.Payload = p.forgeLLDP(r, switchMAC, switchMAC)
	case 2: // a port of the same chassis
		f.Payload = p.forgeLLDP(r, switchMAC, second)
	case 3: // the switch's ECP for something else
		f = p.forgeECP(r)
		group := f.Dst
		for f.Dst == group {
			f.Dst = groups[r.IntN(3)]
		}
		if f.EtherType == vdp.EtherTypeECP && f.Dst == vdp.NearestCustomerBridge || f.EtherType == vdp.EtherTypeECPDraft && f.Dst == vdp.NearestBridge {
			f.Dst = vdp.NearestNonTPMRBridge
		}
		f.Src = switchMAC
	case 4, 5:
		f = p.forgeECP(r)
		f.Src = second
	default:
		f.Payload = p.forgeLLDP(r, second, second)
	}
	return f
}

// forge makes up a frame: as the switch or the station would send it, or nearly, from
// and to anybody.
func (p *play) forge(r *rand.Rand) []byte {
	var f vdp.Frame
	switch r.IntN(8) {
	case 0, 1, 2:
		f.EtherType, f.Dst = vdp.EtherTypeLLDP, groups[r.IntN(3)]
		chassis := anybody(r)
		port := chassis
		if r.IntN(8) == 0 {
			port = anybody(r)
		}
		f.Payload = p.forgeLLDP(r, chassis, port)
	case 3, 4, 5:
		f = p.forgeECP(r)
	default:
		return p.forgeHeard(r)
	}
	f.Src = anybody(r)
	if r.IntN(5) == 0 {
		f.Dst = stationMAC
	}
	b := append(append(append(f.Dst[:], f.Src[:]...), byte(f.EtherType>>8), byte(f.EtherType)), f.Payload...)
	if r.IntN(3) > 0 {
		b = pad(b)
	}
	return b
}

func anybody(r *rand.Rand) vdp.MAC {
	return [...]vdp.MAC{switchMAC, switchMAC, stationMAC, guestMAC, secondMAC}[r.IntN(5)]
}

func (p *play) forgeLLDP(r *rand.Rand, chassis, port vdp.MAC) []byte {
	l := vdp.LLDPDU{
		Chassis: append([]byte{4}, chassis[:]...), Port: append([]byte{3}, port[:]...),
		TTL: [...]uint16{0, 1, 3, 10, 20, 60, 120, 65535}[r.IntN(8)],
	}
	if r.IntN(6) > 0 && r.IntN(2) == 0 == (p.br.Edition == vdp.Edition2012) || r.IntN(4) == 0 {
		l.EVB = &vdp.EVB{Role: vdp.RoleBridge, RRCapable: true, RRControl: r.IntN(2) == 0, RRRequest: r.IntN(2) == 0, BridgeGroupID: r.IntN(2) == 0,
			Retries: uint8(r.IntN(8)), RTE: uint8(r.IntN(32)), RWD: uint8(r.IntN(32)), RKA: uint8(r.IntN(32))}
		if r.IntN(3) == 0 {
			l.EVB.Retries, l.EVB.RTE, l.EVB.RWD, l.EVB.RKA = 7, 31, 31, 31
		}
	} else if r.IntN(4) > 0 {
		const caps = vdp.CapRTE | vdp.CapECP | vdp.CapVDP
		l.Draft = &vdp.EVBDraft{SupportedForwarding: vdp.ForwardReflective, SupportedCapabilities: caps, SupportedVSIs: 100, RTE: uint8(r.IntN(32))}
	}
	b := must(l.MarshalBinary())
	if r.IntN(8) == 0 {
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	}
	return b
}

func (p *play) forgeECP(r *rand.Rand) vdp.Frame {
	f := vdp.Frame{Dst: vdp.NearestCustomerBridge, EtherType: vdp.EtherTypeECP}
	e := vdp.ECPDU{Edition: vdp.Edition2012, Subtype: vdp.ECPSubtypeVDP}
	if p.br.Edition == vdp.EditionDraft == (r.IntN(8) > 0) {
		f = vdp.Frame{Dst: vdp.NearestBridge, EtherType: vdp.EtherTypeECPDraft}
		e = vdp.ECPDU{Edition: vdp.EditionDraft}
	}
	if r.IntN(8) == 0 {
		f.Dst = groups[r.IntN(3)]
	}
	e.Ack = r.IntN(3) == 0
	e.Sequence = p.evil.seq[ToStation] + uint16(r.IntN(4))
	if e.Ack {
		e.Sequence = p.evil.seq[ToSwitch] + uint16(r.IntN(3))
	}
	var msgs []vdp.Message
	for range r.IntN(3) {
		s := &p.own.slots[r.IntN(len(p.own.slots))]
		m := vdp.Message{Mode: vdp.Mode(1 + r.IntN(4)), VSI: s.vsi}
		if s.want == 0 || r.IntN(4) == 0 {
			m.VSI = s.variant(r.IntN(4), false)
		}
		if len(msgs) > 0 {
			m.VSI.Manager = msgs[0].VSI.Manager
		}
		if e.Edition == vdp.Edition2012 {
			m.Status = [...]vdp.Status{0, vdp.StatusAck, vdp.StatusAck, vdp.StatusAck | vdp.ReasonNoResources,
				vdp.StatusAck | vdp.StatusHard | vdp.ReasonInvalidFormat, vdp.StatusAck | vdp.StatusKeep | vdp.ReasonNoManager}[r.IntN(6)]
		} else {
			m.VSI.FilterFormat, m.Status = vdp.FilterMACVID, vdp.Status(r.IntN(7)*r.IntN(2))
			m.VSI.Filters = slices.Clone(m.VSI.Filters)
			for i := range m.VSI.Filters {
				m.VSI.Filters[i].Group = 0
			}
		}
		msgs = append(msgs, m)
	}
	e.Payload, _ = vdp.MarshalMessages(e.Edition, msgs)
	f.Payload = must(e.MarshalBinary())
	return f
}

// forgeHeard repeats a frame that was on the wire, with or without a change.
func (p *play) forgeHeard(r *rand.Rand) []byte {
	to, i := End(r.IntN(2)), r.IntN(heardFrames)
	how, at, bit, mac := r.IntN(6), r.IntN(64), r.IntN(8), anybody(r)
	heard := p.evil.heard[to]
	if len(heard) == 0 {
		return make([]byte, 60)
	}
	f := slices.Clone(heard[i%len(heard)])
	switch how {
	case 0: // as it is
	case 1:
		copy(f, stationMAC[:])
	case 2:
		copy(f, groups[bit%3][:])
	case 3:
		copy(f[6:], mac[:])
	case 4:
		f[at%len(f)] ^= 1 << bit
	case 5:
		f = f[:min(len(f), 14+at)]
	}
	return f
}

// described is a frame, in a few words when it is printed.
type described []byte

func (frame described) String() string {
	var f vdp.Frame
	if err := f.UnmarshalBinary(frame); err != nil {
		return fmt.Sprintf("%x", []byte(frame))
	}
	s := fmt.Sprintf("%v > %v %04x", f.Src, f.Dst, f.EtherType)
	if f.EtherType == vdp.EtherTypeLLDP {
		var l vdp.LLDPDU
		if err := l.UnmarshalBinary(f.Payload); err != nil {
			return s + " LLDP " + err.Error()
		}
		s += fmt.Sprintf(" LLDP chassis %x TTL %d", l.Chassis, l.TTL)
		if l.EVB != nil {
			s += fmt.Sprintf(" EVB %+v", *l.EVB)
		}
		if l.Draft != nil {
			s += " draft EVB"
		}
		return s
	}
	p, err := ecpdu(&f)
	switch {
	case err != nil:
		return s + " " + err.Error()
	case p.Ack:
		return s + fmt.Sprintf(" ECP ack %d", p.Sequence)
	}
	s += fmt.Sprintf(" ECP %d", p.Sequence)
	msgs, err := vdp.UnmarshalMessages(p.Edition, p.Payload)
	for _, m := range msgs {
		s += fmt.Sprintf(" %v %d.%d status %#x", m.Mode, m.VSI.ID.Octets[15], m.VSI.TypeVersion, uint8(m.Status))
	}
	if err != nil {
		s += " " + err.Error()
	}
	return s
}
