package ovsdb

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/policy"
)

// What is put together by hand is JSON, and says what it should.
func TestInsertion(t *testing.T) {
	p := Port{Bridge: "br-int.1_x", Name: "tap4f00aa11", UID: 1000, MAC: &ether.MAC{0x52, 0x54, 0, 1, 2, 3}, VLAN: 7, Ingress: 1000,
		Trunks: policy.VLANSet{Ranges: []policy.VLANRange{{First: 7, Last: 9}, {First: 20, Last: 20}}}}
	var ops []map[string]any
	require.NoError(t, json.Unmarshal([]byte("["+strings.Join(insertion(p), ",")+"]"), &ops))
	row := ops[1]["row"].(map[string]any)
	require.Equal(t, "tap4f00aa11", row["name"])
	require.EqualValues(t, 1000, row["ingress_policing_rate"])
	require.Equal(t, []any{"map", []any{[]any{"attached-mac", "52:54:00:01:02:03"}, []any{"iface-status", "active"}}}, row["external_ids"])
	row = ops[2]["row"].(map[string]any)
	require.EqualValues(t, 7, row["tag"])
	require.Equal(t, "native-untagged", row["vlan_mode"])
	require.Equal(t, []any{"set", []any{7.0, 8.0, 9.0, 20.0}}, row["trunks"])
	require.Equal(t, []any{"map", []any{[]any{"libvirt-direct", "helper"}, []any{"libvirt-direct-uid", "1000"}}}, row["external_ids"])

	require.NoError(t, json.Unmarshal([]byte("["+strings.Join(insertion(Port{Bridge: "b", Name: "t"}), ",")+"]"), &ops))
	row = ops[2]["row"].(map[string]any)
	require.NotContains(t, row, "tag")
	require.NotContains(t, row, "trunks")
}

const id = "01234567-89ab-cdef-0123-456789abcdef"

func TestReplies(t *testing.T) {
	good := `{"id":1,"error":null,"result":[{"rows":[{"_uuid":["uuid","` + id + `"],"name":"tap1"}]}]}`
	require.Equal(t, len(good), complete([]byte(good+good)))
	require.Zero(t, complete([]byte(good[:len(good)-1])))
	v, err := parse([]byte(good))
	require.NoError(t, err)
	res, err := results(v, 1)
	require.NoError(t, err)
	rows, err := readRows(res[0])
	require.NoError(t, err)
	require.Equal(t, []Row{{id, "tap1"}}, rows)

	for _, bad := range []string{
		`{}`, `{"id":2,"result":[{}]}`, `{"id":1,"result":null}`, `{"id":1,"result":[]}`, `{"id":1,"result":[{},{}]}`, `{"id":1,"result":[null]}`,
		`{"id":1,"result":[{"rows":[{}]}]}`, `{"id":1,"result":[{"rows":[{"_uuid":["uuid","` + id[1:] + `"],"name":"x"}]}]}`,
		`{"id":1,"result":[{"rows":[{"_uuid":["uuid","` + id + `0"],"name":"x"}]}]}`, `{"id":1,"result":[{"rows":[{"_uuid":["uuid","` + id[:35] + `"],"name":"x"}]}]}`,
		`{"id":1,"result":[{"rows":[{"_uuid":["uuid","` + strings.ToUpper(id) + `"],"name":"x"}]}]}`,
		`{"id":1,"result":[{"rows":[{"_uuid":["uuid","0123456\"-89ab-cdef-0123-456789abcdef"],"name":"x"}]}]}`,
		`{"id":1,"result":[{"rows":[{"_uuid":["uuid","` + id + `"],"name":5}]}]}`,
	} {
		v, err := parse([]byte(bad))
		require.NoError(t, err, bad)
		if res, err = results(v, 1); err == nil {
			_, err = readRows(res[0])
		}
		require.ErrorIs(t, err, errReply, bad)
	}
	v, err = parse([]byte(`{"id":1,"result":[{},{"error":"constraint violation","details":"a \"b\"\n\u0007"}]}`))
	require.NoError(t, err)
	_, err = results(v, 3)
	require.ErrorContains(t, err, `constraint violation: a \"b\"\n\u0007`)
	require.False(t, timedOut(err))
}

// What the parser takes is JSON, and it takes whatever ovsdb-server writes: encoding/json agrees.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"id":1,"error":null,"result":[{"rows":[{"_uuid":["uuid","` + id + `"],"name":"tap1"}]}]}`,
		`[1,-2.5e+3,true,false,null,"a\"b",{},[]]`, strings.Repeat("[", 20), `{"a":}`, `"\`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parse(b)
		_ = complete(b)
		if err != nil {
			return
		}
		if res, err := results(v, 1); err == nil {
			_, _ = readRows(res[0])
		}
		if json.Valid(b) && v.kind == '[' {
			var list []json.RawMessage
			require.NoError(t, json.Unmarshal(b, &list))
			require.Len(t, v.list, len(list))
		}
	})
}
