package checks

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// hostOf is a file system with these files.
func hostOf(t *testing.T, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		file := filepath.Join(root, files[i])
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(files[i+1]), 0o644))
	}
	return root
}

func TestShielded(t *testing.T) {
	const rules, network, net = "usr/lib/udev/rules.d/0-libvirt-direct.rules", "usr/lib/systemd/network/0-libvirt-direct.network", "etc/systemd/network/"
	udev := []string{"run/udev/control", "", rules, "R", "usr/lib/systemd/network/0-libvirt-direct.link", "L"}
	networkd := append(slices.Clone(udev), "run/systemd/netif/links/2", "", network, "N")
	more := func(files ...string) []string { return slices.Concat(networkd, files) }
	for name, c := range map[string]struct {
		files []string
		want  []Finding
	}{
		"container without udev": {[]string{"etc/systemd/network/00-a.network", ""}, nil},
		"udev alone":             {udev, nil},
		"networkd":               {networkd, nil},
		"the helper's package alone": {[]string{"run/udev/control", "", "usr/lib/udev/rules.d/0-libvirt-direct-helper.rules", "R",
			"usr/lib/systemd/network/0-libvirt-direct-helper.link", "L"}, nil},
		"others' files":    {more(net+"00-a.network", "", net+"10-netplan-eth0.network", "", net+"10-lan.link", "", "etc/udev/rules.d/00-x.rules", ""), nil},
		"a copy of it":     {more("etc/udev/rules.d/0-libvirt-direct.rules", "R"), nil},
		"nothing in place": {[]string{"run/udev/control", ""}, []Finding{{Note, "managers", "/usr/lib/udev/rules.d/0-libvirt-direct.rules is missing: udev renames"}, {Note, "managers", "/usr/lib/systemd/network/0-libvirt-direct.link is missing"}}},
		"no network file":  {networkd[:len(networkd)-2], []Finding{{Note, "managers", "/usr/lib/systemd/network/0-libvirt-direct.network is missing: systemd-networkd configures"}}},
		"masked":           {more("etc/udev/rules.d/0-libvirt-direct.rules", ""), []Finding{{Note, "managers", "/etc/udev/rules.d/0-libvirt-direct.rules is in place of /usr/lib/udev/rules.d/0-libvirt-direct.rules"}}},
		"masked until boot": {more("run/systemd/network/0-libvirt-direct.network", "[Match]\n"),
			[]Finding{{Note, "managers", "/run/systemd/network/0-libvirt-direct.network is in place of"}}},
		"comes first": {more(net+"0-all.network", ""), []Finding{{Note, "managers", "/etc/systemd/network/0-all.network comes before 0-libvirt-direct.network"}}},
	} {
		t.Run(name, func(t *testing.T) { requireFindings(t, c.want, shielded(hostOf(t, c.files...))) })
	}
}

func TestManagerOf(t *testing.T) {
	root := hostOf(t,
		"run/systemd/netif/links/7", "# This is private data. Do not parse.\nADMIN_STATE=configuring\nNETWORK_FILE=/etc/systemd/network/20-lan.network\n",
		"run/systemd/netif/links/8", "ADMIN_STATE=unmanaged\nNETWORK_FILE=/usr/lib/systemd/network/0-libvirt-direct.network\n",
		"run/NetworkManager/devices/9", "[device]\nmanaged=true\n",
		"run/NetworkManager/devices/10", "[device]\nmanaged=false\n", "run/NetworkManager/devices/11", "[device]\nmanaged=unknown\n")
	require.Equal(t, "systemd-networkd (/etc/systemd/network/20-lan.network)", managerOf(root, 7))
	require.Equal(t, "NetworkManager", managerOf(root, 9))
	for _, index := range []int{6, 8, 10, 11} {
		require.Empty(t, managerOf(root, index), index)
	}
}

func FuzzParseVariables(f *testing.F) {
	f.Add([]byte("# private\nADMIN_STATE=configured\nNETWORK_FILE=\"/etc/a b\"\n"), "ADMIN_STATE")
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		for n, v := range parseVariables(text) {
			require.NotContains(t, n+v, "\n")
			require.Contains(t, string(text), n)
			require.Contains(t, string(text), v)
		}
	})
}
