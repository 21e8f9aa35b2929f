package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
)

func TestVSIThere(t *testing.T) {
	mac := vdp.MAC{0x52, 0x54, 0, 1, 2, 3}
	for _, v := range []vdp.VSI{
		{FilterFormat: vdp.FilterVID, Filters: []vdp.Filter{{VID: 1}, {VID: 4094}}},
		{FilterFormat: vdp.FilterMACVID, Filters: []vdp.Filter{{MAC: mac, PCPValid: true}}, Manager: vdp.ManagerID{15: 1}},
		{FilterFormat: vdp.FilterGroupVID, Filters: []vdp.Filter{{VID: 1}, {Group: 9, VID: 2}}},
		{FilterFormat: vdp.FilterGroupMACVID, Filters: []vdp.Filter{{Group: 1 << 31, MAC: mac, VID: 2, PCPValid: true, PCP: 7}}},
	} {
		v.ID, v.TypeID, v.TypeVersion = vdp.UUID([16]byte{1, 15: 2}), 1<<24-1, 255
		b, err := json.Marshal(FromVDP(&v))
		require.NoError(t, err)
		var w VSI
		require.NoError(t, decode(b, &w), "%s", b)
		back, err := w.VDP()
		require.NoError(t, err)
		require.Equal(t, v, back, "%s", b)
	}
}

// An error is the same to errors.Is and errors.As on both sides of the socket.
func TestErrorsThere(t *testing.T) {
	require.Nil(t, NewError(nil))
	seen := make(map[string]bool)
	for _, c := range codes {
		e := across(t, &OpError{Op: "associate", Err: c.err})
		require.Equal(t, c.code, e.Code)
		require.Equal(t, "associate: "+c.err.Error(), e.Error())
		if !seen[c.code] {
			require.ErrorIs(t, e, c.err)
		}
		seen[c.code] = true
	}
	require.ErrorIs(t, across(t, ErrPermission), fs.ErrPermission)
	for _, want := range []*vdp.RefusedError{
		{Edition: vdp.EditionDraft, Status: vdp.ReasonDraftVTIDViolation},
		{Edition: vdp.Edition2012, Status: vdp.StatusHard | vdp.ReasonInvalidFilter},
	} {
		var got *vdp.RefusedError
		require.True(t, errors.As(across(t, want), &got))
		require.Equal(t, want, got)
	}
	require.NoError(t, errors.Unwrap(across(t, errors.New("disk full"))))
}

func across(t *testing.T, err error) *Error {
	b, jerr := json.Marshal(NewError(err))
	require.NoError(t, jerr)
	var e Error
	require.NoError(t, json.Unmarshal(b, &e))
	return &e
}

func TestOwners(t *testing.T) {
	const associate = `{"op":"associate","uplink":"eth0",%s"vsi":{"id":"fa000000-0000-0000-0000-000000000001","manager":12,"type":1,"version":1,"filters":[{"vid":100}]}}`
	for owner, want := range map[string]error{
		"": nil, `"owner":"hand",`: nil, `"owner":"hook",`: nil, `"owner":"libvirt",`: ErrBadRequest, `"owner":"x",`: ErrBadRequest,
	} {
		_, err := ParseRequest(fmt.Appendf(nil, associate, owner))
		require.ErrorIs(t, err, want, owner)
	}
	_, err := ParseRequest([]byte(`{"op":"status","owner":"hand"}`))
	require.ErrorIs(t, err, ErrBadRequest)
}

// A vdpd of an older release, which has not been restarted since the upgrade, is asked without
// an owner.
func TestOwnerUnknownToDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	lines := make(chan string, 2)
	go func() {
		for range 2 {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			lines <- line
			reply := Reply{VSI: &VSI{ID: "fa000000-0000-0000-0000-000000000001", Filters: []Filter{{VID: 1}}}}
			if strings.Contains(line, "owner") {
				reply = Reply{Error: NewError(fmt.Errorf("%w: json: unknown field \"owner\"", ErrBadRequest))}
			}
			_ = json.NewEncoder(c).Encode(reply)
			c.Close()
		}
	}()
	v := vdp.VSI{ID: vdp.UUID([16]byte{0xfa, 15: 1}), FilterFormat: vdp.FilterVID, Filters: []vdp.Filter{{VID: 1}}}
	_, err = NewClient(path).For(OwnerHook).Associate(t.Context(), "eth0", v)
	require.NoError(t, err)
	require.Contains(t, <-lines, `"owner":"hook"`)
	require.NotContains(t, <-lines, "owner")
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"op":"associate","uplink":"eth0","vsi":{"id":"fa000000-0000-0000-0000-000000000001","manager":12,"type":1,"version":1,"filters":[{"mac":"52:54:00:00:00:01","vid":100}]}}`))
	f.Add([]byte(`{"op":"preassociate","uplink":"e","vsi":{"id":"fa000000000000000000000000000001","manager":"0102030405060708090a0b0c0d0e0f10","type":1,"version":1,"filters":[{"group":1,"vid":0,"pcp":3}]}}`))
	f.Add([]byte(`{"op":"show","id":"fa000000-0000-0000-0000-000000000001"}`))
	f.Add([]byte(`{"op":"subscribe"}`))
	f.Add([]byte(`{"op":"associate","uplink":"eth0","owner":"hook","vsi":{"id":"fa000000-0000-0000-0000-000000000001","manager":12,"type":1,"version":1,"filters":[{"vid":100}]}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseRequest(line)
		if err != nil {
			if NewError(err).Code == codeOther {
				t.Fatalf("an error without a code: %v", err)
			}
			return
		}
		b, err := json.Marshal(r)
		require.NoError(t, err)
		again, err := ParseRequest(b)
		require.NoError(t, err, "%s", b)
		require.Equal(t, r, again)
	})
}
