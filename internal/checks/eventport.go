package checks

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// routePorts returns the port ids of a process's rtnetlink sockets from
// /proc/net/netlink (net/netlink/af_netlink.c, netlink_native_seq_show). They are those
// that libnl gives: the process id, with ten bits above its 22
// (lib/socket.c, generate_local_port). Lines that are not understood are left out.
func routePorts(r io.Reader, pid int) ([]uint32, error) {
	var ports []uint32
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text()) // sk Eth Pid …
		if len(f) < 3 || f[1] != strconv.Itoa(unix.NETLINK_ROUTE) {
			continue
		}
		port, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && port&(1<<22-1) == uint64(pid) {
			ports = append(ports, uint32(port))
		}
	}
	return ports, lines.Err()
}

// stationPid is where libvirt finds lldpad, or vdpd in its place.
const stationPid = "/run/lldpad.pid"

// eventPort checks the rtnetlink port of libvirt's event socket, which goes into each of
// its 802.1Qbg requests. libvirt takes one from 1<<31 on for an error
// (src/util/virnetdevvportprofile.c, virNetDevVPortProfileOpSetLink), and sends nothing.
func eventPort(d daemon) []Finding {
	if _, err := os.Stat(stationPid); err != nil {
		return nil // nobody is there to be asked
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/netlink", d.pid)) // of its network namespace
	if err != nil {
		return nil // it has just ended, or this is not root
	}
	defer f.Close()
	ports, err := routePorts(f, d.pid)
	if err != nil {
		return []Finding{finding(Note, d.name, "its netlink sockets: %v", err)}
	}
	if port, bad := badPort(ports); bad {
		return []Finding{finding(Fault, d.name, "its event socket has the netlink port %d, which it takes for an error: no domain with 802.1Qbg starts, but hook-owned; systemctl restart %s, and if need be again some minutes later", port, d.name)}
	}
	if len(ports) > 0 {
		return []Finding{finding(OK, d.name, "its event socket has a port with which it can ask for 802.1Qbg")}
	}
	return nil
}

// badPort returns the first port that is negative as libvirt's int.
func badPort(ports []uint32) (port uint32, bad bool) {
	i := slices.IndexFunc(ports, func(p uint32) bool { return p >= 1<<31 })
	if i < 0 {
		return 0, false
	}
	return ports[i], true
}
