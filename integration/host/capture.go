package host

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxFrame is tcpdump's largest snapshot length.
const maxFrame = 1 << 18

// A Capture records the frames that pass a NIC, in both directions, with the
// VLAN tags that they have on the wire.
type Capture struct {
	name   string
	frames *stream[[]byte]
	proc   *process
}

// Close ends the recording; Frames remain.
func (c *Capture) Close() error { return c.proc.Close() }

// Capture starts recording at a NIC; every frame after its return is recorded.
// It ends by its Close or with the Peer; the context bounds the start only.
func (p *Peer) Capture(ctx context.Context, nic string) (*Capture, error) {
	// tcpdump, for it puts back the VLAN tags that the kernel has taken out.
	cmd := p.Command(context.WithoutCancel(ctx), "tcpdump", "-i", nic, "-Z", "root", "-n", "--immediate-mode", "-U", "-w", "-")
	cmd.Stderr = p.log
	c := &Capture{name: p.opts.Name + " " + nic, frames: newStream[[]byte]()}
	opened := make(chan error, 1)
	var err error
	c.proc, err = startProcess(cmd, func(r io.Reader) {
		br := bufio.NewReader(r)
		err := readPcapHeader(br)
		opened <- err
		for err == nil {
			var frame []byte
			if frame, err = readPcapFrame(br); err == nil {
				c.frames.add(frame)
			}
		}
		c.frames.end(err)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: start tcpdump: %w", c.name, err)
	}
	select {
	case err = <-opened:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: tcpdump did not begin to capture: %w", c.name, err)
	}
	return c, nil
}

// Wait returns the first frame since the start of the recording that match
// accepts: from its destination address on, without frame check sequence.
func (c *Capture) Wait(ctx context.Context, match func(frame []byte) bool) ([]byte, error) {
	frame, err := c.frames.wait(ctx, match)
	if err != nil {
		return nil, fmt.Errorf("%s: wait for a frame: %w", c.name, err)
	}
	return frame, nil
}

// Frames are all frames so far. They must not be changed.
func (c *Capture) Frames() [][]byte { return c.frames.all() }

// readPcapHeader reads the 24 octets that a pcap savefile begins with
// (pcap-savefile(5)), in this machine's byte order. tcpdump writes them when
// its socket is open.
func readPcapHeader(r io.Reader) error {
	var h [24]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return err
	}
	if magic := binary.NativeEndian.Uint32(h[:]); magic != 0xa1b2c3d4 {
		return fmt.Errorf("not a pcap savefile: magic number %#x", magic)
	}
	return nil
}

// readPcapFrame reads one record: seconds, microseconds, stored and original
// length, and the stored octets.
func readPcapFrame(r io.Reader) ([]byte, error) {
	var h [16]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.NativeEndian.Uint32(h[8:])
	if n > maxFrame {
		return nil, fmt.Errorf("pcap record of %d octets, more than %d", n, maxFrame)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return frame, nil
}
