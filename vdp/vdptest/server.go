package vdptest

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Server runs a Bridge on a socket.
type Server struct {
	mu     sync.Mutex
	bridge *Bridge
	conn   net.PacketConn
	to     net.Addr
}

// NewServer returns a server for a bridge. The conn reads and writes whole
// Ethernet frames, as a packet socket of type raw bound to all EtherTypes;
// to is the address that it wants with each write. The conn stays the
// caller's.
func NewServer(b *Bridge, conn net.PacketConn, to net.Addr) *Server {
	return &Server{bridge: b, conn: conn, to: to}
}

// Do calls f with the bridge and sends the frames that it returns. While the
// link is down they are lost, as on any wire.
func (s *Server) Do(f func(b *Bridge) [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, frame := range f(s.bridge) {
		if _, err := s.conn.WriteTo(frame, s.to); err != nil && !errors.Is(err, syscall.ENETDOWN) {
			return err
		}
	}
	return nil
}

// Start runs the bridge in the background. stop ends that, closes the connection and
// returns what Serve did.
func (s *Server) Start() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	return func() error {
		cancel()
		err := <-done
		s.conn.Close()
		return err
	}
}

// Serve runs the bridge until ctx is done, which is not an error.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, 2048)
	for ctx.Err() == nil {
		if err := s.Do(func(b *Bridge) [][]byte { return b.Tick(time.Now()) }); err != nil {
			return err
		}
		// A change by Do may need attention sooner than the bridge knew.
		s.mu.Lock()
		next := s.bridge.Next()
		s.mu.Unlock()
		if limit := time.Now().Add(50 * time.Millisecond); next.After(limit) {
			next = limit
		}
		if err := s.conn.SetReadDeadline(next); err != nil {
			return err
		}
		n, _, err := s.conn.ReadFrom(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ENETDOWN):
			continue
		case err != nil:
			return err
		}
		if err := s.Do(func(b *Bridge) [][]byte { return b.Handle(time.Now(), buf[:n]) }); err != nil {
			return err
		}
	}
	return nil
}
