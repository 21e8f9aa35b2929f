package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// VFPlace is where a VF is: its PF's device and its number there. Both stay when
// network devices are renamed or the VF is given to VFIO. Device and PF are names on
// their bus, "0000:03:10.0".
type VFPlace struct {
	PF     string `json:"pf"`
	Number int    `json:"number"`
	Device string `json:"device"`
}

// VFUse is how a VF is used at the moment.
type VFUse struct {
	VFPlace
	Driver string // "igbvf", "vfio-pci" …; "" when none is bound
	// Netdev is its network device in this network namespace. Without one the VF is
	// bound to VFIO or to no driver, or its device is in another namespace.
	Netdev string
	NUMA   int // node; -1 where there is none
}

// sysfs is where a sysfs is mounted.
type sysfs string

const sys sysfs = "/sys"

// Driver returns the name of a network device's driver, as `ethtool -i` does, or "".
func (c *Conn) Driver(name string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		if info, err := unix.IoctlGetEthtoolDrvinfo(fd, name); err == nil {
			if d := cstring(info.Driver[:]); d != "" {
				return d
			}
		}
	}
	return base(string(sys), "class/net", name, "device/driver")
}

// base returns the last part of what a symbolic link points to, or "".
func base(path ...string) string {
	target, err := os.Readlink(filepath.Join(path...))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// VFOf returns the place of a VF by its network device. A device that is no VF is an
// error matching ErrNoVF, one that is not there or on no bus ErrNotFound.
func (c *Conn) VFOf(_ context.Context, name string) (VFPlace, error) {
	return sys.place(filepath.Join("class/net", name, "device"), name)
}

// VFAt returns the place of a VF by the address of its PCI function, whatever driver
// it is bound to.
func (c *Conn) VFAt(_ context.Context, address string) (VFPlace, error) {
	return sys.place(filepath.Join("bus/pci/devices", address), "PCI "+address)
}

func (s sysfs) place(dir, what string) (VFPlace, error) {
	fail := func(err error) (VFPlace, error) {
		return VFPlace{}, &OpError{Op: "find the PF of", Link: what, Err: err}
	}
	device, err := filepath.EvalSymlinks(filepath.Join(string(s), dir))
	if errors.Is(err, fs.ErrNotExist) {
		return fail(ErrNotFound)
	}
	if err != nil {
		return fail(err)
	}
	pf, err := filepath.EvalSymlinks(filepath.Join(device, "physfn"))
	if errors.Is(err, fs.ErrNotExist) {
		return fail(ErrNoVF)
	}
	if err != nil {
		return fail(err)
	}
	numbers, err := virtfns(pf)
	if err != nil {
		return fail(err)
	}
	for n, name := range numbers {
		if name == filepath.Base(device) {
			return VFPlace{PF: filepath.Base(pf), Number: n, Device: name}, nil
		}
	}
	return fail(fmt.Errorf("%w: %s does not list it", ErrNoVF, pf))
}

// virtfns reads the links virtfn0, virtfn1 … of a PF.
func virtfns(pf string) (map[int]string, error) {
	entries, err := os.ReadDir(pf)
	if err != nil {
		return nil, err
	}
	vfs := map[int]string{}
	for _, e := range entries {
		if digits, ok := strings.CutPrefix(e.Name(), "virtfn"); ok {
			if n, err := strconv.Atoi(digits); err == nil {
				vfs[n] = base(pf, e.Name())
			}
		}
	}
	return vfs, nil
}

// PF looks up a PF's network device by its name on the bus. Of several the one is
// taken that is the card's port itself, not a function's representor, and of several ports
// the VF's: by its network device, with an error matching ErrAmbiguous where that does not
// tell. A VF without one, which a guest has, leaves the first port, as it does for libvirt.
func (c *Conn) PF(ctx context.Context, p VFPlace) (Link, error) {
	name, err := sys.pfNetdev(p)
	if err != nil {
		return Link{}, &OpError{Op: "look up", Link: "the network device of " + p.PF, Err: err}
	}
	return c.ByName(ctx, name)
}

func (s sysfs) pfNetdev(p VFPlace) (string, error) {
	ports := own(s.onBus(p.PF))
	vf := own(s.onBus(p.Device))
	switch {
	case len(ports) < 2:
		return Only(names(ports))
	case len(vf) > 0:
		return Only(names(portsOf(ports, vf)))
	}
	return filepath.Base(slices.MinFunc(ports, func(a, b string) int { return cmp.Or(number(a)-number(b), strings.Compare(a, b)) })), nil
}

// onBus returns the folders of the network devices of a device by its name on its bus.
func (s sysfs) onBus(device string) []string {
	// The pattern is well-formed: names on a bus have none of its characters.
	dirs, _ := filepath.Glob(filepath.Join(string(s), "bus/*/devices", device, "net/*"))
	return dirs
}

// portsOf returns those of a card's ports that are the ports of a VF's network devices: with
// the same phys_port_id, or where the driver has none, the same dev_port. All where nothing
// tells.
func portsOf(ports, vf []string) []string {
	for _, same := range []func(port, dev string) bool{
		func(port, dev string) bool {
			id := word(dev, "phys_port_id")
			return id != "" && id == word(port, "phys_port_id")
		},
		func(port, dev string) bool { return number(port) == number(dev) },
	} {
		found := slices.DeleteFunc(slices.Clone(ports), func(port string) bool {
			return !slices.ContainsFunc(vf, func(dev string) bool { return same(port, dev) })
		})
		if len(found) > 0 {
			return found
		}
	}
	return ports
}

// word reads a file of sysfs; "" where it is missing or cannot be read, as
// phys_port_name is where the driver has none.
func word(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// number returns a network device's dev_port, by its folder; 0, as most drivers have it,
// where the kernel is without.
func number(dir string) int {
	n, _ := strconv.Atoi(word(dir, "dev_port"))
	return n
}

// VFUses lists a PF's VFs by number, and how they are used.
func (c *Conn) VFUses(_ context.Context, pf string) ([]VFUse, error) {
	uses, err := sys.vfUses(pf)
	if err != nil {
		return nil, &OpError{Op: "list the VFs of", Link: pf, Err: err}
	}
	return uses, nil
}

// VFUseAt is how the VF at a place is used; an error matching ErrNotFound where there is
// no such device any more.
func (c *Conn) VFUseAt(_ context.Context, p VFPlace) (VFUse, error) {
	use, err := sys.vfUseAt(p)
	if err != nil {
		return VFUse{}, &OpError{Op: "look up", Link: p.Device, Err: err}
	}
	return use, nil
}

func (s sysfs) vfUseAt(p VFPlace) (VFUse, error) {
	// The pattern is well-formed: names on a bus have none of its characters.
	dirs, _ := filepath.Glob(filepath.Join(string(s), "bus/*/devices", p.PF, "virtfn"+strconv.Itoa(p.Number)))
	if len(dirs) == 0 || base(dirs[0]) != p.Device {
		return VFUse{}, ErrNotFound
	}
	return vfUse(dirs[0], p), nil
}

// vfUse reads how the VF is used whose device a folder or link is.
func vfUse(vf string, p VFPlace) VFUse {
	u := VFUse{VFPlace: p, Driver: base(vf, "driver"), NUMA: -1}
	if node, err := strconv.Atoi(word(vf, "numa_node")); err == nil {
		u.NUMA = node
	}
	nets, _ := filepath.Glob(vf + "/net/*") // names on a bus have none of a pattern's characters
	if nets = own(nets); len(nets) > 0 {
		u.Netdev = filepath.Base(nets[0])
	}
	return u
}

func (s sysfs) vfUses(pf string) ([]VFUse, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(string(s), "class/net", pf, "device"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	numbers, err := virtfns(dir)
	if err != nil {
		return nil, err
	}
	uses := make([]VFUse, 0, len(numbers))
	for n := 0; len(uses) < len(numbers); n++ {
		name, there := numbers[n]
		if !there {
			if n > 1<<16 {
				return nil, fmt.Errorf("%w: %d virtfn links without an order", ErrMalformed, len(numbers))
			}
			continue
		}
		vf := filepath.Join(dir, "virtfn"+strconv.Itoa(n))
		uses = append(uses, vfUse(vf, VFPlace{PF: filepath.Base(dir), Number: n, Device: name}))
	}
	return uses, nil
}

// PFs lists the network devices of this namespace that have VFs.
func (c *Conn) PFs(context.Context) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(string(sys), "class/net/*/device/virtfn0"))
	if err != nil {
		return nil, err
	}
	var pfs []string
	for _, f := range found {
		name := filepath.Base(filepath.Dir(filepath.Dir(f)))
		if !isRepresentor(filepath.Join(string(sys), "class/net", name)) {
			pfs = append(pfs, name)
		}
	}
	return pfs, nil
}
