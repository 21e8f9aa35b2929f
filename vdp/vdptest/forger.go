package vdptest

import (
	"bytes"
	"net"
	"sync"

	"libvirt-direct/vdp"
)

// A Forger makes the frames with which a guest behind the station's uplink plays the
// switch. It is safe for concurrent use.
type Forger struct {
	Own, Switch vdp.MAC // Switch is a Bridge's Config.MAC

	mu       sync.Mutex
	made     map[string]struct{}
	sequence uint16
}

// A Forgery is a frame that is to pass for the switch's.
type Forgery struct {
	What  string // it is meant for
	Frame []byte
}

// Forgeries returns one of each kind, with addresses as the guest likes them. Each
// would end or change what the station has, from the switch: timers of hours, a
// shutdown, the end of EVB, of a VSI.
func (f *Forger) Forgeries(dst, src vdp.MAC, v vdp.VSI) []Forgery {
	lldp := func(id vdp.MAC, ttl uint16, evb bool) []byte {
		p := vdp.LLDPDU{Chassis: append([]byte{4}, id[:]...), Port: append([]byte{3}, id[:]...), TTL: ttl}
		if evb {
			const caps = vdp.CapRTE | vdp.CapECP | vdp.CapVDP
			p.EVB = &vdp.EVB{Role: vdp.RoleBridge, RRCapable: true, Retries: 7, RTE: 31, RWD: 31, RKA: 31}
			p.Draft = &vdp.EVBDraft{
				SupportedForwarding: vdp.ForwardReflective, SupportedCapabilities: caps,
				Forwarding: vdp.ForwardReflective, Capabilities: caps, RTE: 31,
			}
		}
		return must(p.MarshalBinary())
	}
	deassociate := func(ed vdp.Edition) []byte {
		f.sequence++
		p := vdp.ECPDU{Edition: ed, Sequence: 0x4300 + f.sequence, Payload: must(vdp.MarshalMessages(ed, []vdp.Message{{Mode: vdp.DeAssociate, VSI: v}}))}
		if ed == vdp.Edition2012 {
			p.Subtype = vdp.ECPSubtypeVDP
		}
		return must(p.MarshalBinary())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.made == nil {
		f.made = make(map[string]struct{})
	}
	var all []Forgery
	for _, k := range []struct {
		what      string
		etherType uint16
		payload   []byte
	}{
		{"timers of another switch", vdp.EtherTypeLLDP, lldp(f.Own, 65535, true)},
		{"timers of the switch", vdp.EtherTypeLLDP, lldp(f.Switch, 65535, true)},
		{"the switch's shutdown", vdp.EtherTypeLLDP, lldp(f.Switch, 0, true)},
		{"the end of EVB", vdp.EtherTypeLLDP, lldp(f.Switch, 120, false)},
		{"De-associate of 2012", vdp.EtherTypeECP, deassociate(vdp.Edition2012)},
		{"De-associate of the draft", vdp.EtherTypeECPDraft, deassociate(vdp.EditionDraft)},
	} {
		e := vdp.Frame{Dst: dst, Src: src, EtherType: k.etherType, Payload: k.payload}
		frame := must(e.MarshalBinary())
		f.made[unpadded(frame)] = struct{}{}
		all = append(all, Forgery{k.what, frame})
	}
	return all
}

// Made reports whether a frame is one of the Forger's.
func (f *Forger) Made(frame []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.made[unpadded(frame)]
	return ok
}

func unpadded(frame []byte) string { return string(bytes.TrimRight(frame, "\x00")) }

// Unheard returns the connection of a switch that the guest cannot deceive: what a
// station does is tested, and its switch should not end a VSI because a guest asks.
func (f *Forger) Unheard(conn net.PacketConn) net.PacketConn { return &unheard{conn, f} }

type unheard struct {
	net.PacketConn
	forger *Forger
}

// ReadFrom is net.PacketConn's.
func (u *unheard) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := u.PacketConn.ReadFrom(b)
		if err != nil || !u.forger.Made(b[:n]) {
			return n, from, err
		}
	}
}
