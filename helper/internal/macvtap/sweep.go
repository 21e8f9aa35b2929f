package macvtap

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/rtnl"
)

// initPIDNamespace is the inode number of the first pid namespace (PROC_PID_INIT_INO, linux/proc_ns.h).
const initPIDNamespace = 0xeffffffc

// Sweep removes those of the visible devices that nobody holds any more. It tells by /proc/locks, since to open the node
// would take frames from the device's queues: the lock that Open takes belongs to the open file, and is listed until its
// last copy is closed. Outside of the first pid namespace the kernel hides locks whose taker has exited, so nothing is
// done there. indexes are those of devices made by Open and not being made just now.
func Sweep(host *rtnl.Conn, indexes []int) error {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil || st.Ino != initPIDNamespace {
		return err
	}
	var locks string
	for _, index := range indexes {
		l, err := host.LinkByName(Name(index))
		if err != nil || l.Index != index || l.Kind != "macvtap" {
			continue // in a namespace of its own, or gone
		}
		if err := unix.Lstat(Node(index), &st); err != nil {
			continue
		}
		if locks == "" {
			if locks, err = readLocks(); err != nil {
				return err
			}
		}
		if strings.Contains(locks, lockID(&st)) {
			continue
		}
		var m rtnl.Batch
		m.Delete(index)
		if err := host.Do(&m, -1); err != nil {
			return err
		}
	}
	return nil
}

// lockID is how /proc/locks names a file: major and minor device number in hexadecimal, inode in decimal.
func lockID(st *unix.Stat_t) string {
	return " " + hex2(unix.Major(st.Dev)) + ":" + hex2(unix.Minor(st.Dev)) + ":" + strconv.FormatUint(st.Ino, 10) + " "
}

func hex2(v uint32) string {
	s := strconv.FormatUint(uint64(v), 16)
	if len(s) < 2 {
		s = "0" + s
	}
	return s
}

func readLocks() (string, error) {
	fd, err := unix.Open("/proc/locks", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 16<<10)
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := unix.Read(fd, b[len(b):cap(b)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		if n == 0 {
			return string(b), nil
		}
		b = b[:len(b)+n]
	}
}
