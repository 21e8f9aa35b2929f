package link

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"libvirt-direct/internal/poll"

	"golang.org/x/sys/unix"
)

func parseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err == nil && len(mac) != 6 {
		err = fmt.Errorf("%q is no Ethernet address", s)
	}
	return mac, err
}

// ValidName reports whether the kernel would take a name for a network device
// (dev_valid_name in net/core/dev.c): 1 to 15 octets, no '/', ':' or white space,
// neither "." nor "..".
func ValidName(s string) bool { return len(s) <= 15 && ValidAltName(s) }

// ValidAltName reports whether the kernel would find a device by a name, which can be an
// altname: those are longer, of at most 127 octets.
func ValidAltName(s string) bool {
	return s != "" && len(s) <= 127 && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r\x00")
}

// FreeIndex proposes an interface index for a new device. Node names count: the
// kernel calls a macvtap's node /dev/tap<index> in every network namespace alike, so
// an index is drawn at random from a wide range, and one whose node exists is
// passed over.
func FreeIndex() (int, error) {
	for range 100 {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return 0, err
		}
		// Above what hosts count up to, below 2^31.
		index := int(binary.NativeEndian.Uint32(b[:])%(1<<31-1<<24-1)) + 1<<24
		if _, err := os.Lstat(tapNode(index)); errors.Is(err, fs.ErrNotExist) {
			return index, nil
		}
	}
	return 0, errors.New("no free interface index found")
}

func tapNode(index int) string { return "/dev/tap" + strconv.Itoa(index) }

// TapNode waits for a macvtap's character device and checks that it is this
// device's: another network namespace's macvtap can have the same index. It returns
// the path, or an error matching ErrNodeTaken or context.DeadlineExceeded.
func (c *Conn) TapNode(ctx context.Context, l Link) (string, error) {
	path := tapNode(l.Index)
	fail := func(err error) (string, error) {
		return "", &OpError{Op: "find " + path + " of", Link: l.Name, Err: err}
	}
	// The class device of the interface, in sysfs of its own namespace.
	want, err := os.ReadFile(fmt.Sprintf("/sys/class/net/%s/tap%d/dev", l.Name, l.Index))
	if err != nil {
		return fail(err)
	}
	// devtmpfs has the node before the kernel answers; udev on a static /dev is
	// later, and tells nobody.
	err = poll.Until(ctx, 5*time.Millisecond, func() (bool, error) {
		var st unix.Stat_t
		switch err := unix.Stat(path, &st); {
		case errors.Is(err, fs.ErrNotExist):
			return false, nil
		case err != nil:
			return false, err
		case st.Mode&unix.S_IFMT != unix.S_IFCHR ||
			fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)) != strings.TrimSpace(string(want)):
			return false, ErrNodeTaken
		}
		return true, nil
	})
	if errors.Is(err, poll.ErrGaveUp) {
		err = fmt.Errorf("it did not appear (no devtmpfs or udev on /dev?): %w", context.DeadlineExceeded)
	}
	if err != nil {
		return fail(err)
	}
	return path, nil
}

// Uppers lists the devices of this network namespace that stand on a link: macvtaps,
// VLANs, a bridge or bond. UppersEverywhere knows of other namespaces too.
func (c *Conn) Uppers(_ context.Context, name string) ([]string, error) {
	uppers, err := sys.uppers(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = &errnoError{ErrNotFound, err}
	}
	if err != nil {
		return nil, &OpError{Op: "list what stands on", Link: name, Err: err}
	}
	return uppers, nil
}

// WithLowers returns a device and all below it, such as a bond's ports and those of the bond
// below a bridge, by the sysfs that is mounted at root.
func WithLowers(root, device string) []string {
	devices := []string{device}
	for i := 0; i < len(devices); i++ {
		found, _ := os.ReadDir(filepath.Join(root, "class/net", devices[i]))
		for _, f := range found {
			if lower, is := strings.CutPrefix(f.Name(), "lower_"); is && !slices.Contains(devices, lower) {
				devices = append(devices, lower)
			}
		}
	}
	return devices
}

// IsVF reports whether a network device is an SR-IOV virtual function.
func (c *Conn) IsVF(_ context.Context, name string) bool {
	_, err := os.Lstat("/sys/class/net/" + name + "/device/physfn")
	return err == nil
}

// ByPCI looks up the network device of a PCI function, in any spelling that ParsePCI reads:
// its own, or that of the virtio device on it. Representors, which are on their PF's
// function, do not count. Several others are an error matching ErrAmbiguous.
func (c *Conn) ByPCI(ctx context.Context, address string) (Link, error) {
	fail := func(err error) (Link, error) {
		return Link{}, &OpError{Op: "look up", Link: "PCI " + address, Err: err}
	}
	name, ok := ParsePCI(address)
	if !ok {
		return fail(ErrNotFound)
	}
	name, err := Only(names(own(sys.netdevs(name))))
	if err != nil {
		return fail(err)
	}
	return c.ByName(ctx, name)
}

// ByPermanentMAC looks a link up by its permanent address (IFLA_PERM_ADDRESS). The
// kernel has no index for it, so that this asks each device on a bus in turn; virtual
// links, which can be thousands, are not among them. That several have it, such as a
// synthetic NIC and the virtual function behind it, is an error matching ErrAmbiguous.
func (c *Conn) ByPermanentMAC(ctx context.Context, mac string) (Link, error) {
	fail := func(err error) (Link, error) {
		return Link{}, &OpError{Op: "look up", Link: "permanent MAC " + mac, Err: err}
	}
	devices, err := sys.hardware()
	if err != nil {
		return fail(err)
	}
	var found []Link
	var answer []string
	for _, n := range devices {
		l, err := c.ByName(ctx, n)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return Link{}, err
		}
		if err == nil && l.PermMAC != "" && strings.EqualFold(l.PermMAC, mac) {
			found, answer = append(found, l), append(answer, l.Name)
		}
	}
	if _, err := Only(answer); err != nil {
		return fail(err)
	}
	return found[0], nil
}
