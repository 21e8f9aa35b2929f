package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrTableFull: a network card has no room for one more address.
var ErrTableFull = errors.New("the card's forwarding table is full")

// SelfEntries lists the unicast addresses beside its own for which a device itself receives
// frames: its own forwarding table, `bridge fdb show dev NAME self` (RTM_GETNEIGH with
// NTF_SELF; the kernel's dev->uc). A card with virtual functions looks there for what is
// behind its physical function.
func (c *Conn) SelfEntries(ctx context.Context, index int) (macs []string, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	req.AddData(fdbMsg(index))
	out, err := c.dump(ctx, req)
	if err != nil {
		return nil, err
	}
	for _, b := range out {
		n, err := parseNeighbour(b)
		if err != nil {
			return macs, err
		}
		if n.index == index && n.self && len(n.mac) == 6 && n.mac[0]&1 == 0 {
			macs = append(macs, n.mac.String())
		}
	}
	return macs, nil
}

// AddSelfEntry enters an address in a device's own forwarding table (`bridge fdb add … self`).
// One that is there is ErrExists, and a card that has no room ErrTableFull.
func (c *Conn) AddSelfEntry(ctx context.Context, index int, mac string) error {
	err := c.selfEntry(ctx, "enter an address in the forwarding table of", unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index, mac)
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOSPC) { // igb and ixgbe say the first
		return fmt.Errorf("%w: %w", ErrTableFull, err)
	}
	return err
}

// RemoveSelfEntry takes an address out of it. One that is not there is ErrNotFound.
func (c *Conn) RemoveSelfEntry(ctx context.Context, index int, mac string) error {
	err := c.selfEntry(ctx, "remove an address from the forwarding table of", unix.RTM_DELNEIGH, 0, index, mac)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

func (c *Conn) selfEntry(ctx context.Context, op string, message, flags, index int, mac string) error {
	b, err := parseMAC(mac)
	if err != nil {
		return &OpError{Op: op, Link: "index " + strconv.Itoa(index), Err: err}
	}
	req := nl.NewNetlinkRequest(message, unix.NLM_F_ACK|flags)
	req.AddData(selfMsg(index))
	req.AddData(nl.NewRtAttr(unix.NDA_LLADDR, b))
	_, err = c.do(ctx, op, "index "+strconv.Itoa(index), req)
	return err
}

// selfMsg is struct ndmsg (include/uapi/linux/neighbour.h) of a device's own entry; the
// kernel's default for those wants them permanent (ndo_dflt_fdb_add).
type selfMsg int

func (m selfMsg) Len() int { return unix.SizeofNdMsg }

func (m selfMsg) Serialize() []byte {
	b := binary.NativeEndian.AppendUint32([]byte{unix.AF_BRIDGE, 0, 0, 0}, uint32(m))
	b = binary.NativeEndian.AppendUint16(b, unix.NUD_NOARP|unix.NUD_PERMANENT)
	return append(b, unix.NTF_SELF, 0)
}
