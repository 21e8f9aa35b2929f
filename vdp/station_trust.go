package vdp

import (
	"encoding/binary"
	"hash/maphash"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	// echoTime is how long after a frame left the uplink the same bytes are its
	// reflection. A bridge with hairpin mode sends it back at once.
	echoTime = 5 * time.Second
	// maxEchoes bounds the frames remembered in that time. Hosts send one in 30 s;
	// who sends more than this wants something to be forgotten.
	maxEchoes = 1 << 16
	// openTime is longer than a reflection that was under way takes.
	openTime = time.Second
)

// echoes remembers what has left the uplink. A Linux bridge with hairpin mode and
// without STP reflects a guest's frame to NearestCustomerBridge, with whatever
// source the guest gave it: no address tells it from the switch's.
//
// The frames of one generation are kept for one to two times echoTime. What is
// kept is a hash, with a key that a guest does not know.
type echoes struct {
	seed      maphash.Seed
	last, old map[uint64]struct{}
	since     time.Time // when last was begun
	deafUntil time.Time // some frames may have been missed: nothing counts
}

func newEchoes() echoes { return echoes{seed: maphash.MakeSeed()} }

func (e *echoes) turn(now time.Time) {
	switch age := now.Sub(e.since); {
	case age >= 2*echoTime:
		e.last, e.old, e.since = nil, nil, now
	case age >= echoTime:
		e.last, e.old, e.since = nil, e.last, e.since.Add(echoTime)
	}
}

func (e *echoes) add(now time.Time, frame []byte) {
	frame, ok := bare(frame)
	if !ok {
		return
	}
	e.turn(now)
	if len(e.last) >= maxEchoes {
		e.deaf(now.Add(echoTime))
		return
	}
	if e.last == nil {
		e.last = make(map[uint64]struct{})
	}
	e.last[e.hash(frame)] = struct{}{}
}

func (e *echoes) deaf(until time.Time) {
	if until.After(e.deafUntil) {
		e.deafUntil = until
	}
}

// has reports whether a frame that arrived was sent by this host.
func (e *echoes) has(now time.Time, frame []byte) bool {
	e.turn(now)
	if len(e.last) == 0 && len(e.old) == 0 {
		return false
	}
	h := e.hash(frame)
	_, last := e.last[h]
	_, old := e.old[h]
	return last || old
}

// hash leaves out trailing zeros: the wire pads short frames. It leaves out the end of
// long ones, too: a socket may have cut it off, and not at the same place of a frame
// whose tag is taken off on the way.
func (e *echoes) hash(frame []byte) uint64 {
	n := min(len(frame), maxFrameLen)
	for n > etherHeaderLen && frame[n-1] == 0 {
		n--
	}
	return maphash.Bytes(e.seed, frame[:n])
}

// bare returns a frame that a station might take for the switch's, without the
// VLAN tags that a bridge may take off.
func bare(frame []byte) ([]byte, bool) {
	if len(frame) < etherHeaderLen {
		return nil, false
	}
	const etherTypeQinQ = 0x9100 // what some use in 802.1ad's place
	for tagged := false; ; tagged = true {
		switch binary.BigEndian.Uint16(frame[12:]) {
		case EtherTypeLLDP, EtherTypeECP, EtherTypeECPDraft:
			return frame, isGroup(MAC(frame))
		case etherType8021Q, etherType8021AD, etherTypeQinQ:
			if len(frame) < etherHeaderLen+4 {
				return nil, false
			}
			if !tagged {
				frame = slices.Clone(frame)
			}
			frame = slices.Delete(frame, 12, 16)
		default:
			return nil, false
		}
	}
}

func isGroup(a MAC) bool {
	return a == NearestCustomerBridge || a == NearestNonTPMRBridge || a == NearestBridge
}

// Sent tells the station that a frame has left the uplink, whoever on this host
// sent it, a guest included. What comes back of it is not the switch's. Call it
// before Handle gets a frame that arrived later.
func (s *Station) Sent(now time.Time, frame []byte) { s.echoes.add(now, frame) }

// Opened tells the station that it is told from now on of what leaves the uplink.
// What left just before may still come back: nothing that arrives within the next
// second counts.
func (s *Station) Opened(now time.Time) { s.echoes.deaf(now.Add(openTime)) }

// Missed tells the station that it was not told of all frames that have left the
// uplink. Nothing that arrives within the next 5 s counts.
func (s *Station) Missed(now time.Time) { s.echoes.deaf(now.Add(echoTime)) }

// A PinKind says what a Pin means.
type PinKind uint8

// Kinds of pins.
const (
	PinSource  PinKind = iota + 1 // this address, too, may send ECP
	PinMAC                        // LLDPDUs count from this address
	PinChassis                    // LLDPDUs count from this chassis
)

// A Pin says who may speak as the switch. Where there are any of kind PinMAC or
// PinChassis, only an agent that matches one of them is ever the neighbor.
type Pin struct {
	Kind    PinKind
	MAC     MAC    // of PinSource and PinMAC
	Chassis string // of PinChassis: as Neighbor.ChassisID writes it
}

// ParsePin reads "MAC", "mac=MAC" or "chassis=ID". The error is a *FormatError.
func ParsePin(text string) (Pin, error) {
	kind, value := PinSource, text
	if v, ok := strings.CutPrefix(text, "mac="); ok {
		kind, value = PinMAC, v
	} else if v, ok := strings.CutPrefix(text, "chassis="); ok {
		if v == "" {
			return Pin{}, badf(ErrRange, "neighbor %q", text)
		}
		return Pin{Kind: PinChassis, Chassis: v}, nil
	}
	mac, err := net.ParseMAC(value)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return Pin{}, badf(ErrRange, "neighbor %q is none of MAC, mac=MAC, chassis=ID", text)
	}
	return Pin{Kind: kind, MAC: MAC(mac)}, nil
}

// admits reports whether the configuration lets an agent be the neighbor.
func (c *Config) admits(n *Neighbor) bool {
	pinned := false
	for _, p := range c.Pins {
		switch p.Kind {
		case PinMAC:
			pinned = true
			if p.MAC == n.Source {
				return true
			}
		case PinChassis:
			pinned = true
			if p.Chassis == n.ChassisID() {
				return true
			}
		}
	}
	return !pinned
}

// speaks reports whether ECP from an address is the switch's.
func (s *Station) speaks(src MAC) bool {
	return src == s.speaker && s.speaker != MAC{} ||
		slices.ContainsFunc(s.cfg.Pins, func(p Pin) bool { return p.Kind == PinSource && p.MAC == src })
}
