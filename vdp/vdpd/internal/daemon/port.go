package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
	"libvirt-direct/vdp/vdpnl"
)

const (
	// evbGrace is how long after the link came up a request is taken though
	// the switch's EVB TLV is missing. LLDP may need a second or two.
	evbGrace = 5 * time.Second

	// Failures for which the switch gave no reason: the kernel's
	// PORT_PROFILE_RESPONSE_BADSTATE and _ERROR. libvirt prints the number.
	responseBadState = 0x103
	responseError    = 0x105
)

// A port is one uplink with its station.
type port struct {
	cfg  Uplink
	log  *slog.Logger
	send func(frame []byte) error // nil without an interface

	ifindex int // 0 without an interface
	device  device
	mac     vdp.MAC
	close   context.CancelFunc
	bound   func() bool  // whether what sends is on the interface yet
	st      *vdp.Station // nil until the interface was first seen
	upSince time.Time    // zero while down

	edition vdp.Edition     // last in use, as in the state file
	last    *vdp.Neighbor   // likewise the switch
	kept    map[vdp.ID]kept // as in the state file; see keep and forget
	saver   *saver
	results results
	owners  map[vdp.ID]control.Owner

	place int // among Daemon.deadlines, from 1; 0 if it has none

	sent, received control.Frames
	echoes         uint64 // of what this host has sent
	heard          heard  // while the link is up
}

func newPort(u Uplink, s uplinkState, log *slog.Logger) *port {
	p := &port{
		cfg: u, log: log.With("uplink", u.Name), edition: s.Edition, last: s.Neighbor,
		kept: make(map[vdp.ID]kept, len(s.vsis)), results: newResults(),
		owners: make(map[vdp.ID]control.Owner, len(s.vsis)),
	}
	for id, k := range s.vsis {
		p.kept[id] = k
		p.results.put(id, result{header: k.Header})
		p.owners[id] = k.owner()
	}
	return p
}

// keep has the state file know a VSI, forget no longer.
func (p *port) keep(k kept) {
	_, known := p.kept[k.VSI.ID]
	p.kept[k.VSI.ID] = k
	p.saver.set(p.cfg.Name, k, known)
}

func (p *port) forget(id vdp.ID) {
	if _, ok := p.kept[id]; ok {
		delete(p.kept, id)
		p.saver.gone(p.cfg.Name, id)
	}
}

// next returns when tick has something to do; the zero time means never.
func (p *port) next() time.Time {
	t := p.results.next()
	if p.st != nil {
		if u := p.st.Next(); t.IsZero() || !u.IsZero() && u.Before(t) {
			t = u
		}
	}
	return t
}

func (p *port) tick(now time.Time) vdp.Output {
	p.results.expire(now)
	if p.st == nil {
		return vdp.Output{}
	}
	return p.st.Tick(now)
}

// attach gives the port its interface. The station, if there is one and the
// address is the same, goes on.
func (p *port) attach(now time.Time, ifindex int, mac vdp.MAC, mtu int, send func([]byte) error) (vdp.Output, error) {
	p.ifindex, p.send = ifindex, send
	if p.st != nil && p.mac == mac {
		p.st.Opened(now)
		return vdp.Output{}, nil
	}
	c, err := p.cfg.station(mac)
	if err != nil {
		return vdp.Output{}, err
	}
	c.MTU, c.Sequence, c.LastEdition, c.LastNeighbor = mtu, uint16(rand.Uint32()), p.edition, p.last
	st, err := vdp.NewStation(c)
	if err != nil {
		return vdp.Output{}, err
	}
	st.Opened(now)
	p.st, p.mac = st, mac
	var out vdp.Output
	for _, k := range p.sorted() {
		o, err := st.Restore(now, k.VSI, k.Mode)
		if err != nil {
			p.log.Warn("VSI not restored", "vsi", k.VSI.ID, "err", err)
			p.forget(k.VSI.ID)
			p.results.drop(k.VSI.ID)
			continue
		}
		out.Frames = append(out.Frames, o.Frames...)
	}
	return out, nil
}

// sorted returns what is kept, in the order of ids.
func (p *port) sorted() []kept {
	return slices.SortedFunc(maps.Values(p.kept), func(a, b kept) int {
		return bytes.Compare(a.VSI.ID.Octets[:], b.VSI.ID.Octets[:])
	})
}

func (p *port) link(now time.Time, up bool) vdp.Output {
	switch {
	case p.st == nil:
		return vdp.Output{}
	case up:
		if p.upSince.IsZero() {
			p.upSince = now
		}
		return p.st.LinkUp(now)
	}
	if p.last != nil { // another switch may be there next, for the next vdpd as well
		p.last = nil
		p.saver.info(p.cfg.Name, uplinkInfo{Edition: p.edition})
	}
	p.upSince, p.heard = time.Time{}, heard{}
	return p.st.LinkDown(now)
}

// set does what RTM_SETLINK asks for. The error is the reply's.
func (p *port) set(now time.Time, h vdpnl.Header, s *vdpnl.Set) (vdp.Output, unix.Errno) {
	id := s.VSI.ID
	if s.Mode == vdp.DeAssociate && !p.has(id) {
		// Gone already, or never there: what libvirt wants is the case.
		p.results.put(id, result{header: h, done: true, expires: now.Add(resultTTL)})
		return vdp.Output{}, 0
	}
	out, done, err := p.ask(now, s.Mode, s.VSI)
	switch {
	case err == nil && done:
		p.results.put(id, result{header: h, done: true, expires: now.Add(resultTTL)})
		return out, 0
	case err == nil:
		p.results.put(id, result{header: h})
		return out, 0
	case errors.Is(err, control.ErrNoInterface):
		return out, unix.ENODEV
	case errors.Is(err, control.ErrBond):
		return out, unix.EOPNOTSUPP
	case errors.Is(err, vdp.ErrNoLink):
		return out, unix.ENETDOWN
	case errors.Is(err, vdp.ErrNoEVB):
		return out, unix.ENXIO // as lldpad
	case errors.Is(err, vdp.ErrTooMany):
		return out, unix.ENOSPC
	case errors.Is(err, vdp.ErrDowngrade):
		return out, unix.EBUSY
	}
	return out, unix.EINVAL
}

// has reports whether the port holds a VSI, or will restore it.
func (p *port) has(id vdp.ID) bool {
	if _, ok := p.kept[id]; ok {
		return true
	}
	if p.st == nil {
		return false
	}
	_, ok := p.st.VSI(id)
	return ok
}

// ready says why the switch takes no request, nil if it does.
func (p *port) ready(now time.Time) error {
	if err := p.fit(); err != nil {
		return err
	}
	return p.explain(now, p.st.Ready())
}

// ask passes a request to the station. Done means that there is nothing to
// wait for; otherwise an event follows.
func (p *port) ask(now time.Time, m vdp.Mode, v vdp.VSI) (out vdp.Output, done bool, err error) {
	id := v.ID
	if m == vdp.DeAssociate {
		if p.st != nil {
			if out, err = p.st.DeAssociate(now, id); err == nil {
				p.pending(id)
				return out, false, nil
			}
		}
		if !p.has(id) {
			return out, false, vdp.ErrUnknownVSI
		}
		p.forget(id)
		p.results.put(id, result{done: true, expires: now.Add(resultTTL)})
		return out, true, nil
	}
	if err := p.ready(now); err != nil && (!errors.Is(err, vdp.ErrNoEVB) || now.Sub(p.upSince) > evbGrace) {
		return out, false, err
	}
	out, err = p.request(now, m, v)
	return out, false, err
}

// request passes on what asks for more, whether the switch is known or not.
func (p *port) request(now time.Time, m vdp.Mode, v vdp.VSI) (vdp.Output, error) {
	request := p.st.Associate
	switch m {
	case vdp.PreAssociate:
		request = p.st.PreAssociate
	case vdp.PreAssociateRR:
		request = p.st.PreAssociateRR
	}
	out, err := request(now, v)
	if err == nil {
		p.pending(v.ID)
	}
	return out, err
}

// pending marks a VSI as being worked on. Its owner stays who it was.
func (p *port) pending(id vdp.ID) {
	p.results.put(id, result{header: p.results.get(id).header})
}

// event keeps results and state up to date. It returns what libvirt is to be
// told.
func (p *port) event(now time.Time, e *vdp.Event) (indicate *vdpnl.Header) {
	id := e.VSI.ID
	r := p.results.get(id)
	log := p.log.With("vsi", id, "mode", e.Mode)
	switch e.Type {
	case vdp.EventNeighbor:
		p.edition = p.st.Edition()
		if n, ok := p.st.Neighbor(); ok {
			p.last = &n
			p.log.Info("EVB TLV from the switch", "edition", p.edition, "chassis", n.ChassisID(), "port", n.PortID(), "source", n.Source)
		}
		p.saver.info(p.cfg.Name, uplinkInfo{Edition: p.edition, Neighbor: p.last})
		return nil
	case vdp.EventNeighborLost:
		p.log.Warn("EVB TLV of the switch lost")
		return nil
	case vdp.EventConflict:
		p.log.Warn("a second neighbor offers EVB and is not listened to: libvirt-direct vsi uplinks shows both", "source", e.Source)
		return nil
	case vdp.EventForeign:
		p.log.Warn(fmt.Sprintf("ECP is not from the switch's address: if it is the switch's, set neighbor = [%q] for the uplink in vdpd.toml", e.Source), "source", e.Source)
		return nil
	case vdp.EventEstablished:
		log.Info("established", "vid", e.VSI.Filters[0].VID)
		r.done, r.response, r.expires = true, 0, time.Time{}
		p.keep(kept{VSI: e.VSI, Mode: e.Mode, Header: r.header, Owner: p.owners[id], Moved: p.kept[id].Moved})
	case vdp.EventFailed:
		log.Warn("failed", "err", e.Err)
		r.done, r.response, r.expires = true, response(e.Err), time.Time{}
		if st, _ := p.st.VSI(id); st.Have == 0 {
			r.expires = now.Add(resultTTL)
			p.forget(id)
		}
	case vdp.EventLost:
		log.Warn("lost, requesting it again", "err", e.Err)
		r.done = false
		if errors.Is(e.Err, vdp.ErrBridgeDeassociated) && r.header.Pid != 0 {
			h := r.header
			indicate = &h
		}
	case vdp.EventRemoved:
		log.Info("de-associated", "err", e.Err)
		p.forget(id)
		if _, again := p.st.VSI(id); !again {
			r.done, r.response, r.expires = true, 0, now.Add(resultTTL)
		}
	}
	p.results.put(id, r)
	return indicate
}

// count adds a frame to the statistics.
func count(f *control.Frames, frame []byte) {
	var e vdp.Frame
	switch err := e.UnmarshalBinary(frame); {
	case err != nil:
	case e.EtherType == vdp.EtherTypeLLDP:
		f.LLDP++
	default:
		f.ECP++
	}
}

// response is the number that libvirt prints: the switch's own where it gave
// one.
func response(err error) uint16 {
	var refused *vdp.RefusedError
	switch {
	case errors.As(err, &refused):
		return uint16(refused.Status &^ vdp.StatusAck)
	case errors.Is(err, vdp.ErrNoLink), errors.Is(err, vdp.ErrNoEVB):
		return responseBadState
	}
	return responseError
}

// detach lets the interface go.
func (p *port) detach(now time.Time) vdp.Output {
	if p.close != nil {
		p.close()
	}
	out := p.link(now, false)
	p.close, p.send, p.ifindex, p.device.name = nil, nil, 0, ""
	return out
}
