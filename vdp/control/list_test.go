package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
)

func listOf(n int) (l []VSIStatus) {
	for i := range n {
		v := vdp.VSI{
			ID: vdp.UUID([16]byte{0xfa, 14: byte(i >> 8), 15: byte(i)}), Manager: vdp.ManagerID{12}, TypeID: 0x123456, TypeVersion: 1,
			FilterFormat: vdp.FilterMACVID, Filters: []vdp.Filter{{MAC: vdp.MAC{0x52, 0x54, 0, 0, byte(i >> 8), byte(i)}, VID: 100}},
		}
		l = append(l, VSIStatus{Uplink: fmt.Sprint("eth", i/1000), VSI: FromVDP(&v), Mode: "associate", Have: "associate", State: "established", Owner: OwnerLibvirt})
	}
	return l
}

// What vdpd writes is what package json writes, and is read without it.
func TestListLine(t *testing.T) {
	group, pcp := uint32(1<<32-1), uint8(7)
	l := listOf(3)
	l[0].VSI.Filters = []Filter{{Group: &group, MAC: "52:54:00:00:00:01", VID: 4094, PCP: &pcp}, {Group: &group, MAC: "52:54:00:00:00:02"}}
	l[0].VSI.Manager = Manager{1, 15: 2}
	l[1].VSI.Filters, l[1].Have = []Filter{{VID: 0}}, ""
	l[2].Error, l[2].State = NewError(vdp.ErrNoLink), "lost"
	for _, more := range []bool{false, true} {
		want := Reply{VSIs: l, More: more}
		b, err := json.Marshal(want)
		require.NoError(t, err)
		line, err := AppendList([]byte("x"), l, more)
		require.NoError(t, err)
		require.Equal(t, "x"+string(b), string(line))
		got, ok := parseList(b)
		require.True(t, ok, "%s", b)
		require.Equal(t, want, got)
		for i := range b {
			_, ok := parseList(b[:i])
			require.False(t, ok)
		}
	}
	for _, other := range []Reply{
		{}, {More: true}, {Error: NewError(ErrTimeout)}, {Uplinks: []Uplink{{Name: "eth0"}}},
		{VSIs: []VSIStatus{{Uplink: "é"}}}, {VSIs: []VSIStatus{{Uplink: `"`, VSI: l[0].VSI}}},
		{VSIs: []VSIStatus{{Uplink: "e", VSI: l[0].VSI, Error: NewError(&vdp.RefusedError{Edition: vdp.Edition2012, Status: 0x42})}}},
	} {
		b, err := json.Marshal(other)
		require.NoError(t, err)
		_, ok := parseList(b)
		require.False(t, ok, "%s", b)
		if other.Error == nil && other.Uplinks == nil {
			line, err := AppendList(nil, other.VSIs, other.More)
			require.NoError(t, err)
			require.Equal(t, string(b), string(line))
		}
	}
}

// A field that is new has to be in the line, too.
func TestListLineHasAllFields(t *testing.T) {
	var l VSIStatus
	fill(t, reflect.ValueOf(&l).Elem())
	l.Error.Edition, l.Error.Status = "", 0 // those are for package json
	want, err := json.Marshal(Reply{VSIs: []VSIStatus{l}})
	require.NoError(t, err)
	b, ok := l.appendTo([]byte(`{"vsis":[`))
	require.True(t, ok)
	require.Equal(t, string(want), string(b)+"]}")
	got, ok := parseList(want)
	require.True(t, ok)
	require.Equal(t, []VSIStatus{l}, got.VSIs)
}

// fill gives every field a value that is not zero.
func fill(t *testing.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0))
		fill(t, v.Index(1))
	case reflect.Array:
		fill(t, v.Index(v.Len()-1))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		v.SetUint(7)
	default:
		t.Fatal("fill", v.Type())
	}
}

func FuzzParseList(f *testing.F) {
	b, err := json.Marshal(Reply{VSIs: listOf(2), More: true})
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(`{"vsis":[{"uplink":"e","vsi":{"id":"1","manager":"0102030405060708090a0b0c0d0e0f10","type":1,"version":2,"filters":[{"group":1,"vid":3,"pcp":4}]},"mode":"m","state":"s","error":{"code":"c","message":"m"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := parseList(b)
		if !ok {
			return
		}
		var want Reply
		require.NoError(t, json.Unmarshal(b, &want), "%s", b)
		require.Equal(t, want, got)
		whole, err := json.Marshal(got)
		require.NoError(t, err)
		line, err := AppendList(nil, got.VSIs, got.More)
		require.NoError(t, err)
		require.Equal(t, string(whole), string(line))
	})
}

// A list of several lines is one to the client.
func TestListInLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	all := listOf(2500)
	served := make(chan error, 1)
	answer := func(replies ...Reply) {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			_, err = bufio.NewReader(c).ReadString('\n')
		}
		for _, r := range replies {
			if err == nil {
				err = json.NewEncoder(c).Encode(r)
			}
		}
		served <- err
	}
	go answer(Reply{VSIs: all[:1000], More: true}, Reply{VSIs: all[1000:2000], More: true}, Reply{VSIs: all[2000:]})
	got, err := NewClient(path).List(t.Context(), "")
	require.NoError(t, err)
	require.NoError(t, <-served)
	require.Equal(t, all, got)

	go answer(Reply{VSIs: all[:1000], More: true}, Reply{Error: NewError(ErrTimeout)})
	_, err = NewClient(path).List(t.Context(), "")
	require.ErrorIs(t, err, ErrTimeout)
	require.NoError(t, <-served)
	go answer(Reply{VSIs: all[:1000], More: true})
	_, err = NewClient(path).List(t.Context(), "")
	require.ErrorIs(t, err, ErrNoDaemon)
	require.NoError(t, <-served)
}

func BenchmarkListLine(b *testing.B) {
	l := listOf(1000)
	var line []byte
	b.Run("write", func(b *testing.B) {
		var err error
		for b.Loop() {
			if line, err = AppendList(line[:0], l, false); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/VSI")
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, ok := parseList(line); !ok {
				b.Fatal()
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/VSI")
	})
}
