package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"libvirt-direct/internal/poll"
)

// An Event is a line of the guest's report.
type Event struct {
	// Text is the line without "guest: " and the time: "ping 10.0.0.1 ok".
	Text string
	// Uptime is the time since the guest's kernel started.
	Uptime time.Duration
}

// ParseEvent reads a line of the guest's serial console. Lines that are not
// the guest's report, such as the kernel's messages, are not ok; neither is one
// that the kernel printed into.
func ParseEvent(line string) (e Event, ok bool) {
	// What firmware printed last may stand before it, without a line's end.
	_, line, ok = strings.Cut(line, "guest: ")
	if !ok {
		return Event{}, false
	}
	line = strings.TrimRight(line, "\r\n")
	i := strings.LastIndexByte(line, ' ')
	if i <= 0 {
		return Event{}, false
	}
	seconds, err := strconv.ParseFloat(line[i+1:], 64)
	if err != nil || !(seconds >= 0 && seconds < 1e9) {
		return Event{}, false
	}
	return Event{Text: line[:i], Uptime: time.Duration(seconds * float64(time.Second))}, true
}

// A Console follows the serial console of a guest, which QEMU writes to a file
// (-serial file:PATH, or libvirt's <serial type='file'>).
type Console struct {
	Path string

	offset int64
}

// Wait returns the next event whose text begins with text, after those that
// earlier calls went past, and waits for it until ctx ends. The file need not
// exist yet. The error, which wraps ctx's, holds the end of the console.
func (c *Console) Wait(ctx context.Context, text string) (e Event, err error) {
	err = poll.Until(ctx, 20*time.Millisecond, func() (found bool, err error) {
		e, found, err = c.next(text)
		return found, err
	})
	if errors.Is(err, poll.ErrGaveUp) {
		err = fmt.Errorf("wait for %q of the guest: %w; its console ends with:\n%s", text, ctx.Err(), c.tail())
	}
	return e, err
}

// next looks for the event in what the guest has written so far.
func (c *Console) next(text string) (e Event, found bool, err error) {
	data, err := c.unread()
	if err != nil {
		return Event{}, false, err
	}
	for line := range bytes.Lines(data) {
		if line[len(line)-1] != '\n' {
			break
		}
		c.offset += int64(len(line))
		if e, ok := ParseEvent(string(line)); ok && strings.HasPrefix(e.Text, text) {
			return e, true, nil
		}
	}
	return Event{}, false, nil
}

// Skip goes past all that the guest has reported, so that Wait sees only what
// comes later.
func (c *Console) Skip() error {
	data, err := c.unread()
	c.offset += int64(len(data))
	return err
}

func (c *Console) unread() ([]byte, error) {
	data, err := os.ReadFile(c.Path)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return data[min(c.offset, int64(len(data))):], nil
}

func (c *Console) tail() []byte {
	data, _ := os.ReadFile(c.Path)
	return data[max(0, len(data)-2000):]
}
