package ovs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A server that answers each request with what it is told.
func server(t *testing.T, answer func(id string) string) *DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for requests := bufio.NewScanner(conn); requests.Scan(); {
					var m struct{ ID, Method string }
					if json.Unmarshal(requests.Bytes(), &m) != nil || m.Method != "transact" {
						continue
					}
					text := answer(m.ID)
					if text == "" {
						return
					}
					if _, err := conn.Write([]byte(text)); err != nil {
						return
					}
				}
			}()
		}
	}()
	db := Open(path)
	t.Cleanup(db.Close)
	return db
}

func list(t *testing.T, answer func(id string) string) ([]Owned, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return server(t, answer).List(ctx)
}

const onePort = `[{"rows":[{"name":"p","external_ids":["map",[["libvirt-direct","me"]]]}]}]`

func TestAnswersThatServersGive(t *testing.T) {
	for name, before := range map[string]string{
		"plain":                    ``,
		"an echo first":            `{"id":"echo","method":"echo","params":[]}`,
		"a notification first":     `{"id":null,"method":"update","params":[null,{}]}`,
		"another's reply first":    `{"id":7,"result":[],"error":null}`,
		"a reply to nobody before": `{"id":null,"result":[],"error":null}`,
	} {
		owned, err := list(t, func(id string) string {
			return before + `{"id":"` + id + `","result":` + onePort + `,"error":null}`
		})
		require.NoError(t, err, name)
		require.Equal(t, []Owned{{"p", "me"}}, owned, name)
	}
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	for _, result := range []string{
		`null`, `[]`, `[null]`, `{}`, `[{}, {}]`, `"x"`, `[{"rows":[{}]}]`, `[{"rows":[{"name":5,"external_ids":["map",[]]}]}]`,
		`[{"rows":[{"name":"p","external_ids":["set",[]]}]}]`, `[{"rows":[{"name":["set",3],"external_ids":["map",[]]}]}]`,
	} {
		_, err := list(t, func(id string) string { return `{"id":"` + id + `","result":` + result + `,"error":null}` })
		require.ErrorIs(t, err, ErrReply, result)
	}
	_, err := list(t, func(id string) string { return `{"id":"` + id + `","result":null,"error":"unknown database"}` })
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, "unknown database")
	_, err = list(t, func(id string) string {
		return `{"id":"` + id + `","result":[{"error":"constraint violation","details":"so"}],"error":null}`
	})
	var refused *OpError
	require.ErrorAs(t, err, &refused)
	require.ErrorIs(t, err, ErrRefused)
	require.Equal(t, "so", refused.Details)
}

// Whoever has not waited for an answer does not get it with the next question.
func TestLateAnswerIsForNobody(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	late := make(chan struct{})
	var n atomic.Int32
	db := server(t, func(id string) string {
		if n.Add(1) > 1 {
			return `{"id":"` + id + `","result":` + onePort + `,"error":null}`
		}
		cancel()
		<-late
		return `{"id":"` + id + `","result":[{"error":"timed out","details":"late"}],"error":null}`
	})
	require.ErrorIs(t, db.Installed(ctx, "p"), ErrNotInstalled)
	close(late)
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	owned, err := db.List(ctx)
	require.NoError(t, err)
	require.Equal(t, []Owned{{"p", "me"}}, owned)
}

// A server that goes away while it is asked, or speaks no JSON, is tried again; then it
// is said that it cannot be reached.
func TestServerThatGoesAway(t *testing.T) {
	for _, text := range []string{``, `no JSON`, `[1,2]`} {
		begin := time.Now()
		var n atomic.Int32
		owned, err := list(t, func(id string) string {
			if n.Add(1) < 3 {
				return text
			}
			return `{"id":"` + id + `","result":` + onePort + `,"error":null}`
		})
		require.NoError(t, err, text)
		require.Len(t, owned, 1)
		require.Less(t, time.Since(begin), 30*time.Second)
	}
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{
		onePort, `[{"rows":[{"_uuid":["uuid","9"],"ofport":5,"error":["set",[]]}]},{"count":1},{"uuid":["uuid","1"]}]`,
		`[{},null,{"error":"x","details":"y"}]`, `[{"rows":[{"ports":["set",[["uuid","1"],["uuid","2"]]]}]}]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		results, err := readResults(raw, 1)
		if err != nil {
			if !errors.Is(err, ErrReply) && !errors.Is(err, ErrRefused) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		for _, r := range results[0].Rows {
			for column := range r {
				for _, read := range []func(string) error{
					func(c string) error { _, err := r.text(c); return err },
					func(c string) error { _, err := r.uuids(c); return err },
					func(c string) error { _, err := r.strings(c); return err },
					func(c string) error { _, _, err := r.number(c); return err },
				} {
					if err := read(column); err != nil && !errors.Is(err, ErrReply) {
						t.Fatalf("untyped error %v", err)
					}
				}
			}
		}
	})
}

// sink is a connection whose peer has said all that it ever will.
type sink struct{ net.Conn }

func (sink) Write(b []byte) (int, error) { return len(b), nil }

// Whatever a server sends, what reaches go-openvswitch's client are whole replies with a
// result, and then the end.
func FuzzWire(f *testing.F) {
	for _, s := range []string{
		`{"id":"1","result":[],"error":null}{"id":null,"method":"update","params":[]}`, `{"id":"echo","method":"echo","params":[1]}`,
		`{"id":"1","result":null}`, `{"id":7}`, `[]`, `{"id":"1","res`, `"x"`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx, lost := context.WithCancelCause(t.Context())
		w := &wire{Conn: sink{}, dec: json.NewDecoder(bytes.NewReader(b)), replies: make(chan message, 1), lost: lost}
		var m struct {
			ID     *string
			Result json.RawMessage
		}
		for dec := json.NewDecoder(w); ; {
			err := dec.Decode(&m)
			if err != nil {
				require.ErrorIs(t, err, io.EOF)
				require.Error(t, ctx.Err())
				return
			}
			require.True(t, m.ID != nil && *m.ID != "")
			require.Equal(t, "[]", string(m.Result))
			<-w.replies
		}
	})
}
