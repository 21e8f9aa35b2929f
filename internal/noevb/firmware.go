package noevb

import (
	"fmt"
	"os"
	"path/filepath"

	"libvirt-direct/internal/link"
)

// sys is where sysfs is mounted.
const sys = "/sys"

// An agent is an LLDP agent in a card's firmware. While it runs, no LLDPDU reaches the host.
type agent struct{ device, driver, off string }

func (a agent) String() string {
	return fmt.Sprintf("turn the LLDP agent in the firmware of %s (%s) off: ethtool --set-priv-flags %[1]s %[3]s", a.device, a.driver, a.off)
}

// flags turn the agents off, by driver (i40e_ethtool.c, ice_ethtool.c: the private flags).
// ice keeps its flag over restarts of the host, i40e does not.
func flags(driver string) string {
	switch driver {
	case "i40e":
		return "disable-fw-lldp on"
	case "ice":
		return "fw-lldp-agent off"
	}
	return ""
}

// agents are those of a device, or of a bond's ports. Whether they run is not asked: the lines
// say what turns them off, which does no harm where they are off.
func agents(sysfs, device string) (found []agent) {
	for _, d := range link.WithLowers(sysfs, device) {
		target, err := os.Readlink(filepath.Join(sysfs, "class/net", d, "device/driver"))
		if err != nil {
			continue // no device of a bus
		}
		driver := filepath.Base(target)
		if off := flags(driver); off != "" {
			found = append(found, agent{d, driver, off})
		}
	}
	return found
}
