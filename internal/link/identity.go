package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrAmbiguous is matched by an AmbiguousError.
var ErrAmbiguous = errors.New("several network devices answer to it")

// AmbiguousError says which devices answer to what is to identify one. None of them is
// taken: by the order in which the kernel lists them a guest would get another's network.
type AmbiguousError struct {
	Devices []string // their names, sorted
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%v: %s", ErrAmbiguous, strings.Join(e.Devices, ", "))
}

// Is reports whether target is ErrAmbiguous.
func (e *AmbiguousError) Is(target error) bool { return target == ErrAmbiguous }

// Only returns the one name of a list. That of none is an error matching ErrNotFound, and
// that of several one matching ErrAmbiguous.
func Only(names []string) (string, error) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	switch len(names) {
	case 0:
		return "", ErrNotFound
	case 1:
		return names[0], nil
	}
	return "", &AmbiguousError{names}
}

// representor is a phys_port_name of a device that stands for a function behind the card's
// switch, "pf0vf3", and is no port of the card itself, such as "p0", "p0s1" or "l2p1"
// (Documentation/networking/devlink/devlink-port.rst; "vf3" is of older nfp, "pf0hpf" of
// BlueField).
var representor = regexp.MustCompile(`^(c[0-9]+)?(pf[0-9]+(hpf|vf[0-9]+|sf[0-9]+)?|vf[0-9]+)$`)

// isRepresentor reports whether the network device with that folder in sysfs is one.
func isRepresentor(dir string) bool { return representor.MatchString(word(dir, "phys_port_name")) }

// own returns, of the folders of network devices, those that are no representors.
func own(dirs []string) []string {
	return slices.DeleteFunc(slices.Clone(dirs), isRepresentor)
}

func names(dirs []string) []string {
	var all []string
	for _, d := range dirs {
		all = append(all, filepath.Base(d))
	}
	return all
}

// netdevs returns the folders of a PCI function's network devices, and of the virtio
// device's on it.
func (s sysfs) netdevs(address string) []string {
	base := filepath.Join(string(s), "bus/pci/devices", address) // none of a pattern's characters
	found, _ := filepath.Glob(base + "/net/*")
	virtio, _ := filepath.Glob(base + "/virtio*/net/*")
	return append(found, virtio...)
}

// hardware lists the network devices of this namespace that stand on a bus. It costs two
// lists however many virtual devices there are, such as guests' macvtaps.
func (s sysfs) hardware() ([]string, error) {
	all, err := os.ReadDir(filepath.Join(string(s), "class/net"))
	if err != nil {
		return nil, err
	}
	virtual, err := os.ReadDir(filepath.Join(string(s), "devices/virtual/net"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	made := make(map[string]bool, len(virtual))
	for _, v := range virtual {
		made[v.Name()] = true
	}
	var found []string
	for _, l := range all {
		if l.Type().IsRegular() { // bonding_masters
			continue
		}
		if !made[l.Name()] && !isRepresentor(filepath.Join(string(s), "class/net", l.Name())) {
			found = append(found, l.Name())
		}
	}
	return found, nil
}

var pciForm = regexp.MustCompile(`^(?:([0-9a-fA-F]{1,8}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})\.([0-7])$`)

// PCIAddress is a PCI function's name on the bus, "0000:03:00.0". A domain has 32 bits: cards
// behind a host bridge that firmware does not number, as Intel's VMD, have "10000:01:00.0".
func PCIAddress(domain uint32, bus, slot, function uint8) string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", domain, bus, slot, function)
}

// ParsePCI reads the address of a PCI function as people write it and returns it as sysfs
// has it, "0000:03:00.0". lspci leaves the domain 0 out, people leading zeros; a domain can
// have more than four digits (VMD, Azure).
func ParsePCI(s string) (address string, ok bool) {
	m := pciForm.FindStringSubmatch(s)
	if m == nil {
		return "", false
	}
	var part [4]uint64
	for i := range part {
		part[i], _ = strconv.ParseUint(m[i+1], 16, 32) // of the form above, or "": 0
	}
	if part[2] > 0x1f {
		return "", false
	}
	return PCIAddress(uint32(part[0]), uint8(part[1]), uint8(part[2]), uint8(part[3])), true
}
