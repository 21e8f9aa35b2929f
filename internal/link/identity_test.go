package link

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The device that a PCI function has, and none where the kernel shows several.
func TestOneDeviceOfAPCIFunction(t *testing.T) {
	const card = "bus/pci/devices/0000:03:00.0/"
	for name, c := range map[string]struct {
		entries []string
		want    string   // "" for none
		several []string // the candidates that the error names
	}{
		"its own":          {entries: []string{card + "net/eth0/"}, want: "eth0"},
		"virtio":           {entries: []string{card + "virtio3/net/eth0/"}, want: "eth0"},
		"none":             {entries: []string{card + "driver/"}},
		"not there":        {},
		"a name with \\[*": {entries: []string{card + `net/e[th0\*/`}, want: `e[th0\*`},
		"mlx5 in switchdev mode": {entries: []string{
			card + "net/eth0_0/phys_port_name=pf0vf0", card + "net/ens1f0/phys_port_name=p0", card + "net/eth0_1/phys_port_name=pf0vf1",
		}, want: "ens1f0"},
		"BlueField": {entries: []string{
			card + "net/p0/phys_port_name=p0", card + "net/pf0hpf/phys_port_name=pf0hpf", card + "net/en3f0pf0sf0/phys_port_name=pf0sf0",
			card + "net/c1/phys_port_name=c1pf0vf0", card + "net/c2/phys_port_name=c1pf0",
		}, want: "p0"},
		"nfp in switchdev mode": {entries: []string{
			card + "net/a/phys_port_name=pf0", card + "net/b/phys_port_name=p0s0", card + "net/c/phys_port_name=pf0vf3", card + "net/d/phys_port_name=vf1",
		}, want: "b"},
		"a port of a line card": {entries: []string{card + "net/sw/phys_port_name=l2p1", card + "net/rep/phys_port_name=pf0vf0"}, want: "sw"},
		"representors alone":    {entries: []string{card + "net/rep/phys_port_name=pf0vf0"}},
		"mlx4 with two ports": {entries: []string{
			card + "net/ens2d1/dev_port=1", card + "net/ens2/dev_port=0",
		}, several: []string{"ens2", "ens2d1"}},
		"nfp with two ports": {entries: []string{
			card + "net/enp1s0np0/phys_port_name=p0", card + "net/enp1s0np1/phys_port_name=p1",
		}, several: []string{"enp1s0np0", "enp1s0np1"}},
		"net_failover above virtio": {entries: []string{card + "virtio0/net/eth0/", card + "virtio0/net/eth0nsby/"}, several: []string{"eth0", "eth0nsby"}},
		"virtio beside its own":     {entries: []string{card + "net/eth1/", card + "virtio0/net/eth0/"}, several: []string{"eth0", "eth1"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Only(names(own(tree(t, c.entries...).netdevs("0000:03:00.0"))))
			switch {
			case c.several != nil:
				var ambiguous *AmbiguousError
				require.ErrorAs(t, err, &ambiguous)
				require.ErrorIs(t, err, ErrAmbiguous)
				require.Equal(t, c.several, ambiguous.Devices)
				for _, d := range c.several {
					require.Contains(t, err.Error(), d)
				}
			case c.want == "":
				require.ErrorIs(t, err, ErrNotFound)
			default:
				require.NoError(t, err)
				require.Equal(t, c.want, got)
			}
		})
	}
}

// Which port of its card a VF belongs to tells its own network device.
func TestPortOfAVirtualFunction(t *testing.T) {
	const pf, vf = "bus/pci/devices/0000:03:00.0/net/", "bus/pci/devices/0000:03:10.0/net/"
	ports := []string{pf + "ens2/dev_port=0", pf + "ens2d1/dev_port=1"}
	for name, c := range map[string]struct {
		entries []string
		want    string
		several []string
	}{
		"by dev_port":       {entries: append([]string{vf + "v/dev_port=1"}, ports...), want: "ens2d1"},
		"on the first port": {entries: append([]string{vf + "v/dev_port=0"}, ports...), want: "ens2"},
		"by phys_port_id": {entries: append([]string{
			pf + "ens2/phys_port_id=aa", pf + "ens2d1/phys_port_id=bb", vf + "v/phys_port_id=bb", vf + "v/dev_port=0",
		}, ports...), want: "ens2d1"},
		"on both":            {entries: append([]string{vf + "v/dev_port=0", vf + "w/dev_port=1"}, ports...), several: []string{"ens2", "ens2d1"}},
		"ports of no number": {entries: []string{pf + "a/", pf + "b/", vf + "v/"}, several: []string{"a", "b"}},
		"with a guest":       {entries: ports, want: "ens2"},
		"beside its representor": {entries: []string{
			pf + "eth0/phys_port_name=pf0vf0", pf + "ens1f0/phys_port_name=p0", pf + "ens1f0/dev_port=3", vf + "v/dev_port=0",
		}, want: "ens1f0"},
		"whose PF is in another namespace": {entries: []string{vf + "v/dev_port=0"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tree(t, c.entries...).pfNetdev(VFPlace{PF: "0000:03:00.0", Device: "0000:03:10.0"})
			switch {
			case c.several != nil:
				var ambiguous *AmbiguousError
				require.ErrorAs(t, err, &ambiguous)
				require.Equal(t, c.several, ambiguous.Devices)
			case c.want == "":
				require.ErrorIs(t, err, ErrNotFound)
			default:
				require.NoError(t, err)
				require.Equal(t, c.want, got)
			}
		})
	}
}

// A VF's network device is never the representor of another function.
func TestVFsNetworkDevice(t *testing.T) {
	s := tree(t, "vf/net/a/phys_port_name=pf0sf1", "vf/net/b/phys_port_name=", "away/net/", "bound/driver/")
	require.Equal(t, "b", vfUse(string(s)+"/vf", VFPlace{}).Netdev)
	require.Empty(t, vfUse(string(s)+"/away", VFPlace{}).Netdev)
	require.Empty(t, vfUse(string(s)+"/bound", VFPlace{}).Netdev)
}

// Hardware is on any bus; what is made in software, and a representor, is none.
func TestHardware(t *testing.T) {
	found, err := tree(t,
		"class/net/eth0/", "class/net/enx1/", "class/net/sf3/", "class/net/enc1000/", "class/net/rep/phys_port_name=pf0vf0",
		"class/net/macvtap0/", "class/net/lo/", "class/net/bonding_masters=bond0",
		"devices/virtual/net/lo/", "devices/virtual/net/macvtap0/",
	).hardware()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"eth0", "enx1", "sf3", "enc1000"}, found)
}

func TestPCIAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"0000:03:00.0": "0000:03:00.0", "03:00.0": "0000:03:00.0", "3:0.0": "0000:03:00.0", "0:3:0.0": "0000:03:00.0",
		"0000:3B:1F.7": "0000:3b:1f.7", "10000:e1:00.0": "10000:e1:00.0", "FFFFFFFF:ff:1f.7": "ffffffff:ff:1f.7",
		"00010000:01:00.0": "10000:01:00.0", "2:00:02.0": "0002:00:02.0",
	} {
		got, ok := ParsePCI(text)
		require.True(t, ok, text)
		require.Equal(t, want, got)
	}
	for _, text := range []string{
		"", "3", "03:00", "03:00.8", "03:20.0", "100:00.0", "0000:100:00.0", "100000000:00:00.0", "0x0000:03:00.0", "0000:03:00.0 ", "0000:03:00.0\n",
		"0000:03:00.00", "../../../etc", "0000:03:00.0/..", "-1:00.0", "0000:03:00.*", "g:00.0", "pci_0000_03_00_0", "０3:00.0",
	} {
		_, ok := ParsePCI(text)
		require.False(t, ok, text)
	}
}

func FuzzParsePCI(f *testing.F) {
	f.Add("0000:03:00.0")
	f.Add("10000:E1:1f.7")
	f.Fuzz(func(t *testing.T, text string) {
		address, ok := ParsePCI(text)
		if !ok {
			require.Empty(t, address)
			return
		}
		require.Regexp(t, `^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`, address)
		again, ok := ParsePCI(address)
		require.True(t, ok)
		require.Equal(t, address, again)
	})
}

// A VLAN of a bond below a bridge: what says something of its cards is found at each depth, once.
func TestWithLowers(t *testing.T) {
	root := t.TempDir()
	for device, lowers := range map[string][]string{"br0": {"lower_bond0.5"}, "bond0.5": {"lower_bond0"}, "bond0": {"lower_eth0", "lower_eth1", "upper_bond0.5"}, "eth0": {"upper_bond0"}, "eth1": nil} {
		dir := filepath.Join(root, "class/net", device)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		for _, l := range lowers {
			require.NoError(t, os.Symlink("../x", filepath.Join(dir, l)))
		}
	}
	require.Equal(t, []string{"br0", "bond0.5", "bond0", "eth0", "eth1"}, WithLowers(root, "br0"))
	require.Equal(t, []string{"eth0"}, WithLowers(root, "eth0"))
	require.Equal(t, []string{"gone"}, WithLowers(root, "gone"))
}
