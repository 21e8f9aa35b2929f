package noevb

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCauses(t *testing.T) {
	const all = ": enable LLDP and EVB on the switch's port; see that nothing in between eats frames to 01:80:c2:00:00:00"
	const evb = ": enable EVB/VDP on the switch's port, for LLDP to 01:80:c2:00:00:00, which a bridge in between would eat"
	heard := LLDPDU{Ago: 3 * time.Second, From: "02:bb:00:00:00:01", To: "01:80:c2:00:00:0e"}
	late, wrong := heard, heard
	late.Ago, wrong.Flaw = 121*time.Second, "offers neither ECP nor VDP"
	for want, p := range map[string]Port{
		"no LLDPDU" + all: {},
		"no LLDPDU since the link came up 35 s ago" + all:                                                               {Up: 35*time.Second + 1},
		"no LLDPDU for 121 s" + all:                                                                                     {Up: time.Hour, Heard: &late},
		"the LLDPDUs that arrive have none" + evb:                                                                       {Heard: &LLDPDU{}},
		"the last LLDPDU, 3 s ago from 02:bb:00:00:00:01 to 01:80:c2:00:00:0e, has none" + evb:                          {Up: time.Hour, Heard: &heard},
		"the last LLDPDU, 3 s ago from 02:bb:00:00:00:01 to 01:80:c2:00:00:0e, has one that offers neither ECP nor VDP": {Heard: &wrong},
	} {
		p.Name = "no such device"
		require.Equal(t, want, p.Causes())
	}
}

// The card's own agent is blamed where there is one, below a bond too.
func TestAgents(t *testing.T) {
	sysfs := t.TempDir()
	for device, driver := range map[string]string{"eth0": "i40e", "eth1": "ice", "eth2": "igb", "bond0": ""} {
		dir := filepath.Join(sysfs, "class/net", device)
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "device"), 0o755))
		if driver != "" {
			require.NoError(t, os.Symlink("../../../bus/pci/drivers/"+driver, filepath.Join(dir, "device/driver")))
		}
	}
	for _, slave := range []string{"eth2", "eth1", "eth0"} {
		require.NoError(t, os.Symlink("../"+slave, filepath.Join(sysfs, "class/net/bond0/lower_"+slave)))
	}
	i40e, ice := agent{"eth0", "i40e", "disable-fw-lldp on"}, agent{"eth1", "ice", "fw-lldp-agent off"}
	require.Equal(t, []agent{i40e}, agents(sysfs, "eth0"))
	require.Equal(t, []agent{ice}, agents(sysfs, "eth1"))
	require.Empty(t, agents(sysfs, "eth2"))
	require.Empty(t, agents(sysfs, "eth9"))
	require.Equal(t, []agent{i40e, ice}, agents(sysfs, "bond0"))
	require.Equal(t, "turn the LLDP agent in the firmware of eth0 (i40e) off: ethtool --set-priv-flags eth0 disable-fw-lldp on", i40e.String())
}
