package vdp_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	require.NoError(t, err)
	return b
}

func uuid(t testing.TB, s string) vdp.ID {
	t.Helper()
	id, err := vdp.ParseUUID(s)
	require.NoError(t, err)
	return id
}

const uuidText = "fa9b7fff-b0a0-4893-abcd-beef4ff18f8f"

// Frames captured from lldpad 1.1+git20221028, Debian 12.
const (
	lldpadAssoc2012 = `0180c2000000 02aa00000001 8940 1001 0001
		0a10 01000000000000000000000000000000
		0621 00 000005 02 05 fa9b7fffb0a04893abcdbeef4ff18f8f 02 0001 525400112233 0064`
	lldpadAck2012    = `0180c2000000 02bb00000001 8940 1401 0001`
	lldpadAnswer2012 = `0180c2000000 02bb00000001 8940 1001 0001
		0a10 01000000000000000000000000000000
		0621 40 000005 02 05 fa9b7fffb0a04893abcdbeef4ff18f8f 02 0001 525400112233 0064`
	lldpadBridge2012 = `0180c2000000 02bb00000001 88cc 0207 04 02bb00000001 0407 03 02bb00000001 0602 0078
		fe09 0080c20d 03 05 68 74 34 0000 00000000000000000000000000`
	lldpadStationDraft = `0180c2000000 02aa00000001 88cc 0207 04 02aa00000001 0407 03 02aa00000001 0602 0078
		fe0d 001b3f00 40 07 40 07 0cdf 0000 0f 0000 000000000000000000`
	lldpadAssocDraft = `0180c200000e 02aa00000001 88b7 001b3f00 0000 00 0002
		fe26 001b3f 02 02 00 0c 123456 01 fa9b7fffb0a04893abcdbeef4ff18f8f 02 0001 525400112233 0064 0000`
	lldpadEmptyDraft = `0180c200000e 02aa00000001 88b7 001b3f00 0000 00 0001 0000
		00000000000000000000000000000000000000000000000000000000000000000000`
)

func frame(t testing.TB, s string) (f vdp.Frame) {
	t.Helper()
	require.NoError(t, f.UnmarshalBinary(unhex(t, s)))
	return f
}

func TestCapturedFrames2012(t *testing.T) {
	f := frame(t, lldpadAssoc2012)
	require.Equal(t, vdp.NearestCustomerBridge, f.Dst)
	require.Equal(t, vdp.EtherTypeECP, f.EtherType)
	p, err := vdp.UnmarshalECPDU(vdp.Edition2012, f.Payload)
	require.NoError(t, err)
	require.Equal(t, uint16(vdp.ECPSubtypeVDP), p.Subtype)
	require.Equal(t, uint16(1), p.Sequence)
	require.False(t, p.Ack)
	msgs, err := vdp.UnmarshalMessages(vdp.Edition2012, p.Payload)
	require.NoError(t, err)
	want := vdp.Message{Mode: vdp.Associate, VSI: vdp.VSI{
		ID: uuid(t, uuidText), Manager: vdp.ManagerID{1}, TypeID: 5, TypeVersion: 2,
		FilterFormat: vdp.FilterMACVID,
		Filters:      []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 0x11, 0x22, 0x33}, VID: 100}},
	}}
	require.Equal(t, []vdp.Message{want}, msgs)
	require.False(t, msgs[0].Answer(vdp.Edition2012))

	// What lldpad sends is what we send, but for the End TLV.
	payload, err := vdp.MarshalMessages(vdp.Edition2012, msgs)
	require.NoError(t, err)
	require.Equal(t, append(bytes.Clone(p.Payload), 0, 0), payload)

	p, err = vdp.UnmarshalECPDU(vdp.Edition2012, frame(t, lldpadAnswer2012).Payload)
	require.NoError(t, err)
	msgs, err = vdp.UnmarshalMessages(vdp.Edition2012, p.Payload)
	require.NoError(t, err)
	require.True(t, msgs[0].Answer(vdp.Edition2012))
	require.Equal(t, vdp.ReasonSuccess, msgs[0].Status.Reason())

	p, err = vdp.UnmarshalECPDU(vdp.Edition2012, frame(t, lldpadAck2012).Payload)
	require.NoError(t, err)
	require.True(t, p.Ack)

	var l vdp.LLDPDU
	require.NoError(t, l.UnmarshalBinary(frame(t, lldpadBridge2012).Payload))
	require.Equal(t, uint16(120), l.TTL)
	require.Nil(t, l.Draft)
	require.Equal(t, &vdp.EVB{
		RRCapable: true, RRControl: true, RRRequest: true, RRStatus: vdp.RREnabled,
		Retries: 3, RTE: 8, Role: vdp.RoleBridge, ROLResource: true, RWD: 20, ROLKeepalive: true, RKA: 20,
	}, l.EVB)
}

func TestCapturedFramesDraft(t *testing.T) {
	f := frame(t, lldpadAssocDraft)
	require.Equal(t, vdp.NearestBridge, f.Dst)
	p, err := vdp.UnmarshalECPDU(vdp.EditionDraft, f.Payload)
	require.NoError(t, err)
	msgs, err := vdp.UnmarshalMessages(vdp.EditionDraft, p.Payload)
	require.NoError(t, err)
	require.Len(t, msgs, 1)
	m := msgs[0]
	require.Equal(t, vdp.Associate, m.Mode)
	require.Equal(t, vdp.ManagerID{12}, m.VSI.Manager)
	require.Equal(t, uint32(0x123456), m.VSI.TypeID)
	require.Equal(t, uuidText, m.VSI.ID.String())
	payload, err := vdp.MarshalMessages(vdp.EditionDraft, msgs)
	require.NoError(t, err)
	require.Equal(t, p.Payload, payload)

	p, err = vdp.UnmarshalECPDU(vdp.EditionDraft, frame(t, lldpadEmptyDraft).Payload)
	require.NoError(t, err)
	msgs, err = vdp.UnmarshalMessages(vdp.EditionDraft, p.Payload)
	require.NoError(t, err)
	require.Empty(t, msgs)

	var l vdp.LLDPDU
	require.NoError(t, l.UnmarshalBinary(frame(t, lldpadStationDraft).Payload))
	require.Equal(t, &vdp.EVBDraft{
		SupportedForwarding: vdp.ForwardReflective, SupportedCapabilities: 7,
		Forwarding: vdp.ForwardReflective, Capabilities: 7, SupportedVSIs: 3295, RTE: 15,
	}, l.Draft)
}

func TestMessagesRejected(t *testing.T) {
	const (
		mgr  = "0a10 01000000000000000000000000000000"
		head = "00 000005 02 05 fa9b7fffb0a04893abcdbeef4ff18f8f"
		ok   = "0621" + head + "02 0001 525400112233 0064"
	)
	for _, c := range []struct {
		name, in string
		ed       vdp.Edition
		want     error
	}{
		{"no manager", ok, vdp.Edition2012, vdp.ErrOrder},
		{"manager after the VSI", ok + mgr, vdp.Edition2012, vdp.ErrOrder},
		{"manager twice", mgr + mgr, vdp.Edition2012, vdp.ErrOrder},
		{"short manager", "0a0f 010000000000000000000000000000", vdp.Edition2012, vdp.ErrLength},
		{"TLV longer than the frame", mgr + "0622" + head + "02 0001 525400112233 0064", vdp.Edition2012, vdp.ErrTruncated},
		{"header cut", mgr + "06", vdp.Edition2012, vdp.ErrTruncated},
		{"value cut", mgr + "0618 00 000005 02 05 fa9b7fffb0a04893abcdbeef4ff18f8f 02 00", vdp.Edition2012, vdp.ErrLength},
		{"count too large", mgr + "0621" + head + "02 0002 525400112233 0064", vdp.Edition2012, vdp.ErrLength},
		{"count too small", mgr + "0629" + head + "02 0001 525400112233 0064 525400112234 0064", vdp.Edition2012, vdp.ErrLength},
		{"count of 65535", mgr + "0621" + head + "02 ffff 525400112233 0064", vdp.Edition2012, vdp.ErrLength},
		{"no filter", mgr + "0619" + head + "02 0000", vdp.Edition2012, vdp.ErrLength},
		{"filter format 0", mgr + "0621" + head + "00 0001 525400112233 0064", vdp.Edition2012, vdp.ErrUnsupported},
		{"filter format 5", mgr + "0621" + head + "05 0001 525400112233 0064", vdp.Edition2012, vdp.ErrUnsupported},
		{"VID 4095", mgr + "0621" + head + "02 0001 525400112233 0fff", vdp.Edition2012, vdp.ErrRange},
		{"id format 6", mgr + "0621 00 000005 02 06 fa9b7fffb0a04893abcdbeef4ff18f8f 02 0001 525400112233 0064", vdp.Edition2012, vdp.ErrRange},
		{"End TLV with a length", "0001 00", vdp.Edition2012, vdp.ErrLength},

		{"mode 4", "fe26 001b3f 02 04 00 0c 123456 01 fa9b7fffb0a04893abcdbeef4ff18f8f 02 0001 525400112233 0064", vdp.EditionDraft, vdp.ErrRange},
		{"response 7", "fe26 001b3f 02 02 07 0c 123456 01 fa9b7fffb0a04893abcdbeef4ff18f8f 02 0001 525400112233 0064", vdp.EditionDraft, vdp.ErrRange},
		{"priority bits", "fe26 001b3f 02 02 00 0c 123456 01 fa9b7fffb0a04893abcdbeef4ff18f8f 02 0001 525400112233 8064", vdp.EditionDraft, vdp.ErrRange},
		{"filter format 1", "fe20 001b3f 02 02 00 0c 123456 01 fa9b7fffb0a04893abcdbeef4ff18f8f 01 0001 0064", vdp.EditionDraft, vdp.ErrRange},
		{"too short", "fe04 001b3f 02", vdp.EditionDraft, vdp.ErrLength},
		{"no edition", ok, vdp.EditionAuto, vdp.ErrUnsupported},
	} {
		t.Run(c.ed.String()+"/"+c.name, func(t *testing.T) {
			msgs, err := vdp.UnmarshalMessages(c.ed, unhex(t, c.in))
			require.ErrorIs(t, err, c.want)
			require.ErrorAs(t, err, new(*vdp.FormatError))
			require.Empty(t, msgs)
		})
	}
}

func TestLLDPDURejected(t *testing.T) {
	const (
		ids = "0207 04 02bb00000001 0407 03 02bb00000001"
		min = ids + "0602 0078"
	)
	for _, c := range []struct {
		name, in string
		want     error
	}{
		{"empty", "", vdp.ErrTruncated},
		{"no TTL", ids, vdp.ErrTruncated},
		{"TTL first", "0602 0078" + ids, vdp.ErrOrder},
		{"TTL twice", min + "0602 0078", vdp.ErrOrder},
		{"short TTL", ids + "0601 78", vdp.ErrLength},
		{"empty chassis id", "0201 04 0407 03 02bb00000001 0602 0078", vdp.ErrLength},
		{"cut", min + "fe09 0080c20d", vdp.ErrTruncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p vdp.LLDPDU
			require.ErrorIs(t, p.UnmarshalBinary(unhex(t, c.in)), c.want)
			require.Equal(t, vdp.LLDPDU{}, p)
		})
	}
}

// What others put into an LLDPDU keeps nobody from reading the EVB TLV.
func TestLLDPDUWithForeignTLVs(t *testing.T) {
	const (
		min   = "0207 04 02bb00000001 0407 03 02bb00000001 0602 0078"
		evb   = "fe09 0080c20d 03 05 68 54 34"
		draft = "fe0d 001b3f00 40 07 40 07 0cdf 0000 0f"
	)
	var want vdp.LLDPDU
	require.NoError(t, want.UnmarshalBinary(unhex(t, min+evb+draft)))
	require.Equal(t, vdp.RoleBridge, want.EVB.Role)
	require.NotNil(t, want.Draft)
	for name, foreign := range map[string]string{
		"organisational TLV without subtype": "fe03 00120f",
		"organisational TLV without OUI":     "fe00",
		"another organisation's":             "fe05 00120f 01 00",
		"EVB too short":                      "fe08 0080c20d 03 05 68 74",
		"EVB of 802.1Qcy":                    "fe09 0080c20d 03 05 68 d4 34",
		"draft EVB too short":                "fe0c 001b3f00 40 07 40 07 0cdf 0000",
		"draft RTE 32":                       "fe0d 001b3f00 40 07 40 07 0cdf 0000 20",
		"reserved type":                      "1400",
	} {
		t.Run(name, func(t *testing.T) {
			var p vdp.LLDPDU
			require.NoError(t, p.UnmarshalBinary(unhex(t, min+foreign+evb+draft)))
			require.Equal(t, want, p)
		})
	}
	for name, more := range map[string]string{
		"EVB twice":          evb + draft + "fe09 0080c20d 00 00 00 40 00",
		"draft EVB twice":    evb + draft + "fe0d 001b3f00 00 00 00 00 0000 0000 00",
		"EVB longer":         "fe0a 0080c20d 03 05 68 54 34 ff" + draft,
		"draft EVB longer":   evb + "fe0f 001b3f00 40 07 40 07 0cdf 0000 0f ffff",
		"foreign TLVs after": evb + draft + "fe03 00120f 1400",
	} {
		t.Run(name, func(t *testing.T) {
			var p vdp.LLDPDU
			require.NoError(t, p.UnmarshalBinary(unhex(t, min+more)))
			require.Equal(t, want, p)
		})
	}
}

// So do TLVs in an ECPDU.
func TestMessagesWithForeignTLVs(t *testing.T) {
	for ed, in := range map[vdp.Edition][2]string{
		vdp.Edition2012:  {"0a10 01000000000000000000000000000000", "0621 00 000005 02 05 fa9b7fffb0a04893abcdbeef4ff18f8f 02 0001 525400112233 0064"},
		vdp.EditionDraft: {"", "fe26 001b3f 02 02 00 0c 123456 01 fa9b7fffb0a04893abcdbeef4ff18f8f 02 0001 525400112233 0064"},
	} {
		want, err := vdp.UnmarshalMessages(ed, unhex(t, in[0]+in[1]))
		require.NoError(t, err)
		require.Len(t, want, 1)
		for _, foreign := range []string{"fe03 00000c", "fe04 00000c 01", "fe00", "0c00", "8002 ffff"} {
			got, err := vdp.UnmarshalMessages(ed, unhex(t, in[0]+foreign+in[1]+foreign))
			require.NoError(t, err, "%v %s", ed, foreign)
			require.Equal(t, want, got)
		}
	}
}

func TestECPDURejected(t *testing.T) {
	for _, c := range []struct {
		name, in string
		ed       vdp.Edition
		want     error
	}{
		{"short", "100100", vdp.Edition2012, vdp.ErrTruncated},
		{"version 2", "20010001", vdp.Edition2012, vdp.ErrUnsupported},
		{"operation 2", "18010001", vdp.Edition2012, vdp.ErrUnsupported},
		{"short", "001b3f0000000000", vdp.EditionDraft, vdp.ErrTruncated},
		{"other OUI", "0080c2000000000001", vdp.EditionDraft, vdp.ErrUnsupported},
		{"other subtype", "001b3f000001000001", vdp.EditionDraft, vdp.ErrUnsupported},
		{"mode 2", "001b3f000000020001", vdp.EditionDraft, vdp.ErrUnsupported},
	} {
		t.Run(c.ed.String()+"/"+c.name, func(t *testing.T) {
			_, err := vdp.UnmarshalECPDU(c.ed, unhex(t, c.in))
			require.ErrorIs(t, err, c.want)
		})
	}
}

func TestLimits(t *testing.T) {
	full := func(f vdp.FilterFormat, n int) vdp.VSI {
		v := vdp.VSI{ID: uuid(t, uuidText), FilterFormat: f, Filters: make([]vdp.Filter, n)}
		return v
	}
	for f, n := range map[vdp.FilterFormat]int{
		vdp.FilterVID: 243, vdp.FilterMACVID: 60, vdp.FilterGroupVID: 81, vdp.FilterGroupMACVID: 40, 0: 0, 5: 0,
	} {
		require.Equal(t, n, vdp.MaxFilters(vdp.Edition2012, f), "format %d", f)
		if n == 0 {
			continue
		}
		v := full(f, n)
		b, err := vdp.MarshalMessages(vdp.Edition2012, []vdp.Message{{Mode: vdp.Associate, VSI: v}})
		require.NoError(t, err)
		msgs, err := vdp.UnmarshalMessages(vdp.Edition2012, b)
		require.NoError(t, err)
		require.Equal(t, v, msgs[0].VSI)
		v = full(f, n+1)
		require.ErrorIs(t, v.Validate(vdp.Edition2012), vdp.ErrLength)
	}
	require.Equal(t, 60, vdp.MaxFilters(vdp.EditionDraft, vdp.FilterMACVID))
	require.Equal(t, 0, vdp.MaxFilters(vdp.EditionDraft, vdp.FilterVID))

	ok := full(vdp.FilterMACVID, 1)
	for name, f := range map[string]func(*vdp.VSI){
		"type id":      func(v *vdp.VSI) { v.TypeID = 1 << 24 },
		"id format":    func(v *vdp.VSI) { v.ID.Format = 0 },
		"VID":          func(v *vdp.VSI) { v.Filters[0].VID = 4095 },
		"PCP":          func(v *vdp.VSI) { v.Filters[0].PCP = 8 },
		"group unused": func(v *vdp.VSI) { v.Filters[0].Group = 1 },
	} {
		v := ok
		v.Filters = []vdp.Filter{{VID: 1}}
		require.NoError(t, v.Validate(vdp.Edition2012), name)
		f(&v)
		require.ErrorIs(t, v.Validate(vdp.Edition2012), vdp.ErrRange, name)
	}
	v := ok
	v.Manager[15] = 1
	require.NoError(t, v.Validate(vdp.Edition2012))
	require.ErrorIs(t, v.Validate(vdp.EditionDraft), vdp.ErrRange)

	w := ok
	w.Manager[0] = 9
	_, err := vdp.MarshalMessages(vdp.Edition2012, []vdp.Message{{Mode: vdp.Associate, VSI: ok}, {Mode: vdp.Associate, VSI: w}})
	require.ErrorIs(t, err, vdp.ErrOrder)
	big := vdp.Frame{Payload: make([]byte, 1501)}
	_, err = big.MarshalBinary()
	require.ErrorIs(t, err, vdp.ErrLength)
}

func TestParse(t *testing.T) {
	id := uuid(t, uuidText)
	require.Equal(t, id, uuid(t, strings.ReplaceAll(uuidText, "-", "")))
	for _, s := range []string{"", "x", uuidText[1:], uuidText + "0", "fa9b7fff-b0a0-4893-abcd-beef4ff18f8g", "fa9b7ff-fb0a0-4893-abcd-beef4ff18f8f"} {
		_, err := vdp.ParseUUID(s)
		require.ErrorIs(t, err, vdp.ErrRange, s)
	}
	for m := vdp.PreAssociate; m <= vdp.DeAssociate; m++ {
		got, err := vdp.ParseMode(m.String())
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
	for e := vdp.EditionAuto; e <= vdp.Edition2012; e++ {
		got, err := vdp.ParseEdition(e.String())
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
	_, err := vdp.ParseMode("none")
	require.Error(t, err)
	_, err = vdp.ParseEdition("2013")
	require.Error(t, err)
}

func FuzzMessages(f *testing.F) {
	for _, s := range []string{lldpadAssoc2012, lldpadAnswer2012} {
		f.Add(true, unhex(f, s)[18:])
	}
	f.Add(false, unhex(f, lldpadAssocDraft)[23:])
	f.Fuzz(func(t *testing.T, std bool, b []byte) {
		ed := vdp.EditionDraft
		if std {
			ed = vdp.Edition2012
		}
		msgs, err := vdp.UnmarshalMessages(ed, b)
		if err != nil {
			if !errors.As(err, new(*vdp.FormatError)) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		out, err := vdp.MarshalMessages(ed, msgs)
		if err != nil {
			t.Fatal(err)
		}
		again, err := vdp.UnmarshalMessages(ed, out)
		require.NoError(t, err)
		require.Equal(t, msgs, again)
	})
}

func FuzzLLDPDU(f *testing.F) {
	f.Add(unhex(f, lldpadBridge2012)[14:])
	f.Add(unhex(f, lldpadStationDraft)[14:])
	f.Fuzz(func(t *testing.T, b []byte) {
		var p, again vdp.LLDPDU
		if err := p.UnmarshalBinary(b); err != nil {
			if !errors.As(err, new(*vdp.FormatError)) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		out, err := p.MarshalBinary()
		require.NoError(t, err)
		require.NoError(t, again.UnmarshalBinary(out))
		require.Equal(t, p, again)
	})
}

func FuzzECPDU(f *testing.F) {
	f.Add(true, unhex(f, lldpadAssoc2012)[14:])
	f.Add(true, unhex(f, lldpadAck2012)[14:])
	f.Add(false, unhex(f, lldpadAssocDraft)[14:])
	f.Fuzz(func(t *testing.T, std bool, b []byte) {
		ed := vdp.EditionDraft
		if std {
			ed = vdp.Edition2012
		}
		p, err := vdp.UnmarshalECPDU(ed, b)
		if err != nil {
			if !errors.As(err, new(*vdp.FormatError)) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		out, err := p.MarshalBinary()
		require.NoError(t, err)
		again, err := vdp.UnmarshalECPDU(ed, out)
		require.NoError(t, err)
		require.Equal(t, p.Payload, again.Payload)
		require.Equal(t, p.Sequence, again.Sequence)
	})
}
