package lldpad

import (
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"strings"

	"libvirt-direct/vdp"
)

// modeWords are vdptool's. lldpad also reads digits, and takes them for the
// mode below (qbg/vdp_ascii.c:getmode).
var modeWords = map[vdp.Mode]string{
	vdp.PreAssociate: "preassoc", vdp.PreAssociateRR: "preassoc-rr",
	vdp.Associate: "assoc", vdp.DeAssociate: "deassoc",
}

// The result that lldpad reports where the request had its hints
// (include/qbg_vdp22def.h): the status octet of the switch's answer and these.
const (
	resultPending      = 0xff // no answer yet, in place of the status
	resultKeepalive    = 1 << 8
	resultNoAnswer     = 1 << 9
	resultNotDelivered = 1 << 10 // no ECP acknowledgement
)

// A report is what lldpad says of one VSI of the 2012 edition, in answers and
// in events.
type report struct {
	mode   vdp.Mode
	vsi    vdp.VSI
	result uint16
}

func (r *report) pending() bool { return r.result == resultPending }

// err is why the request failed, nil if it has not.
func (r *report) err() error {
	status := vdp.Status(r.result) &^ vdp.StatusAck
	switch {
	case r.result&resultNotDelivered != 0:
		return fmt.Errorf("%w: it does not acknowledge ECP", vdp.ErrNoAnswer)
	case r.result&(resultNoAnswer|resultKeepalive) != 0:
		return vdp.ErrNoAnswer
	case r.pending():
		return nil
	case status.Reason() != vdp.ReasonSuccess:
		return &vdp.RefusedError{Edition: vdp.Edition2012, Status: status}
	}
	return nil
}

// checkVSI refuses what lldpad would refuse without saying why, or would
// misunderstand (traps 8 and 18).
func checkVSI(ed vdp.Edition, v *vdp.VSI) error {
	if err := v.Validate(ed); err != nil {
		return err
	}
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrRejected}, args...)...)
	}
	if v.ID.Format != vdp.IDUUID {
		return refuse("it knows UUIDs only as VSI ids")
	}
	if ed == vdp.EditionDraft {
		// rtnetlink carries one filter in one message.
		if len(v.Filters) != 1 {
			return refuse("%d filters, and rtnetlink has room for one", len(v.Filters))
		}
		return nil
	}
	if [8]byte(v.ID.Octets[:8]) == ([8]byte{}) {
		return refuse("a VSI id whose first eight octets are zero is invalid for it") // vdp22.c:check_vsiid
	}
	if v.FilterFormat != vdp.FilterVID && v.FilterFormat != vdp.FilterMACVID {
		return refuse("group ids are not supported here")
	}
	macs := make(map[vdp.MAC]bool)
	for _, f := range v.Filters {
		if f.VID == 1 {
			return refuse("VLAN 1 is invalid for it") // vdp22.c:check_vid
		}
		if v.FilterFormat == vdp.FilterMACVID && macs[f.MAC] {
			return refuse("%v is in more than one filter", f.MAC) // vdp_ascii.c:getfid
		}
		macs[f.MAC] = true
	}
	return nil
}

// vsiArgs are the arguments of a request about a VSI, in vdptool's order.
func vsiArgs(m vdp.Mode, v *vdp.VSI) []arg {
	args := []arg{
		{"mode", modeWords[m]},
		// All 32 digits: lldpad reads digits and dashes as hexadecimal octets
		// and anything else as text.
		{"mgrid2", hex.EncodeToString(v.Manager[:])},
		{"typeid", strconv.FormatUint(uint64(v.TypeID), 10)},
		{"typeidver", strconv.FormatUint(uint64(v.TypeVersion), 10)},
		{"uuid", v.ID.String()},
		{"hints", "none"},
	}
	for _, f := range v.Filters {
		vid := uint64(f.VID) | uint64(f.PCP&7)<<12
		if f.PCPValid {
			vid |= 1 << 15
		}
		s := strconv.FormatUint(vid, 10)
		if v.FilterFormat == vdp.FilterMACVID {
			s += "-" + f.MAC.String()
		}
		args = append(args, arg{"filter", s})
	}
	return args
}

// parseVSI reads the key/value string of one VSI. Its manager id is not
// recovered: lldpad writes a single octet as a decimal number and several as
// the characters they are, so that "12" stands for two different ids, and one
// with a zero octet is cut off there (qbg/vdp_ascii.c:mgrid2str).
func parseVSI(s string) (report, error) {
	bad := func(what string) (report, error) {
		return report{}, fmt.Errorf("%w: %s of VSI %.200q", ErrMalformed, what, s)
	}
	var r report
	args, err := parseArgs(s)
	if err != nil {
		return report{}, err
	}
	result := false
	for _, a := range args {
		switch a.name {
		case "mode":
			word, _, _ := strings.Cut(a.value, "[")
			for m, w := range modeWords {
				if w == word {
					r.mode = m
				}
			}
		case "typeid":
			n, err := strconv.ParseUint(a.value, 0, 24)
			if err != nil {
				return bad("type id")
			}
			r.vsi.TypeID = uint32(n)
		case "typeidver":
			n, err := strconv.ParseUint(a.value, 0, 8)
			if err != nil {
				return bad("type version")
			}
			r.vsi.TypeVersion = uint8(n)
		case "uuid":
			if r.vsi.ID, err = vdp.ParseUUID(a.value); err != nil {
				return bad("id")
			}
		case "hints":
			n, err := strconv.ParseUint(a.value, 0, 16)
			if err != nil {
				return bad("result")
			}
			r.result, result = uint16(n), true
		case "filter":
			f, format, err := parseFilter(a.value)
			if err != nil || len(r.vsi.Filters) > 0 && format != r.vsi.FilterFormat {
				return bad("filter")
			}
			r.vsi.FilterFormat = format
			r.vsi.Filters = append(r.vsi.Filters, f)
		}
	}
	if r.mode == 0 || r.vsi.ID == (vdp.ID{}) || !result {
		return bad("mode, id or result")
	}
	return r, nil
}

// parseFilter reads vid, vid-mac, vid--group or vid-mac-group.
func parseFilter(s string) (vdp.Filter, vdp.FilterFormat, error) {
	bad := fmt.Errorf("%w: filter %.40q", ErrMalformed, s)
	parts := strings.Split(s, "-")
	if len(parts) > 3 {
		return vdp.Filter{}, 0, bad
	}
	vid, err := strconv.ParseUint(parts[0], 0, 16)
	if err != nil {
		return vdp.Filter{}, 0, bad
	}
	f, format := vdp.Filter{VID: uint16(vid & 0xfff), PCP: uint8(vid >> 12 & 7), PCPValid: vid>>15 != 0}, vdp.FilterVID
	if len(parts) > 1 && parts[1] != "" {
		mac, err := net.ParseMAC(parts[1])
		if err != nil || len(mac) != len(f.MAC) {
			return vdp.Filter{}, 0, bad
		}
		f.MAC, format = vdp.MAC(mac), vdp.FilterMACVID
	}
	if len(parts) > 2 {
		group, err := strconv.ParseUint(parts[2], 0, 32)
		if err != nil {
			return vdp.Filter{}, 0, bad
		}
		f.Group = uint32(group)
		format += vdp.FilterGroupVID - vdp.FilterVID
	}
	return f, format, nil
}

// parseVSIs reads the body of a reply to a request for VSIs: the mode and
// then, counted, each VSI.
func parseVSIs(body string) ([]report, error) {
	if len(body) < 8 {
		return nil, fmt.Errorf("%w: mode in %.40q", ErrMalformed, body)
	}
	var reports []report
	for s := body[8:]; s != ""; {
		var one string
		var err error
		if one, s, err = cutCounted(s, 4); err != nil {
			return nil, err
		}
		r, err := parseVSI(one)
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// parseEvent reads an event. Those of other modules give ok == false.
func parseEvent(b []byte) (r report, ok bool, err error) {
	const prefix = "M000080c4E16" // module and, in decimal, the level that vdp22_sendevent uses
	s, ok := strings.CutPrefix(string(b), prefix)
	if !ok {
		return report{}, false, nil
	}
	one, _, err := cutCounted(s, 4)
	if err == nil {
		r, err = parseVSI(one)
	}
	return r, err == nil, err
}
