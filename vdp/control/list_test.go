package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	fastjson "github.com/segmentio/encoding/json"
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
	l := Reply{VSIs: listOf(1000)}
	perVSI := func(b *testing.B) { b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/VSI") }
	line, err := json.Marshal(l)
	require.NoError(b, err)
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			_, err = json.Marshal(l)
		}
		perVSI(b)
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			var r Reply
			err = fastjson.Unmarshal(line, &r)
		}
		perVSI(b)
	})
	require.NoError(b, err)
}
