package lldpad

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// controlAddr is lldpad's abstract socket (include/clif_sock.h). It belongs
	// to a network namespace. Where systemd listens, the first datagram starts
	// lldpad.
	controlAddr = "@/com/intel/lldpad"

	// replyTimeout bounds the wait for one reply: lldpad may be asleep for a
	// second several times over (vdp.c:vdp_trigger; trap 9).
	replyTimeout = 5 * time.Second
)

// A conn is the control socket. One goroutine reads it all the time: lldpad
// writes to it without a time limit, so that a client which is attached for
// events and does not read would stop lldpad (trap 9).
type conn struct {
	sock *net.UnixConn
	peer *net.UnixAddr
	uid  uint32 // of the only peer that is believed

	replies  chan []byte
	impostor chan struct{} // has a value after a message of somebody else's
	done     chan struct{} // closed when reading has ended

	request chan struct{} // held, by its one value, during a request: replies have no id
	stale   bool          // a reply may still come that nobody waits for

	attaching sync.Mutex
	attached  uint32 // port id of the lldpad that sends its events here
	events    fanout[report]
}

func openConn(addr string, uid uint32) (*conn, error) {
	// lldpad answers to the name that the client has bound, whatever it is.
	var name [8]byte
	if _, err := rand.Read(name[:]); err != nil {
		return nil, err
	}
	own := controlAddr + "/" + strconv.Itoa(os.Getpid()) + "-" + hex.EncodeToString(name[:])
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: own, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	raw, err := sock.SyscallConn()
	if err == nil {
		e := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
		})
		err = errors.Join(err, e)
	}
	if err != nil {
		sock.Close()
		return nil, err
	}
	c := &conn{
		sock: sock, peer: &net.UnixAddr{Name: addr, Net: "unixgram"}, uid: uid,
		replies: make(chan []byte, 16), impostor: make(chan struct{}, 1), done: make(chan struct{}),
		request: make(chan struct{}, 1),
	}
	c.request <- struct{}{}
	go c.read()
	return c, nil
}

func (c *conn) close() error {
	if c.attached != 0 {
		// Or lldpad finds out with the tenth event that it cannot deliver.
		_, _ = c.sock.WriteToUnix([]byte("D"), c.peer)
	}
	err := c.sock.Close()
	<-c.done
	return err
}

func (c *conn) read() {
	defer close(c.done)
	buf, oob := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, oobn, _, from, err := c.sock.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		if n == 0 || from == nil || from.Name != c.peer.Name {
			continue
		}
		if !trusted(oob[:oobn], c.uid) {
			select {
			case c.impostor <- struct{}{}:
			default:
			}
			continue
		}
		if b := buf[:n]; b[0] == 'R' {
			select {
			case c.replies <- bytes.Clone(b):
			default: // nobody has waited for the last sixteen
			}
		} else if r, ok, err := parseEvent(b); ok && err == nil {
			c.events.put(r)
		}
	}
}

func trusted(oob []byte, uid uint32) bool {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range msgs {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			return cred.Uid == uid
		}
	}
	return false
}

// ask sends a request and returns the first reply that accept takes.
func (c *conn) ask(ctx context.Context, msg string, accept func(reply []byte) bool) ([]byte, error) {
	select {
	case <-c.request:
		defer func() { c.request <- struct{}{} }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrNoReply, ctx.Err())
	}
	if c.stale {
		// Replies come in the order of the requests, so that nothing older
		// comes behind the answer to a ping.
		if _, err := c.exchange(ctx, "P", isPong); err != nil {
			return nil, err
		}
	}
	return c.exchange(ctx, msg, accept)
}

func (c *conn) exchange(ctx context.Context, msg string, accept func(reply []byte) bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	select {
	case <-c.impostor:
	default:
	}
	// The address each time, not once by connect: a restarted lldpad has a
	// new socket.
	if _, err := c.sock.WriteToUnix([]byte(msg), c.peer); err != nil {
		switch {
		case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
			return nil, nobody(pidFile)
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("%w: AppArmor or SELinux keeps its socket from this process", ErrPermission)
		case errors.Is(err, net.ErrClosed):
			return nil, ErrClosed
		}
		return nil, fmt.Errorf("lldpad's control socket: %w", err)
	}
	for {
		select {
		case b := <-c.replies:
			if accept(b) {
				c.stale = false
				return b, nil
			}
		case <-c.impostor:
			c.stale = true
			return nil, ErrImpostor
		case <-ctx.Done():
			c.stale = true
			return nil, fmt.Errorf("%w: %w", ErrNoReply, ctx.Err())
		case <-c.done:
			return nil, ErrClosed
		}
	}
}

const pong = "R00PPONG"

func isPong(b []byte) bool { return bytes.HasPrefix(b, []byte(pong)) }

// ping returns lldpad's rtnetlink port id, which is its process id as it sees
// it itself. The pid file may be another namespace's, or left over
// (trap 17).
func (c *conn) ping(ctx context.Context) (uint32, error) {
	b, err := c.ask(ctx, "P", func(b []byte) bool { return isPong(b) || bytes.Equal(b, []byte("R0a")) })
	if err != nil {
		return 0, err
	}
	if !isPong(b) {
		return 0, errNotRoot
	}
	return parsePong(b)
}

func parsePong(b []byte) (uint32, error) {
	s, ok := strings.CutPrefix(string(b), pong)
	n, err := strconv.ParseUint(strings.TrimRight(s, "\x00\n"), 10, 31)
	if !ok || err != nil || n == 0 {
		return 0, fmt.Errorf("%w: answer %.40q to a ping", ErrMalformed, b)
	}
	return uint32(n), nil
}

// do sends a command and returns the body of its reply, if there is one also
// with an error.
func (c *conn) do(ctx context.Context, cmd command) (string, error) {
	msg, err := cmd.marshal()
	if err != nil {
		return "", err
	}
	echo := cmd.echo()
	b, err := c.ask(ctx, string(msg), func(b []byte) bool {
		// "R04" and "R0a" alone are answers too.
		return len(b) == 3 || bytes.HasPrefix(b[min(3, len(b)):], []byte(echo))
	})
	if err != nil {
		return "", err
	}
	status, body, err := parseReply(b, echo)
	if err != nil {
		return "", err
	}
	return body, statusError(status)
}

// attach makes the lldpad with that port id send VDP events here.
func (c *conn) attach(ctx context.Context, pid uint32) error {
	// Once only: lldpad sends each event as often as a client is attached.
	c.attaching.Lock()
	defer c.attaching.Unlock()
	if c.attached == pid {
		return nil
	}
	// One module only: of a list lldpad takes the first
	// (ctrl_iface.c:clif_iface_attach).
	b, err := c.ask(ctx, fmt.Sprintf("A%x", moduleVDP22), func(b []byte) bool { return len(b) <= 4 })
	if err != nil {
		return err
	}
	if !bytes.Equal(b, []byte("R00A")) {
		return fmt.Errorf("%w: answer %.40q to an attach", ErrMalformed, b)
	}
	c.attached = pid
	return nil
}
