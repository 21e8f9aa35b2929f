package lldpad

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
)

const (
	uuid = "fa9b7fff-b0a0-4893-abcd-beef4ff18f8f"

	// As Debian's lldpad 1.1 sent them.
	seenEvent = "M000080c4E16009404mode0005assoc06mgrid20001106typeid0001509typeidver0001204uuid0024" + uuid +
		"05hints0001006filter0015100-52:54:00:11:22:33"
	seenNoAnswer = "M000080c4E16009804mode0007deassoc06mgrid20001106typeid0001509typeidver0001204uuid0024" + uuid +
		"05hints000376706filter0015100-52:54:00:11:22:33"
	seenCut     = "M000080c4E16009504mode0005assoc06mgrid20002\n\v" // mgrid2 0a0b00…
	seenConfig  = "R00C3010000001103vs00080c20d06vdprka00022006vdprwd00022006ecprte000180aecpretries0001308evbrrreq0002no08evbrrcap0002no07evbgpid0002no07evbmode0007station08enableTx0002no"
	seenTLV     = "R00C3010000000203vs00080c20dfe090080c20d0305687434"
	seenModes   = "6,12,1193046,1,deadbeef-0000-0000-0000-000000000001,2,52:54:00:c7:3e:ce,34,12,1193046,1," + uuid + ",2,52:54:00:c7:3e:ce,3,52:54:00:c7:3e:cf,3"
	seenListing = "00000003" + "0094" + "04mode0005assoc06mgrid20001106typeid0001509typeidver0001204uuid0024" + uuid +
		"05hints0001006filter0015100-52:54:00:11:22:33"
)

func testVSI() vdp.VSI {
	id, _ := vdp.ParseUUID(uuid)
	return vdp.VSI{
		ID: id, Manager: vdp.ManagerID{1}, TypeID: 5, TypeVersion: 2, FilterFormat: vdp.FilterMACVID,
		Filters: []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 0x11, 0x22, 0x33}, VID: 100}},
	}
}

// What vdptool and lldptool send, but for the manager id.
func TestMarshalCommand(t *testing.T) {
	v := testVSI()
	b, err := command{module: moduleVDP22, verb: verbSetTLV, op: opConfig | opArg | opArgValue | 1<<opFiltersShift,
		port: "vs0", tlv: uint32(vdp.Associate), args: vsiArgs(vdp.Associate, &v)}.marshal()
	require.NoError(t, err)
	require.Equal(t, "M000080c4C3020000011c03vs0020000000304mode0005assoc06mgrid2002001000000000000000000000000000000"+
		"06typeid0001509typeidver0001204uuid0024"+uuid+"05hints0004none06filter0015100-52:54:00:11:22:33", string(b))
	b, err = command{module: moduleAll, verb: verbGetLLDP, op: opArg, port: "vs0", args: []arg{{name: "adminStatus"}}}.marshal()
	require.NoError(t, err)
	require.Equal(t, "M00000001C3030000000403vs0020badminStatus", string(b))

	_, err = command{port: ""}.marshal()
	require.ErrorIs(t, err, ErrNoPort)
	_, err = command{port: "vs0", args: make([]arg, 3000)}.marshal()
	require.ErrorIs(t, err, ErrRejected)
}

func TestParseEvent(t *testing.T) {
	want := testVSI()
	want.Manager = vdp.ManagerID{}
	r, ok, err := parseEvent([]byte(seenEvent))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, report{mode: vdp.Associate, vsi: want}, r)
	require.NoError(t, r.err())

	// Nobody answers: a de-association with error bits, and no status.
	r, ok, err = parseEvent([]byte(seenNoAnswer))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, vdp.DeAssociate, r.mode)
	require.ErrorIs(t, r.err(), vdp.ErrNoAnswer)
	require.Equal(t, vdp.EventFailed, eventOf(r).Type)

	_, ok, err = parseEvent([]byte(seenCut))
	require.False(t, ok)
	require.ErrorIs(t, err, ErrMalformed)
	_, ok, err = parseEvent([]byte("M001b2101E10"))
	require.False(t, ok)
	require.NoError(t, err, "another module's")
}

func TestParseReplies(t *testing.T) {
	status, body, err := parseReply([]byte(seenConfig), "C3010000001103vs0")
	require.NoError(t, err)
	require.Zero(t, status)
	m, err := parseTLVArgs(body)
	require.NoError(t, err)
	require.Equal(t, "station", m["evbmode"])
	require.Equal(t, "no", m["enableTx"])

	_, body, err = parseReply([]byte(seenTLV), "C3010000000203vs0")
	require.NoError(t, err)
	b, err := parseTLV(body)
	require.NoError(t, err)
	require.Equal(t, "0080c20d0305687434", hex.EncodeToString(b))

	list, err := parseVSIs(seenListing + seenListing[8:])
	require.NoError(t, err)
	require.Len(t, list, 2)

	_, _, err = parseReply([]byte(seenTLV), "C3010000000203eth0")
	require.ErrorIs(t, err, ErrMalformed, "the answer to another request")
	status, _, err = parseReply([]byte("R0a"), "C3")
	require.NoError(t, err)
	require.ErrorIs(t, statusError(status), ErrPermission)
	for _, s := range []string{"", "R", "R0", "Rxx", "X00"} {
		_, _, err := parseReply([]byte(s), "")
		require.ErrorIs(t, err, ErrMalformed, s)
	}
}

// A VLAN runs into the next entry's state (trap 13).
func TestParseModes(t *testing.T) {
	dead, err := vdp.ParseUUID("deadbeef-0000-0000-0000-000000000001")
	require.NoError(t, err)
	require.Equal(t, map[vdp.ID]byte{dead: '6', testVSI().ID: '4'}, parseModes(seenModes))
}

func TestParseFilter(t *testing.T) {
	mac := vdp.MAC{0x52, 0x54, 0, 0x11, 0x22, 0x33}
	for s, want := range map[string]struct {
		f      vdp.Filter
		format vdp.FilterFormat
	}{
		"100":                     {vdp.Filter{VID: 100}, vdp.FilterVID},
		"100-52:54:00:11:22:33":   {vdp.Filter{VID: 100, MAC: mac}, vdp.FilterMACVID},
		"100--7":                  {vdp.Filter{VID: 100, Group: 7}, vdp.FilterGroupVID},
		"100-52:54:00:11:22:33-7": {vdp.Filter{VID: 100, MAC: mac, Group: 7}, vdp.FilterGroupMACVID},
		"45156":                   {vdp.Filter{VID: 100, PCP: 3, PCPValid: true}, vdp.FilterVID},
	} {
		f, format, err := parseFilter(s)
		require.NoError(t, err, s)
		require.Equal(t, want.f, f, s)
		require.Equal(t, want.format, format, s)
	}
	for _, s := range []string{"", "x", "65536", "1-2", "1-52:54:00:11:22:33-x", "1-2-3-4", "1-52:54:00:11:22:33:44:55"} {
		_, _, err := parseFilter(s)
		require.ErrorIs(t, err, ErrMalformed, s)
	}
}

// What lldpad refuses without a reason is not sent (traps 8 and 18).
func TestCheckVSI(t *testing.T) {
	for name, change := range map[string]func(v *vdp.VSI){
		"zero id start": func(v *vdp.VSI) { v.ID.Octets = [16]byte{8: 1} },
		"id format":     func(v *vdp.VSI) { v.ID.Format = vdp.IDLocal },
		"VLAN 1":        func(v *vdp.VSI) { v.Filters[0].VID = 1 },
		"MAC twice":     func(v *vdp.VSI) { v.Filters = append(v.Filters, vdp.Filter{MAC: v.Filters[0].MAC, VID: 7}) },
		"groups":        func(v *vdp.VSI) { v.FilterFormat = vdp.FilterGroupMACVID },
	} {
		v := testVSI()
		change(&v)
		require.ErrorIs(t, checkVSI(vdp.Edition2012, &v), ErrRejected, name)
	}
	v := testVSI()
	v.Filters = append(v.Filters, vdp.Filter{VID: 7})
	require.NoError(t, checkVSI(vdp.Edition2012, &v))
	require.ErrorIs(t, checkVSI(vdp.EditionDraft, &v), ErrRejected)
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{seenConfig, seenTLV, seenEvent, seenNoAnswer, seenCut, "R0a", pong + "12", "R00C3" + seenListing, seenModes} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(err error) {
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Fatalf("untyped error %v", err)
			}
		}
		_, body, err := parseReply(b, "")
		check(err)
		_, err = parsePong(b)
		check(err)
		for _, s := range []string{body, string(b), strings.TrimPrefix(body, "C3")} {
			_, err = parseArgs(s)
			check(err)
			_, err = parseTLVArgs(s)
			check(err)
			_, err = parseTLV(s)
			check(err)
			reports, err := parseVSIs(s)
			check(err)
			for _, r := range reports {
				if r.mode < vdp.PreAssociate || r.mode > vdp.DeAssociate || r.vsi.ID.Format != vdp.IDUUID {
					t.Fatal(r)
				}
			}
			parseModes(s)
		}
	})
}

func FuzzEvent(f *testing.F) {
	for _, s := range []string{seenEvent, seenNoAnswer, seenCut} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok, err := parseEvent(b)
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("untyped error %v", err)
		}
		if ok {
			eventOf(r)
			v := r.vsi
			if got, _, err := parseFilters(v); err != nil || len(got) != len(v.Filters) {
				t.Fatal(err)
			}
		}
	})
}

// parseFilters reads back what vsiArgs writes, in the formats that it writes.
func parseFilters(v vdp.VSI) ([]vdp.Filter, vdp.FilterFormat, error) {
	if v.FilterFormat != vdp.FilterVID && v.FilterFormat != vdp.FilterMACVID {
		return v.Filters, v.FilterFormat, nil
	}
	var out []vdp.Filter
	var format vdp.FilterFormat
	for _, a := range vsiArgs(vdp.Associate, &v) {
		if a.name == "filter" {
			f, ff, err := parseFilter(a.value)
			if err != nil {
				return nil, 0, err
			}
			out, format = append(out, f), ff
		}
	}
	return out, format, nil
}
