// Package vdptest has a bridge that speaks 802.1Qbg as a test wants it to:
// it grants, refuses, keeps silent, forgets. It drives a vdp.Station in
// memory, and real stations over a packet socket.
package vdptest

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"libvirt-direct/vdp"
)

// A Config is how a Bridge behaves. It may be changed between calls.
type Config struct {
	MAC     vdp.MAC
	Edition vdp.Edition // the one that is spoken
	EVB     vdp.EVB     // exponents for the 2012 edition; all zero: 3, 8, 20, 20

	// Answer decides on each request, keepalives included; nil grants all.
	Answer func(vdp.Message) Reply

	NoEVB    bool // send no LLDPDU
	NoAck    bool // take no notice of ECP requests at all
	NoAnswer bool // acknowledge, but do not answer

	// Manager is how long the VSI manager takes: so much later a request is
	// decided on and answered. It is not asked about keepalives.
	Manager time.Duration

	// Supervision is how long a VSI is kept without a keepalive before it is
	// de-associated; zero means for ever.
	Supervision time.Duration
}

// maxRTE is the most that a bridge waits for an acknowledgement, whatever it announces.
const maxRTE = 17

// A Reply is a bridge's decision. The zero Reply grants the request.
type Reply struct {
	Status vdp.Status // reason and flags; the acknowledge bit is added
	VID    uint16     // where the request has VID 0
	Silent bool       // no answer

	// DeAssociate answers with a De-assoc, as some switches refuse.
	DeAssociate bool
}

// A Received is a request that the bridge took from the station.
type Received struct {
	At      time.Time
	Message vdp.Message
}

// A Bridge is the switch's side of one port. It is not safe for concurrent
// use; see Server.
type Bridge struct {
	Config
	// Log has every request in order of arrival, repetitions left out.
	Log []Received
	// ECPDUs counts the station's ECP requests, repetitions left out.
	ECPDUs int

	station  *vdp.LLDPDU
	vsis     map[vdp.ID]*held
	sequence uint16
	queue    [][]byte
	current  []byte // payload under way
	left     int
	resend   time.Time
	heard    bool
	heardSeq uint16
	heardPDU []byte
	lldp     time.Time
	asked    []asked
}

// asked is what the VSI manager works on.
type asked struct {
	messages []vdp.Message
	until    time.Time
}

type held struct {
	message vdp.Message
	until   time.Time
}

// NewBridge returns a bridge that has not said anything yet.
func NewBridge(c Config) *Bridge {
	if e := &c.EVB; e.Retries == 0 && e.RTE == 0 && e.RWD == 0 && e.RKA == 0 {
		e.Retries, e.RTE, e.RWD, e.RKA = 3, 8, 20, 20
	}
	return &Bridge{Config: c, vsis: make(map[vdp.ID]*held)}
}

// Restart forgets everything, sequence numbers included, as a rebooted switch.
func (b *Bridge) Restart() {
	*b = Bridge{Config: b.Config, Log: b.Log, ECPDUs: b.ECPDUs, vsis: make(map[vdp.ID]*held)}
}

// Mode returns what the station has reached for a VSI, 0 for nothing.
func (b *Bridge) Mode(id vdp.ID) vdp.Mode {
	if h := b.vsis[id]; h != nil {
		return h.message.Mode
	}
	return 0
}

// Len returns the number of VSIs that the bridge holds.
func (b *Bridge) Len() int { return len(b.vsis) }

// Station returns the station's last LLDPDU, nil if there was none.
func (b *Bridge) Station() *vdp.LLDPDU { return b.station }

// DeAssociate drops a VSI and tells the station.
func (b *Bridge) DeAssociate(now time.Time, id vdp.ID) [][]byte {
	if h := b.vsis[id]; h != nil {
		b.drop(h)
	}
	return b.transmit(now)
}

func (b *Bridge) drop(h *held) {
	delete(b.vsis, h.message.VSI.ID)
	m := h.message
	m.Mode, m.Status = vdp.DeAssociate, 0
	b.enqueue([]vdp.Message{m})
}

// Send queues messages as the bridge's own request, whatever they are.
func (b *Bridge) Send(now time.Time, msgs ...vdp.Message) [][]byte {
	b.enqueue(msgs)
	return b.transmit(now)
}

func (b *Bridge) enqueue(msgs []vdp.Message) {
	payload, err := vdp.MarshalMessages(b.Edition, msgs)
	if err != nil {
		panic(err) // the test asked for nonsense
	}
	b.queue = append(b.queue, payload)
}

// Next returns when Tick is due; the bridge always has something to do.
func (b *Bridge) Next() time.Time {
	t := b.lldp
	if !b.resend.IsZero() && b.resend.Before(t) {
		t = b.resend
	}
	for _, h := range b.vsis {
		if !h.until.IsZero() && h.until.Before(t) {
			t = h.until
		}
	}
	if len(b.asked) > 0 && b.asked[0].until.Before(t) {
		t = b.asked[0].until
	}
	return t
}

// Tick does what is due and returns the frames to send.
func (b *Bridge) Tick(now time.Time) [][]byte {
	var out [][]byte
	if !now.Before(b.lldp) {
		b.lldp = now.Add(10 * time.Second)
		if !b.NoEVB {
			out = append(out, b.lldpFrame(120))
		}
	}
	if !b.resend.IsZero() && !now.Before(b.resend) {
		out = append(out, b.retransmit(now)...)
	}
	for len(b.asked) > 0 && !now.Before(b.asked[0].until) {
		b.answer(now, b.asked[0].messages)
		b.asked = b.asked[1:]
	}
	for _, h := range b.held() {
		if !h.until.IsZero() && !now.Before(h.until) {
			b.drop(h)
		}
	}
	return append(out, b.transmit(now)...)
}

// held returns the VSIs in the order of their ids, so that a test can be repeated.
func (b *Bridge) held() []*held {
	return slices.SortedFunc(maps.Values(b.vsis), func(x, y *held) int {
		return bytes.Compare(x.message.VSI.ID.Octets[:], y.message.VSI.ID.Octets[:])
	})
}

// Supervise changes Supervision, for the VSIs that are held as well where that is
// sooner.
func (b *Bridge) Supervise(now time.Time, d time.Duration) {
	b.Supervision = d
	for _, h := range b.vsis {
		if until := now.Add(d); !h.until.IsZero() && until.Before(h.until) {
			h.until = until
		}
	}
}

// Goodbye returns an LLDPDU with TTL 0.
func (b *Bridge) Goodbye() []byte { return b.lldpFrame(0) }

// Plain returns an LLDPDU without an EVB TLV, as of a port that EVB was taken from.
func (b *Bridge) Plain() []byte {
	p := vdp.LLDPDU{Chassis: b.chassis(), Port: b.port(), TTL: 120}
	return b.frame(vdp.NearestCustomerBridge, vdp.EtherTypeLLDP, must(p.MarshalBinary()))
}

func (b *Bridge) chassis() []byte { return append([]byte{4}, b.MAC[:]...) }
func (b *Bridge) port() []byte    { return append([]byte{3}, b.MAC[:]...) }

func (b *Bridge) lldpFrame(ttl uint16) []byte {
	p := vdp.LLDPDU{
		Chassis: b.chassis(),
		Port:    b.port(),
		TTL:     ttl,
	}
	if b.Edition == vdp.EditionDraft {
		const caps = vdp.CapRTE | vdp.CapECP | vdp.CapVDP
		p.Draft = &vdp.EVBDraft{
			SupportedForwarding: vdp.ForwardStandard | vdp.ForwardReflective, SupportedCapabilities: caps,
			Forwarding: vdp.ForwardReflective, Capabilities: caps, SupportedVSIs: 100, RTE: 15,
		}
	} else {
		e := b.EVB
		e.Role, e.RRCapable = vdp.RoleBridge, true
		if b.station != nil && b.station.EVB != nil {
			e.RRRequest, e.RRStatus = b.station.EVB.RRRequest, b.station.EVB.RRStatus
			e.RRControl = e.RRRequest
			e.StationGroupID = b.station.EVB.StationGroupID
			e.ROLResource, e.ROLKeepalive = b.station.EVB.RWD >= e.RWD, b.station.EVB.RKA >= e.RKA
		}
		p.EVB = &e
	}
	return b.frame(vdp.NearestCustomerBridge, vdp.EtherTypeLLDP, must(p.MarshalBinary()))
}

func (b *Bridge) frame(dst vdp.MAC, etherType uint16, payload []byte) []byte {
	f := vdp.Frame{Dst: dst, Src: b.MAC, EtherType: etherType, Payload: payload}
	return must(f.MarshalBinary())
}

func (b *Bridge) ecp(ack bool, seq uint16, payload []byte) []byte {
	p := vdp.ECPDU{Edition: b.Edition, Ack: ack, Sequence: seq, Payload: payload}
	dst, typ := vdp.NearestBridge, vdp.EtherTypeECPDraft
	if b.Edition == vdp.Edition2012 {
		p.Subtype, dst, typ = vdp.ECPSubtypeVDP, vdp.NearestCustomerBridge, vdp.EtherTypeECP
	}
	return b.frame(dst, typ, must(p.MarshalBinary()))
}

// Handle takes a frame from the station and returns the frames to send.
// Frames that are not for a bridge are ignored.
func (b *Bridge) Handle(now time.Time, frame []byte) [][]byte {
	var f vdp.Frame
	if f.UnmarshalBinary(frame) != nil || f.Src == b.MAC {
		return nil
	}
	switch {
	case f.EtherType == vdp.EtherTypeLLDP:
		var p vdp.LLDPDU
		if p.UnmarshalBinary(f.Payload) != nil || p.TTL == 0 {
			return nil
		}
		if b.station == nil {
			b.lldp = now
		}
		b.station = &p
		return b.Tick(now)
	case b.NoAck,
		b.Edition == vdp.EditionDraft && f.EtherType != vdp.EtherTypeECPDraft,
		b.Edition == vdp.Edition2012 && f.EtherType != vdp.EtherTypeECP:
		return nil
	}
	p, err := vdp.UnmarshalECPDU(b.Edition, f.Payload)
	if err != nil {
		return nil
	}
	if p.Ack {
		if b.current != nil && p.Sequence == b.sequence {
			b.current, b.resend = nil, time.Time{}
		}
		return b.transmit(now)
	}
	if b.Edition == vdp.EditionDraft && b.repeated(p) {
		return nil // as lldpad, which does not even acknowledge
	}
	out := [][]byte{b.ecp(true, p.Sequence, nil)}
	if b.repeated(p) {
		return out
	}
	b.heard, b.heardSeq, b.heardPDU = true, p.Sequence, bytes.Clone(p.Payload)
	b.ECPDUs++
	msgs, err := vdp.UnmarshalMessages(b.Edition, p.Payload)
	if err != nil {
		return out
	}
	var news []vdp.Message
	for _, m := range msgs {
		b.Log = append(b.Log, Received{now, m})
		if b.Manager > 0 && b.Mode(m.VSI.ID) != m.Mode {
			news = append(news, m)
		}
	}
	if len(news) > 0 {
		b.asked = append(b.asked, asked{news, now.Add(b.Manager)})
		msgs = slices.DeleteFunc(msgs, func(m vdp.Message) bool { return b.Mode(m.VSI.ID) != m.Mode })
	}
	b.answer(now, msgs)
	return append(out, b.transmit(now)...)
}

func (b *Bridge) answer(now time.Time, msgs []vdp.Message) {
	var answers []vdp.Message
	for _, m := range msgs {
		if m, ok := b.decide(now, m); ok {
			answers = append(answers, m)
		}
	}
	if len(answers) > 0 {
		b.enqueue(answers)
	}
}

func (b *Bridge) repeated(p *vdp.ECPDU) bool {
	// lldpad compares the number alone in the 2012 edition, all in the draft.
	return b.heard && p.Sequence == b.heardSeq && (b.Edition == vdp.Edition2012 || bytes.Equal(p.Payload, b.heardPDU))
}

func (b *Bridge) decide(now time.Time, m vdp.Message) (vdp.Message, bool) {
	if b.NoAnswer {
		return m, false
	}
	var r Reply
	if b.Answer != nil {
		r = b.Answer(m)
	}
	if r.Silent {
		return m, false
	}
	m.Status = r.Status
	if b.Edition == vdp.Edition2012 {
		m.Status |= vdp.StatusAck
	}
	m.VSI.Filters = slices.Clone(m.VSI.Filters)
	for i := range m.VSI.Filters {
		if f := &m.VSI.Filters[i]; f.VID == 0 {
			f.VID = r.VID
		}
	}
	id := m.VSI.ID
	switch {
	case r.DeAssociate:
		m.Mode = vdp.DeAssociate
		delete(b.vsis, id)
	case r.Status.Reason() == 0 && m.Mode != vdp.DeAssociate:
		h := &held{message: m}
		if b.Supervision > 0 {
			h.until = now.Add(b.Supervision)
		}
		b.vsis[id] = h
	case r.Status&vdp.StatusKeep == 0 || b.Edition == vdp.EditionDraft:
		delete(b.vsis, id)
	}
	return m, true
}

// transmit starts the next request if none is under way.
func (b *Bridge) transmit(now time.Time) [][]byte {
	if b.current != nil || len(b.queue) == 0 {
		return nil
	}
	b.current, b.queue = b.queue[0], b.queue[1:]
	b.left = int(b.EVB.Retries)
	b.sequence++
	b.resend = now.Add(b.ackTime())
	return [][]byte{b.ecp(false, b.sequence, b.current)}
}

func (b *Bridge) retransmit(now time.Time) [][]byte {
	if b.left == 0 {
		b.current, b.resend = nil, time.Time{}
		return nil
	}
	b.left--
	if b.Edition == vdp.EditionDraft {
		b.sequence++
	}
	b.resend = now.Add(b.ackTime())
	return [][]byte{b.ecp(false, b.sequence, b.current)}
}

func (b *Bridge) ackTime() time.Duration {
	if b.Edition == vdp.EditionDraft {
		return 500 * time.Millisecond
	}
	return 10 * time.Microsecond << min(b.EVB.RTE, maxRTE)
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err) // the test asked for nonsense
	}
	return b
}
