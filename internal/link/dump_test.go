package link

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// vlanReply builds an RTM_NEWVLAN payload.
func vlanReply(id uint16) []byte {
	entry := nl.NewRtAttr(vlanDBEntry|unix.NLA_F_NESTED, nil)
	entry.AddRtAttr(vlanDBEntryInfo, append(nl.Uint16Attr(0), nl.Uint16Attr(id)...))
	return append(brVLANMsg(7).Serialize(), entry.Serialize()...)
}

// dumps are all that ask the kernel for a list.
var dumps = map[string]struct {
	entry []byte // one of the list
	ask   func(context.Context, *Conn) (int, error)
}{
	"All": {reply(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("eth0"))), func(ctx context.Context, c *Conn) (int, error) {
		all, err := c.All(ctx)
		return len(all), err
	}},
	"PortVLANs": {vlanReply(7), func(ctx context.Context, c *Conn) (int, error) {
		all, err := c.PortVLANs(ctx, 7)
		return len(all), err
	}},
}

// A list that changed while the kernel sent it is asked for again.
func TestInterruptedDumpsAreRepeated(t *testing.T) {
	for name, d := range dumps {
		t.Run(name, func(t *testing.T) {
			c, err := Open()
			require.NoError(t, err)
			defer c.Close()
			answers := []struct {
				entries [][]byte
				err     error
			}{
				{[][]byte{d.entry}, nl.ErrDumpInterrupted},
				{nil, unix.EINTR},
				{[][]byte{d.entry, d.entry, d.entry}, nl.ErrDumpInterrupted},
				{[][]byte{d.entry, d.entry}, nil},
			}
			c.execute = func(*nl.NetlinkRequest) ([][]byte, error) {
				a := answers[0]
				answers = answers[1:]
				return a.entries, a.err
			}
			n, err := d.ask(t.Context(), c)
			require.NoError(t, err)
			require.Equal(t, 2, n)
			require.Empty(t, answers)
		})
	}
}

// It is asked for as long as the context allows, and ten seconds where that says nothing.
func TestDumpsThatAreInterruptedForEver(t *testing.T) {
	for name, d := range dumps {
		t.Run(name, func(t *testing.T) {
			c, err := Open()
			require.NoError(t, err)
			defer c.Close()
			synctest.Test(t, func(t *testing.T) {
				c.execute = func(*nl.NetlinkRequest) ([][]byte, error) {
					time.Sleep(10 * time.Millisecond) // of the bubble's time
					return [][]byte{d.entry}, nl.ErrDumpInterrupted
				}
				from := time.Now()
				_, err := d.ask(t.Context(), c)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorContains(t, err, "it changed again and again")
				require.Equal(t, 10*time.Second, time.Since(from))

				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				from = time.Now()
				_, err = d.ask(ctx, c)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, time.Second, time.Since(from))
			})
		})
	}
}

func TestDumpsFailAsOthersDo(t *testing.T) {
	for name, d := range dumps {
		c, err := Open()
		require.NoError(t, err, name)
		defer c.Close()
		c.execute = func(*nl.NetlinkRequest) ([][]byte, error) { return nil, unix.EOPNOTSUPP }
		_, err = d.ask(t.Context(), c)
		require.ErrorIs(t, err, ErrNotSupported, name)
	}
}
