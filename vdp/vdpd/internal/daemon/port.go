package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
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
	// resultTTL is how long the end of a VSI can be read back: libvirt polls
	// for 10 s at most.
	resultTTL = 30 * time.Second

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
	st      *vdp.Station // nil until the interface was first seen
	upSince time.Time    // zero while down

	edition vdp.Edition       // last in use, as in the state file
	kept    map[vdp.ID]kept   // as in the state file
	results map[vdp.ID]result // what GETLINK tells
	changes uint64            // counts them, for the order of results
	owners  map[vdp.ID]control.Owner
	again   []vdp.VSIStatus // what a new station is to be asked for

	sent, received control.Frames
}

// A result is how far libvirt's last request for a VSI has come.
type result struct {
	header   vdpnl.Header
	done     bool
	response uint16
	changed  uint64
	expires  time.Time // zero while the station has the VSI
}

func newPort(u Uplink, s uplinkState, log *slog.Logger) *port {
	p := &port{
		cfg: u, log: log.With("uplink", u.Name), edition: s.Edition,
		kept: make(map[vdp.ID]kept), results: make(map[vdp.ID]result), owners: make(map[vdp.ID]control.Owner),
	}
	for _, k := range s.VSIs {
		p.kept[k.VSI.ID] = k
		p.results[k.VSI.ID] = result{header: k.Header}
		p.owners[k.VSI.ID] = k.owner()
	}
	return p
}

// attach gives the port its interface. The station, if there is one and the
// address is the same, goes on.
func (p *port) attach(now time.Time, ifindex int, mac vdp.MAC, mtu int, send func([]byte) error) (vdp.Output, error) {
	p.ifindex, p.send = ifindex, send
	if p.st != nil && p.mac == mac {
		return vdp.Output{}, nil
	}
	c, err := p.cfg.station(mac)
	if err != nil {
		return vdp.Output{}, err
	}
	c.MTU, c.Sequence, c.LastEdition = mtu, uint16(rand.Uint32()), p.edition
	st, err := vdp.NewStation(c)
	if err != nil {
		return vdp.Output{}, err
	}
	p.st, p.mac = st, mac
	var out vdp.Output
	for _, k := range p.sorted() {
		o, err := st.Restore(now, k.VSI, k.Mode)
		if err != nil {
			p.log.Warn("VSI not restored", "vsi", k.VSI.ID, "err", err)
			delete(p.kept, k.VSI.ID)
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
	p.upSince = time.Time{}
	return p.st.LinkDown(now)
}

// set does what RTM_SETLINK asks for. The error is the reply's.
func (p *port) set(now time.Time, h vdpnl.Header, s *vdpnl.Set) (vdp.Output, unix.Errno) {
	id := s.VSI.ID
	if s.Mode == vdp.DeAssociate && !p.has(id) {
		// Gone already, or never there: what libvirt wants is the case.
		p.result(id, result{header: h, done: true, expires: now.Add(resultTTL)})
		return vdp.Output{}, 0
	}
	out, done, err := p.ask(now, s.Mode, s.VSI)
	switch {
	case err == nil && done:
		p.result(id, result{header: h, done: true, expires: now.Add(resultTTL)})
		return out, 0
	case err == nil:
		p.result(id, result{header: h})
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
func (p *port) ready() error {
	if err := p.fit(); err != nil {
		return err
	}
	return p.st.Ready()
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
		delete(p.kept, id)
		p.result(id, result{done: true, expires: now.Add(resultTTL)})
		return out, true, nil
	}
	if err := p.ready(); err != nil && (!errors.Is(err, vdp.ErrNoEVB) || now.Sub(p.upSince) > evbGrace) {
		return out, false, err
	}
	request := p.st.Associate
	switch m {
	case vdp.PreAssociate:
		request = p.st.PreAssociate
	case vdp.PreAssociateRR:
		request = p.st.PreAssociateRR
	}
	if out, err = request(now, v); err == nil {
		p.pending(id)
	}
	return out, false, err
}

// pending marks a VSI as being worked on. Its owner stays who it was.
func (p *port) pending(id vdp.ID) {
	p.result(id, result{header: p.results[id].header})
}

func (p *port) result(id vdp.ID, r result) {
	p.changes++
	r.changed = p.changes
	p.results[id] = r
}

// ports returns the answer to RTM_GETLINK, the latest change first.
func (p *port) ports(now time.Time) []vdpnl.Port {
	type entry struct {
		vdpnl.Port
		changed uint64
	}
	l := make([]entry, 0, len(p.results))
	for id, r := range p.results {
		if !r.expires.IsZero() && !now.Before(r.expires) {
			delete(p.results, id)
			continue
		}
		l = append(l, entry{vdpnl.Port{ID: id, Done: r.done, Response: r.response}, r.changed})
	}
	slices.SortFunc(l, func(a, b entry) int { return cmp.Compare(b.changed, a.changed) })
	out := make([]vdpnl.Port, len(l))
	for i := range l {
		out[i] = l[i].Port
	}
	return out
}

// event keeps results and state up to date. It reports whether the state file
// has to change, and what libvirt is to be told.
func (p *port) event(now time.Time, e *vdp.Event) (dirty bool, indicate *vdpnl.Header) {
	id := e.VSI.ID
	r := p.results[id]
	log := p.log.With("vsi", id, "mode", e.Mode)
	switch e.Type {
	case vdp.EventNeighbor:
		p.edition = p.st.Edition()
		p.log.Info("EVB TLV from the switch", "edition", p.edition)
		return true, nil
	case vdp.EventNeighborLost:
		p.log.Warn("EVB TLV of the switch lost")
		return false, nil
	case vdp.EventEstablished:
		log.Info("established", "vid", e.VSI.Filters[0].VID)
		r.done, r.response, r.expires = true, 0, time.Time{}
		p.kept[id] = kept{VSI: e.VSI, Mode: e.Mode, Header: r.header, Owner: p.owners[id], Moved: p.kept[id].Moved}
	case vdp.EventFailed:
		log.Warn("failed", "err", e.Err)
		r.done, r.response = true, response(e.Err)
		r.expires = now.Add(resultTTL)
		if st, _ := p.st.VSI(id); st.Have == 0 {
			delete(p.kept, id)
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
		delete(p.kept, id)
		if _, again := p.st.VSI(id); !again {
			r.done, r.response, r.expires = true, 0, now.Add(resultTTL)
		}
	}
	p.result(id, r)
	return true, indicate
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
	p.close, p.send, p.ifindex = nil, nil, 0
	return out
}
