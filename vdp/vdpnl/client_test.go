package vdpnl_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/vdpnl"
)

// A GETLINK has no attribute: lldpad's parser has an array that is one too short
// (package lldpad, trap 10).
func TestGetLinkIsBare(t *testing.T) {
	b := (&vdpnl.Request{Ifindex: 3}).Marshal()
	require.Len(t, b, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
}

// What we ask can be read back as what was asked, with and without a MAC.
func TestMarshal(t *testing.T) {
	for mode := vdp.PreAssociate; mode <= vdp.DeAssociate; mode++ {
		want := wanted(t)
		want.Set.Mode = mode
		got, rest, err := vdpnl.Parse(want.Marshal())
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, want, got)

		want.Ifname = ""
		want.Set.VSI.FilterFormat, want.Set.VSI.Filters = vdp.FilterVID, []vdp.Filter{{VID: 7}}
		got, _, err = vdpnl.Parse(want.Marshal())
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	want := vdpnl.Request{Header: vdpnl.Header{Type: unix.RTM_GETLINK, Seq: 1, Pid: 2}, Ifindex: 3}
	got, _, err := vdpnl.Parse(want.Marshal())
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestParseReply(t *testing.T) {
	littleEndian(t)
	// As lldpad 1.1 sent them.
	r, err := vdpnl.ParseReply(unhex(t, `4c000000 0300 0000 07000000 63000000  00000000 02000000 00000000 00000000
		2c00 1880 2800 0180 1400 0400 fa9b7fffb0a04893abcdbeef4ff18f8f 0800 0100 ffffffff 0600 0700 0200 0000`))
	require.NoError(t, err)
	require.Equal(t, vdpnl.Reply{Seq: 7, Ports: []vdpnl.Port{{ID: uuid(t), Done: true, Response: 2}}}, r)

	h := vdpnl.Header{Type: unix.RTM_SETLINK, Seq: 7, Pid: 42}
	r, err = vdpnl.ParseReply(vdpnl.Ack(h, 99, unix.EPROTONOSUPPORT))
	require.NoError(t, err)
	require.Equal(t, vdpnl.Reply{Seq: 7, Errno: unix.EPROTONOSUPPORT}, r)

	ports := []vdpnl.Port{{ID: uuid(t)}, {ID: vdp.UUID([16]byte{1}), Done: true}}
	r, err = vdpnl.ParseReply(status(t, h, 3, ports...))
	require.NoError(t, err)
	require.Equal(t, ports, r.Ports)

	b := vdpnl.Ack(h, 99, 0)
	for i := range b[:20] {
		_, err := vdpnl.ParseReply(b[:i])
		require.ErrorIs(t, err, vdpnl.ErrMalformed)
	}
	binary.NativeEndian.PutUint32(b[16:], 1)
	_, err = vdpnl.ParseReply(b)
	require.ErrorIs(t, err, vdpnl.ErrMalformed, "a positive errno")
	_, err = vdpnl.ParseReply(vdpnl.Deassociated(h, 99, 3, "eth0", &wanted(t).Set.VSI))
	require.ErrorIs(t, err, vdpnl.ErrUnknownType)
}

func FuzzParseReply(f *testing.F) {
	h := vdpnl.Header{Type: unix.RTM_SETLINK, Seq: 7, Pid: 42}
	f.Add(vdpnl.Ack(h, 99, unix.EPROTONOSUPPORT))
	f.Add(status(f, h, 3, vdpnl.Port{ID: uuid(f), Done: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := vdpnl.ParseReply(b)
		if err != nil && !errors.Is(err, vdpnl.ErrMalformed) && !errors.Is(err, vdpnl.ErrUnknownType) {
			t.Fatalf("untyped error %v", err)
		}
		for _, p := range r.Ports {
			if p.ID.Format != vdp.IDUUID {
				t.Fatal(p)
			}
		}
	})
}
