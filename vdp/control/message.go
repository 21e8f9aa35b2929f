package control

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"libvirt-direct/vdp"
)

// DefaultPath is where vdpd listens.
const DefaultPath = "/run/vdpd/control"

// MaxRequest is the longest request, in octets without the line break. The
// VSI with most filters needs a third of it.
const MaxRequest = 16 << 10

// Operations; those that ask the switch are the words of a vdp.Mode.
const (
	OpStatus    = "status"
	OpList      = "list"
	OpShow      = "show"
	OpSubscribe = "subscribe"
)

// A Request is what is asked of vdpd.
type Request struct {
	Op     string `json:"op"`
	Uplink string `json:"uplink,omitempty"`
	ID     string `json:"id,omitempty"`
	VSI    *VSI   `json:"vsi,omitempty"`
	// Owner is whose a VSI is that is asked for; empty is OwnerHand.
	Owner Owner `json:"owner,omitempty"`
}

// An Owner is who has asked for a VSI, and is to take it back.
type Owner string

// Owners. A VSI that was made by hand stays until it is taken back; another one ends with its
// guest as well.
const (
	OwnerHand    Owner = "hand"
	OwnerLibvirt Owner = "libvirt"
	OwnerHook    Owner = "hook"
)

// A Reply is one line from vdpd: an error, or what the operation gives.
type Reply struct {
	Error   *Error      `json:"error,omitempty"`
	Uplinks []Uplink    `json:"uplinks,omitempty"` // status
	VSIs    []VSIStatus `json:"vsis,omitempty"`    // list, show
	More    bool        `json:"more,omitempty"`    // list: the next line has further VSIs
	VSI     *VSI        `json:"vsi,omitempty"`     // associate …: as in force
	Event   *Event      `json:"event,omitempty"`   // after subscribe
}

// A VSI is a vdp.VSI with a UUID. Its filters all have the same fields.
type VSI struct {
	ID          string   `json:"id"`
	Manager     Manager  `json:"manager"`
	TypeID      uint32   `json:"type"`
	TypeVersion uint8    `json:"version"`
	Filters     []Filter `json:"filters"`
}

// A Manager is a number, libvirt's managerid, or 32 hexadecimal digits.
type Manager vdp.ManagerID

// A Filter is one of a VSI's.
type Filter struct {
	Group *uint32 `json:"group,omitempty"`
	MAC   string  `json:"mac,omitempty"`
	VID   uint16  `json:"vid"`           // 0: the switch chooses
	PCP   *uint8  `json:"pcp,omitempty"` // priority, 2012 edition only
}

// A VSIStatus is a VSI that vdpd holds.
type VSIStatus struct {
	Uplink string `json:"uplink"`
	VSI    VSI    `json:"vsi"`
	Mode   string `json:"mode"`           // asked for
	Have   string `json:"have,omitempty"` // reached
	State  string `json:"state"`          // a vdp.State
	Owner  Owner  `json:"owner,omitempty"`
	Error  *Error `json:"error,omitempty"`
}

// An Uplink is a port of the host with a station.
type Uplink struct {
	Name        string    `json:"name"`
	Ifindex     int       `json:"ifindex,omitempty"` // 0: there is no such interface
	Device      string    `json:"device,omitempty"`  // the interface's present name
	MAC         string    `json:"mac,omitempty"`
	Link        bool      `json:"link"`
	Edition     string    `json:"edition"`         // in use; auto while none is known
	Error       *Error    `json:"error,omitempty"` // why no VSI can be associated
	Switch      *Switch   `json:"switch,omitempty"`
	Timers      *Timers   `json:"timers,omitempty"`
	VSIs        int       `json:"vsis"`
	Established int       `json:"established"`
	Sent        Frames    `json:"sent"`
	Received    Frames    `json:"received"`
	LinkSince   time.Time `json:"link_since,omitzero"`
	// Pins are vdpd.toml's neighbor: who alone may be the switch.
	Pins []string `json:"pins,omitempty"`
	// Others are agents with an EVB TLV that are not the switch while it lives.
	Others []Agent `json:"others,omitempty"`
	// Echoes counts frames of this host's own that came back.
	Echoes uint64 `json:"echoes,omitempty"`
}

// An Agent is one of LLDP.
type Agent struct {
	Source  string    `json:"source"` // of its LLDPDUs
	Group   string    `json:"group"`  // the address that they go to
	Chassis string    `json:"chassis"`
	Port    string    `json:"port"`
	Since   time.Time `json:"since,omitzero"`
}

// Frames counts those of an uplink since vdpd saw its interface.
type Frames struct {
	LLDP uint64 `json:"lldp"`
	ECP  uint64 `json:"ecp"`
}

// A Switch is what the neighbour's LLDPDU with an EVB TLV says.
type Switch struct {
	Source  string `json:"source"`
	Chassis string `json:"chassis"`
	Port    string `json:"port"`
	// ReflectiveRelay: the switch has switched it on.
	ReflectiveRelay bool `json:"reflective_relay"`
}

// Timers are vdp.Timers in milliseconds.
type Timers struct {
	ECPAck     float64 `json:"ecp_ack_ms"`
	ECPRetries int     `json:"ecp_retries"`
	Answer     float64 `json:"answer_ms"`
	Keepalive  float64 `json:"keepalive_ms"`
	// Peer is what the switch has asked for, nil where it has not, and Used what is in
	// use, at most what vdpd allows.
	Peer *Exponents `json:"peer,omitempty"`
	Used *Exponents `json:"used,omitempty"`
}

// Exponents are the timers as the EVB TLV has them: powers of two, times 10 µs, and a number of
// retries.
type Exponents struct {
	Retries uint8 `json:"ecp_retries"`
	RTE     uint8 `json:"ecp_rte"`
	RWD     uint8 `json:"vdp_rwd"`
	RKA     uint8 `json:"vdp_rka"`
}

// Limited lists what the switch has asked for and does not get, as "vdp_rwd 25 → 22".
func (t *Timers) Limited() (all []string) {
	if t.Peer == nil || t.Used == nil {
		return nil
	}
	for _, e := range []struct {
		name       string
		peer, used uint8
	}{
		{"ecp_retries", t.Peer.Retries, t.Used.Retries}, {"ecp_rte", t.Peer.RTE, t.Used.RTE},
		{"vdp_rwd", t.Peer.RWD, t.Used.RWD}, {"vdp_rka", t.Peer.RKA, t.Used.RKA},
	} {
		if e.peer > e.used {
			all = append(all, fmt.Sprintf("%s %d → %d", e.name, e.peer, e.used))
		}
	}
	return all
}

// An Event is what happened to a VSI, or to the neighbour of an uplink.
type Event struct {
	Time   time.Time `json:"time"`
	Uplink string    `json:"uplink"`
	Type   string    `json:"type"` // a vdp.EventType
	Mode   string    `json:"mode,omitempty"`
	VSI    *VSI      `json:"vsi,omitempty"`
	Source string    `json:"source,omitempty"` // of conflict and foreign: who is not the switch
	Error  *Error    `json:"error,omitempty"`
}

// ParseRequest reads one line. The error matches ErrBadRequest, or is
// package vdp's about the VSI.
func ParseRequest(line []byte) (Request, error) {
	var r Request
	if err := decode(line, &r); err != nil {
		return r, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return r, r.check()
}

// decode reads exactly one JSON value without unknown keys.
func decode(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("more than one value in a line")
	}
	return nil
}

// check wants the fields of the operation, all of them and no other.
func (r *Request) check() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: "+format, append([]any{ErrBadRequest, r.Op}, args...)...)
	}
	var uplink, id, vsi bool // allowed
	switch r.Op {
	case OpStatus, OpSubscribe:
	case OpList:
		uplink = true
	case OpShow, vdp.DeAssociate.String():
		uplink, id = true, true
	case vdp.Associate.String(), vdp.PreAssociate.String(), vdp.PreAssociateRR.String():
		if r.Uplink == "" {
			return refuse("no uplink")
		}
		uplink, vsi = true, true
	default:
		return fmt.Errorf("%w: unknown op %q", ErrBadRequest, r.Op)
	}
	switch {
	case r.Owner != "" && (!vsi || r.Owner != OwnerHand && r.Owner != OwnerHook):
		return refuse("owner %q", r.Owner)
	case !uplink && r.Uplink != "":
		return refuse("takes no uplink")
	case id != (r.ID != ""):
		return refuse("id wanted: %v", id)
	case vsi != (r.VSI != nil):
		return refuse("vsi wanted: %v", vsi)
	case id:
		_, err := vdp.ParseUUID(r.ID)
		return err
	case vsi:
		_, err := r.VSI.VDP()
		return err
	}
	return nil
}

// FromVDP returns a VSI in the form of this package.
func FromVDP(v *vdp.VSI) VSI {
	out := VSI{ID: v.ID.String(), Manager: Manager(v.Manager), TypeID: v.TypeID, TypeVersion: v.TypeVersion}
	hasMAC := v.FilterFormat == vdp.FilterMACVID || v.FilterFormat == vdp.FilterGroupMACVID
	hasGroup := v.FilterFormat == vdp.FilterGroupVID || v.FilterFormat == vdp.FilterGroupMACVID
	for _, f := range v.Filters {
		g := Filter{VID: f.VID}
		if hasGroup {
			g.Group = &f.Group
		}
		if hasMAC {
			g.MAC = f.MAC.String()
		}
		if f.PCPValid {
			g.PCP = &f.PCP
		}
		out.Filters = append(out.Filters, g)
	}
	return out
}

// VDP returns the VSI in package vdp's form, valid in the 2012 edition at
// least. Its errors are package vdp's, or match ErrBadRequest.
func (v *VSI) VDP() (vdp.VSI, error) {
	id, err := vdp.ParseUUID(v.ID)
	if err != nil {
		return vdp.VSI{}, err
	}
	out := vdp.VSI{ID: id, Manager: vdp.ManagerID(v.Manager), TypeID: v.TypeID, TypeVersion: v.TypeVersion}
	for i, f := range v.Filters {
		format := vdp.FilterVID
		switch {
		case f.Group != nil && f.MAC != "":
			format = vdp.FilterGroupMACVID
		case f.Group != nil:
			format = vdp.FilterGroupVID
		case f.MAC != "":
			format = vdp.FilterMACVID
		}
		if i > 0 && format != out.FilterFormat {
			return vdp.VSI{}, fmt.Errorf("%w: filters with different fields", ErrBadRequest)
		}
		out.FilterFormat = format
		g := vdp.Filter{VID: f.VID}
		if f.Group != nil {
			g.Group = *f.Group
		}
		if f.MAC != "" {
			mac, err := net.ParseMAC(f.MAC)
			if err != nil || len(mac) != len(g.MAC) {
				return vdp.VSI{}, fmt.Errorf("%w: MAC address %q", ErrBadRequest, f.MAC)
			}
			g.MAC = vdp.MAC(mac)
		}
		if f.PCP != nil {
			g.PCP, g.PCPValid = *f.PCP, true
		}
		out.Filters = append(out.Filters, g)
	}
	if len(out.Filters) == 0 {
		return vdp.VSI{}, fmt.Errorf("%w: no filters", ErrBadRequest)
	}
	return out, out.Validate(vdp.EditionAuto)
}

// MarshalJSON writes a number where that is enough.
func (m Manager) MarshalJSON() ([]byte, error) {
	if m == (Manager{m[0]}) {
		return strconv.AppendUint(nil, uint64(m[0]), 10), nil
	}
	return json.Marshal(hex.EncodeToString(m[:]))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (m *Manager) UnmarshalJSON(b []byte) error {
	*m = Manager{}
	if n, err := strconv.ParseUint(string(b), 10, 8); err == nil {
		m[0] = byte(n)
		return nil
	}
	if len(b) == 0 || b[0] != '"' {
		return json.Unmarshal(b, &m[0])
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	octets, err := hex.DecodeString(s)
	if err != nil || len(octets) != len(m) {
		return fmt.Errorf("manager %q: want a number from 0 to 255, or 32 hexadecimal digits", s)
	}
	*m = Manager(octets)
	return nil
}

// String is the number, or the 32 digits.
func (m Manager) String() string {
	if m == (Manager{m[0]}) {
		return fmt.Sprint(m[0])
	}
	return hex.EncodeToString(m[:])
}
