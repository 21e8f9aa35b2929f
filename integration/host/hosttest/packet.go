package hosttest

import (
	"net"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// Arriving returns a socket that is shown what arrives at a network device of the caller's
// network namespace, and not what leaves.
func Arriving(name string) (*packet.Conn, *net.Interface, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, nil, err
	}
	c, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	if err != nil {
		return nil, nil, err
	}
	raw, err := c.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		})
		if err == nil {
			err = cerr
		}
	}
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, ifi, nil
}
