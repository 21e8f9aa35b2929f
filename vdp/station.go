package vdp

import (
	"cmp"
	"container/list"
	"slices"
	"time"
)

// Defaults of a Config.
const (
	DefaultMTU          = 1500
	DefaultMaxVSIs      = 4096
	DefaultSetupTimeout = 9 * time.Second // libvirt gives up after 10 s

	minMTU = 576 // a full-sized VDP TLV with its manager TLV fits
)

// EVBConfig is what a station proposes in its EVB TLV. The larger of its own
// and the switch's value is used, but of the switch's no more than 7, 17, 22 and
// 23. With all four numbers zero they become 3, 8, 20 and 20.
type EVBConfig struct {
	ReflectiveRelay bool  // ask the switch to reflect, as VEPA needs
	GroupIDs        bool  // offer to use group ids; VSIs may have them if the switch does, too
	Retries         uint8 // R, 0..7
	RTE             uint8 // exponents of 10 µs, 0..31, as in EVB
	RWD             uint8
	RKA             uint8
}

// A Config configures a Station.
type Config struct {
	// MAC is the uplink's address, the source of every frame.
	MAC MAC
	// Edition fixes the edition, and VDP starts without waiting for the
	// switch's EVB TLV. With EditionAuto the switch's EVB TLV decides; of
	// two, the 2012 edition wins.
	Edition Edition
	// LastEdition is, with EditionAuto, the one that was in use before a
	// restart. VDP then starts with it, not with the switch's next LLDPDU,
	// which may be later than the switch keeps VSIs without a keepalive.
	LastEdition Edition
	// LastNeighbor is the switch of before that restart. It is taken for the
	// neighbor for 120 s, or until its next LLDPDU says more.
	LastNeighbor *Neighbor
	// Pins say who may be the switch; with none, the first that offers EVB is.
	Pins []Pin
	// MTU is the uplink's, in octets; zero means 1500. It bounds how many
	// VSIs share one ECPDU; no frame exceeds 1514 octets whatever the MTU.
	MTU int
	EVB EVBConfig
	// SetupTimeout bounds the time from a request to its success, including
	// the wait for link and switch. A switch that has acknowledged the request
	// may take Timers.Answer. A request without an answer is repeated after a
	// third of SetupTimeout. Zero means DefaultSetupTimeout.
	SetupTimeout time.Duration
	// MaxVSIs is the most VSIs the station holds. Zero means DefaultMaxVSIs.
	MaxVSIs int
	// Sequence is the sequence number before that of the first ECPDU. Choose
	// it at random: a bridge takes a restarted station's first ECPDU for a
	// repetition if it has the number of the last one before.
	Sequence uint16
}

// An Output is what the owner of a Station has to do after a call.
type Output struct {
	Frames [][]byte // to send on the uplink, in order
	Events []Event
}

// An EventType says what happened.
type EventType uint8

// Event types. Each Associate, PreAssociate or PreAssociateRR that was
// accepted ends in one Established, Failed or Removed; Lost comes only after
// Established or Restore.
const (
	// EventEstablished: Mode is reached, for the first time or again.
	EventEstablished EventType = iota + 1
	// EventFailed: Mode was not reached, Err says why. The VSI is forgotten,
	// unless a refusal left it in the mode it had before.
	EventFailed
	// EventLost: the switch has, or may have, dropped the VSI. The station
	// goes on requesting it until it is established or de-associated.
	EventLost
	// EventRemoved: de-associated on request and forgotten. With an Err the
	// switch has not confirmed it.
	EventRemoved
	// EventNeighbor: the switch's EVB TLV appeared, changed its edition, or
	// shows that the switch has restarted.
	EventNeighbor
	// EventNeighborLost: the switch's EVB TLV aged out or was withdrawn.
	EventNeighborLost
	// EventConflict: another agent offers EVB, too, and is not listened to. It
	// comes once for each neighbor; Source is who it is.
	EventConflict
	// EventForeign: ECP from an address that is not the switch's. It comes once
	// for each neighbor; Source is who sent it.
	EventForeign
)

func (t EventType) String() string {
	names := [...]string{"none", "established", "failed", "lost", "removed", "neighbor", "neighbor-lost", "conflict", "foreign"}
	if int(t) < len(names) {
		return names[t]
	}
	return "unknown"
}

// An Event is a change that the owner did not cause by the call itself.
type Event struct {
	Type   EventType
	VSI    VSI   // as in force: VIDs chosen by the bridge are filled in
	Mode   Mode  // what was reached, failed or lost
	Err    error // nil, one of this package's errors or a *RefusedError
	Source MAC   // of EventConflict and EventForeign
}

// AboutVSI reports whether the event is about a VSI, not about a neighbor.
func (e *Event) AboutVSI() bool { return e.Type >= EventEstablished && e.Type <= EventRemoved }

// A State is where a VSI stands.
type State uint8

// States.
const (
	StateRequesting  State = iota + 1 // not yet answered, or waiting for link or switch
	StateEstablished                  // in the mode it was last asked for
	StateLost                         // was established, is requested again
	StateWithdrawing                  // de-associate sent, not yet answered
)

func (s State) String() string {
	names := [...]string{"none", "requesting", "established", "lost", "withdrawing"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// A VSIStatus describes a VSI that a Station holds.
type VSIStatus struct {
	VSI    VSI
	Mode   Mode // asked for
	Have   Mode // reached, 0 for none
	State  State
	Status Status // of the switch's last answer
	Err    error  // why it was lost
}

// A Station is the 802.1Qbg station on one uplink. It is not safe for
// concurrent use. Times passed to its methods must not go backwards.
type Station struct {
	cfg        Config
	link       bool
	edition    Edition // in use; EditionAuto while none is known
	neighbor   *Neighbor
	contenders []Neighbor // other agents that offer EVB, the first seen first
	speaker    MAC        // whose ECP counts: the last neighbor's, which may be gone
	told       told
	groups     bool // the switch takes group ids
	agreed     bool // our EVB TLV, too, takes the switch's into account
	timers     Timers
	echoes     echoes
	lldp       lldpSender
	ecp        ecpLink
	vsis       map[ID]*association
	due        dueHeap
	queue      list.List // of *association: what is to be sent
	out        Output
}

// NewStation returns a station whose link is down. It fails with a
// *FormatError if the configuration is out of range.
func NewStation(c Config) (*Station, error) {
	c.MTU = cmp.Or(c.MTU, DefaultMTU)
	c.MaxVSIs = cmp.Or(c.MaxVSIs, DefaultMaxVSIs)
	c.SetupTimeout = cmp.Or(c.SetupTimeout, DefaultSetupTimeout)
	e := &c.EVB
	if e.Retries == 0 && e.RTE == 0 && e.RWD == 0 && e.RKA == 0 {
		e.Retries, e.RTE, e.RWD, e.RKA = 3, 8, 20, 20
	}
	switch {
	case c.MAC == MAC{} || c.MAC[0]&1 != 0:
		return nil, badf(ErrRange, "station: MAC address %v", c.MAC)
	case c.Edition > Edition2012 || c.LastEdition > Edition2012:
		return nil, badf(ErrRange, "station: %v", c.Edition)
	case c.MTU < minMTU:
		return nil, badf(ErrRange, "station: MTU %d is less than %d", c.MTU, minMTU)
	case e.Retries > 7 || e.RTE > 31 || e.RWD > 31 || e.RKA > 31:
		return nil, bad("station: EVB exponents", ErrRange)
	case c.MaxVSIs < 0 || c.SetupTimeout < 0:
		return nil, bad("station: limits", ErrRange)
	}
	s := &Station{cfg: c, edition: c.Edition, echoes: newEchoes(), vsis: make(map[ID]*association)}
	if c.Edition == EditionAuto && c.LastEdition != EditionAuto {
		s.edition, s.agreed = c.LastEdition, true
	}
	if n := c.LastNeighbor; n != nil && n.Edition == s.edition && s.cfg.admits(n) {
		last := *n
		last.Until = time.Time{} // LinkUp sets it
		s.neighbor, s.speaker = &last, last.Source
		s.groups = s.groupsWith(&last)
	}
	s.ecp.sequence = c.Sequence
	s.negotiate()
	return s, nil
}

// LinkUp tells the station that the uplink has a carrier.
func (s *Station) LinkUp(now time.Time) Output {
	if !s.link {
		s.link = true
		if s.neighbor != nil {
			s.neighbor.Until = now.Add(lldpTTL * time.Second)
		}
		s.lldp.next = now
		if now.Before(s.echoes.deafUntil) { // the switch's answer is to be heard
			s.lldp.next = s.echoes.deafUntil
		}
		s.introduce(now)
	}
	return s.finish(now)
}

// LinkDown tells the station that the uplink lost its carrier: established
// VSIs are lost, and what is known of the switch is forgotten.
func (s *Station) LinkDown(now time.Time) Output {
	if s.link || s.neighbor != nil { // LastNeighbor may have gone while nobody looked
		s.link = false
		s.contenders = nil
		s.forgetNeighbor(now)
		s.edition, s.agreed, s.speaker, s.groups = s.cfg.Edition, false, MAC{}, false
		s.negotiate()
		s.ecp.reset()
		s.abandon(now, ErrNoLink)
	}
	return s.finish(now)
}

// Handle takes a frame that arrived on the uplink, Ethernet header included,
// FCS excluded. Output counts even with an error, which says why all or part
// of the frame was ignored: a *FormatError, ErrNotForUs, ErrEcho, ErrDeaf,
// ErrForeign, ErrConflict, ErrStray, ErrNoLink or ErrNoEVB. Nothing that a frame
// contains is fatal to the station.
func (s *Station) Handle(now time.Time, frame []byte) (Output, error) {
	err := s.handle(now, frame)
	return s.finish(now), err
}

func (s *Station) handle(now time.Time, frame []byte) error {
	var f Frame
	if err := f.UnmarshalBinary(frame); err != nil {
		return err
	}
	switch {
	case !isGroup(f.Dst), f.Src == s.cfg.MAC, f.Src[0]&1 != 0:
		return ErrNotForUs
	case !s.link:
		return ErrNoLink
	case now.Before(s.echoes.deafUntil):
		return ErrDeaf
	case s.echoes.has(now, frame):
		return ErrEcho
	case f.EtherType == EtherTypeLLDP:
		return s.handleLLDP(now, &f)
	case f.EtherType != EtherTypeECP && f.EtherType != EtherTypeECPDraft:
		return ErrNotForUs
	case s.edition == EditionAuto:
		return ErrNoEVB
	case f.EtherType != s.edition.etherType():
		return badf(ErrUnsupported, "ECPDU of the other edition than %v", s.edition)
	case f.Dst != s.edition.ecpGroup():
		return ErrNotForUs
	case !s.speaks(f.Src):
		s.tellOnce(&s.told.foreign, EventForeign, f.Src)
		return ErrForeign
	}
	return s.handleECP(now, &f)
}

// Tick does what is due. Call it when Next has come; late is safe, early is
// harmless.
func (s *Station) Tick(now time.Time) Output {
	s.introduce(now)
	s.contenders = slices.DeleteFunc(s.contenders, func(r Neighbor) bool { return due(now, r.Until) })
	if s.neighbor != nil && due(now, s.neighbor.Until) {
		s.forgetNeighbor(now)
	}
	if due(now, s.ecp.deadline) {
		s.ecpTimeout(now)
	}
	s.expire(now)
	return s.finish(now)
}

// Next returns when Tick is to be called next; the zero time means never.
func (s *Station) Next() time.Time {
	var t time.Time
	earlier := func(u time.Time) {
		if !u.IsZero() && (t.IsZero() || u.Before(t)) {
			t = u
		}
	}
	if s.link {
		earlier(s.lldp.next)
	}
	if s.neighbor != nil {
		earlier(s.neighbor.Until)
	}
	earlier(s.ecp.deadline)
	if s.ecp.payload == nil && s.queue.Len() > 0 && s.Ready() == nil {
		earlier(s.ecp.free)
	}
	earlier(s.due.next())
	return t
}

// Associate asks the switch to associate a VSI. An error means that nothing
// was done: a *FormatError, ErrTooMany, ErrNoGroups. What comes of it is an Event
// later, within Config.SetupTimeout, or Timers.Answer if the switch has
// acknowledged the request and that is longer. A VSI that is pre-associated moves on; one that
// is associated is confirmed with the switch; one that is known by other
// parameters is de-associated first.
func (s *Station) Associate(now time.Time, v VSI) (Output, error) {
	return s.command(now, v, Associate)
}

// PreAssociate is Associate without association: the switch checks the
// request. It fails with ErrDowngrade for a VSI that is further already.
func (s *Station) PreAssociate(now time.Time, v VSI) (Output, error) {
	return s.command(now, v, PreAssociate)
}

// PreAssociateRR is PreAssociate with reservation of resources.
func (s *Station) PreAssociateRR(now time.Time, v VSI) (Output, error) {
	return s.command(now, v, PreAssociateRR)
}

// Restore takes over a VSI that was established before a restart of the
// station. It is requested until it is established, without time limit.
func (s *Station) Restore(now time.Time, v VSI, m Mode) (Output, error) {
	if m < PreAssociate || m > Associate {
		return Output{}, badf(ErrRange, "restore: %v", m)
	}
	if err := s.admitLost(&v); err != nil {
		return Output{}, err
	}
	if s.vsis[v.ID] == nil {
		s.begin(&association{vsi: v.clone(), asked: slices.Clone(v.Filters), want: m, lost: true, offered: true})
	}
	return s.finish(now), nil
}

// DeAssociate takes a VSI back; EventRemoved follows. Where the switch cannot
// be told, because the link is down or it was never asked for the VSI, the
// event comes at once. It fails with ErrUnknownVSI.
func (s *Station) DeAssociate(now time.Time, id ID) (Output, error) {
	a := s.vsis[id]
	if a == nil {
		return Output{}, ErrUnknownVSI
	}
	a.next = nil
	if a.want != DeAssociate {
		s.withdraw(now, a)
	}
	return s.finish(now), nil
}

// VSI returns what the station knows of one VSI.
func (s *Station) VSI(id ID) (VSIStatus, bool) {
	a := s.vsis[id]
	if a == nil {
		return VSIStatus{}, false
	}
	return a.report(), true
}

// VSIs returns all VSIs, ordered by id.
func (s *Station) VSIs() []VSIStatus {
	all := s.all()
	l := make([]VSIStatus, 0, len(all))
	for _, a := range all {
		l = append(l, a.report())
	}
	return l
}

// Count returns how many VSIs the station has, and how many of them are
// established.
func (s *Station) Count() (vsis, established int) {
	for _, a := range s.vsis {
		if a.state() == StateEstablished {
			established++
		}
	}
	return len(s.vsis), established
}

// Neighbor returns the switch, if one has sent an EVB TLV that has not aged
// out. Its slices must not be changed.
func (s *Station) Neighbor() (Neighbor, bool) {
	if s.neighbor == nil {
		return Neighbor{}, false
	}
	return *s.neighbor, true
}

// Conflicts returns the agents at other ports than the neighbor's that offer EVB,
// too, the first seen first. One of them follows when the neighbor is gone.
func (s *Station) Conflicts() []Neighbor {
	return slices.DeleteFunc(slices.Clone(s.contenders), func(r Neighbor) bool { return s.neighbor != nil && s.neighbor.port(&r) })
}

// Edition returns the edition in use, EditionAuto while none is known.
func (s *Station) Edition() Edition { return s.edition }

// Timers returns the times in use.
func (s *Station) Timers() Timers { return s.timers }

// Ready returns nil if requests go out at once, else ErrNoLink or ErrNoEVB.
// With EditionAuto that takes an LLDPDU of the switch and one in return: VSIs
// that lldpad's bridge is asked for before, it grants and drops at once.
func (s *Station) Ready() error {
	switch {
	case !s.link:
		return ErrNoLink
	case s.edition == EditionAuto, s.cfg.Edition == EditionAuto && !s.agreed:
		return ErrNoEVB
	}
	return nil
}

// finish ends every call: what can be sent now is sent.
func (s *Station) finish(now time.Time) Output {
	s.transmit(now)
	s.lldpChanged(now)
	out := s.out
	s.out = Output{}
	return out
}

func (s *Station) event(t EventType, a *association, m Mode, err error) {
	s.out.Events = append(s.out.Events, Event{Type: t, VSI: a.vsi.clone(), Mode: m, Err: err})
}

func (s *Station) send(dst MAC, etherType uint16, payload []byte) {
	f := Frame{Dst: dst, Src: s.cfg.MAC, EtherType: etherType, Payload: payload}
	b, err := f.MarshalBinary()
	if err != nil {
		return // unreachable: transmit keeps to the frame size, all else is short
	}
	s.out.Frames = append(s.out.Frames, b)
}

func due(now, t time.Time) bool { return !t.IsZero() && !now.Before(t) }
