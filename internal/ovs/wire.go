package ovs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/digitalocean/go-openvswitch/ovsdb"
)

// maxReplies bounds what a server may send over one connection.
const maxReplies = 256 << 20

// wire is the connection that an ovsdb.Client is given. The client hands out the rows
// that a reply selects and nothing else of it: not that an operation was refused, nor
// why. Beyond that it spins on a connection that breaks inside a message, waits for
// ever on one that ends, and panics over a notification or a reply without result. So
// wire reads whole messages first: replies are kept for us, and the client learns only
// that there was one.
type wire struct {
	net.Conn
	dec     *json.Decoder
	rest    []byte // of the message that the client is reading
	replies chan message
	lost    context.CancelCauseFunc
}

// message is any JSON-RPC 1.0 message of RFC 7047, section 4.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

func (w *wire) Read(p []byte) (int, error) {
	for len(w.rest) == 0 {
		raw, err := w.next()
		if err != nil {
			w.lost(err)
			return 0, io.EOF // the one error that ends the client's loop
		}
		w.rest = raw
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// next returns what the client shall read; nil for what is not a reply.
func (w *wire) next() ([]byte, error) {
	var raw json.RawMessage
	if err := w.dec.Decode(&raw); err != nil {
		return nil, err
	}
	var m message
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReply, err)
	}
	var id string
	switch {
	case m.Method == "echo":
		return nil, w.echo(m)
	case m.Method != "" || json.Unmarshal(m.ID, &id) != nil || id == "":
		return nil, nil
	}
	select {
	case w.replies <- m:
	default: // nobody asked
		return nil, nil
	}
	return json.Marshal(map[string]any{"id": id, "result": []any{}, "error": nil})
}

// echo answers the server's question whether we live (RFC 7047, section 4.1.11).
func (w *wire) echo(m message) error {
	answer, err := json.Marshal(map[string]any{"id": m.ID, "result": m.Params, "error": nil})
	if err == nil {
		_, err = w.Write(answer)
	}
	return err
}

// session is one connection to the server.
type session struct {
	client *ovsdb.Client
	wire   *wire
	ctx    context.Context // ends with the connection
	// spent: an answer may still come, which the next question would take for its own.
	spent bool
}

func dial(ctx context.Context, socket string) (*session, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, unreachable(err)
	}
	own, lost := context.WithCancelCause(context.Background())
	w := &wire{
		Conn: conn, dec: json.NewDecoder(io.LimitReader(conn, maxReplies)),
		replies: make(chan message, 1), lost: lost,
	}
	client, err := ovsdb.New(w)
	if err != nil {
		return nil, errors.Join(unreachable(err), conn.Close())
	}
	return &session{client: client, wire: w, ctx: own}, nil
}

func (s *session) close() {
	_ = s.client.Close() // nothing is left to be lost
	s.wire.lost(net.ErrClosed)
}

// transact runs operations as one transaction and returns a result for each. A refused
// operation is an *OpError; the transaction has then changed nothing.
func (s *session) transact(ctx context.Context, ops ...op) ([]result, error) {
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	if end, ok := ctx.Deadline(); ok {
		if err := s.wire.SetDeadline(end.Add(time.Second)); err != nil {
			return nil, unreachable(err)
		}
	}
	list := make([]ovsdb.TransactOp, len(ops))
	for i := range ops {
		list[i] = ops[i]
	}
	_, err := s.client.Transact(call, database, list)
	select {
	case m := <-s.wire.replies:
		if len(m.Error) > 0 && string(m.Error) != "null" {
			return nil, &OpError{Err: string(m.Error)}
		}
		return readResults(m.Result, len(ops))
	default:
	}
	switch {
	case ctx.Err() != nil:
		s.spent = true
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
	case s.ctx.Err() != nil:
		return nil, unreachable(context.Cause(s.ctx))
	case err == nil:
		err = ErrReply
	}
	return nil, unreachable(err)
}

func unreachable(err error) error { return fmt.Errorf("%w: %w", ErrUnreachable, err) }
