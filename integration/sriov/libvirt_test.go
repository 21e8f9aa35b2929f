//go:build integration

package sriov

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

const configuration = `deadline = "1m"
[uplink.fast]
device = "eth0"
vlans = ["40-49"]
[profile.gold]
uplink = "fast"
mode = "passthrough"
vlan = 43
qos = 5
trust = true
optional = ["linkstate"]
linkstate = "enable"
`

func program(name string) string { return filepath.Join(os.Getenv(programsVariable), name) }

// installHook makes one of the programs libvirt's hook.
func installHook(t *testing.T, name, config string) {
	t.Helper()
	require.NoError(t, os.MkdirAll("/etc/libvirt/hooks", 0o755))
	require.NoError(t, os.MkdirAll("/etc/libvirt-direct", 0o755))
	require.NoError(t, os.WriteFile("/etc/libvirt-direct/config.toml", []byte(config), 0o644))
	sh(t, "install -m 755 %s /etc/libvirt/hooks/qemu && ln -sf qemu /etc/libvirt/hooks/network", program(name))
	t.Cleanup(func() { sh(t, "rm -f /etc/libvirt/hooks/qemu /etc/libvirt/hooks/network") })
}

// rewritten is a domain's XML as libvirt-direct rewrite makes it.
func rewritten(t *testing.T, xml string) string {
	t.Helper()
	cmd := exec.Command(program("libvirt-direct"), "rewrite")
	cmd.Stdin = strings.NewReader(xml)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func words(nics ...string) string {
	return "<ld:nics xmlns:ld='urn:libvirt-direct:1'>" + strings.Join(nics, "") + "</ld:nics>"
}

func nic(mac, words string) string { return fmt.Sprintf("<ld:nic mac='%s' %s/>", mac, words) }

func hostdev(mac, address string, more string) string {
	a := strings.FieldsFunc(address, func(r rune) bool { return r == ':' || r == '.' })
	return fmt.Sprintf("<interface type='hostdev' managed='yes'><mac address='%s'/><source><address type='pci' domain='0x%s' bus='0x%s' slot='0x%s' function='0x%s'/></source>%s</interface>",
		mac, a[0], a[1], a[2], a[3], more)
}

// links is what iproute2 shows of the PF and the VFs, without what a new network
// device cannot have again.
func links(t testing.TB) string {
	t.Helper()
	var all []map[string]any
	require.NoError(t, json.Unmarshal([]byte(sh(t, "ip -d -j link show")), &all))
	for _, l := range all {
		delete(l, "ifindex")
		delete(l, "operstate") // settles later
		delete(l, "qdisc")     // a device has one from when it is first up
		if flags, ok := l["flags"].([]any); ok {
			kept := []any{}
			for _, f := range flags {
				if f != "LOWER_UP" && f != "NO-CARRIER" {
					kept = append(kept, f)
				}
			}
			l["flags"] = kept
		}
	}
	slices.SortFunc(all, func(a, b map[string]any) int { return strings.Compare(a["ifname"].(string), b["ifname"].(string)) })
	text, err := json.MarshalIndent(all, "", " ")
	require.NoError(t, err)
	return string(text)
}

// device returns the PCI address and the network device of a VF.
func device(t testing.TB, pf string, vf int) (address, netdev string) {
	t.Helper()
	address = sh(t, "basename $(readlink -f /sys/class/net/%s/device/virtfn%d)", pf, vf)
	return address, sh(t, "ls /sys/class/net/%s/device/virtfn%d/net", pf, vf)
}

const (
	macH = "52:54:00:01:02:03"
	macP = "52:54:00:01:02:04"
	macX = "52:54:00:01:02:05"
)

// tiny is a domain that sits in its firmware.
func tiny(name, iface, w string) host.Domain {
	return host.Domain{Name: name, MemoryMiB: 32, Interfaces: []string{iface}, Metadata: w}
}

// The administrator's settings come back, those that libvirt changes included: each time,
// of two guests at once.
func TestStartsOverAndOver(t *testing.T) {
	installHook(t, "qemu", configuration)
	d := libvirtd(t)
	vfs(t, "eth0", 2)
	sh(t, `ip link set eth0 vf 0 mac 02:aa:00:00:00:01 && ip link set eth0 vf 0 vlan 7 qos 5 && ip link set eth0 vf 0 trust on
		ip link set eth0 vf 1 vlan 8 qos 4 && ip link set eth0 vf 1 spoofchk off`)
	address, _ := device(t, "eth0", 0)
	_, netdev := device(t, "eth0", 1)
	before := links(t)
	domains := []libvirt.Domain{
		d.define(t, tiny("hd", hostdev(macH, address, ""), words(nic(macH, "vlan='42' qos='3' trust='no'")))),
		d.define(t, tiny("mt", host.DirectNIC(macP, netdev, "passthrough"), words(nic(macP, "vlan='43' spoofchk='yes' maxrate='50'")))),
	}
	rounds := hosttest.Rounds(5, 25)
	begin := time.Now()
	for i := range rounds {
		atOnce(t, domains, d.DomainCreate)
		require.NotEqual(t, before, links(t))
		atOnce(t, domains, d.DomainDestroy)
		require.Equal(t, before, links(t), "round %d", i)
	}
	starts := rounds * len(domains)
	t.Logf("%d starts and stops, two at once: %v for each", starts, (time.Since(begin) / time.Duration(starts)).Round(10*time.Millisecond))
	require.Empty(t, sh(t, "ls /run/libvirt-direct/domains"))
}

func atOnce(t *testing.T, domains []libvirt.Domain, do func(libvirt.Domain) error) {
	t.Helper()
	done := make(chan error, len(domains))
	for _, dom := range domains {
		go func() { done <- do(dom) }()
	}
	limit := time.After(2 * time.Minute)
	for range domains {
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-limit:
			t.Fatalf("libvirtd does not answer:\n%s", sh(t, `ps -eo pid,ppid,etimes,stat,wchan:32,args | grep -v '\[.*\]$'
				for task in /proc/$(cat /run/libvirtd.pid)/task/*; do echo $task $(cat $task/comm $task/wchan); cat $task/stack; done`))
		}
	}
}

func TestTwoGuestsFightForOneVF(t *testing.T) {
	installHook(t, "qemu", configuration)
	d := libvirtd(t)
	vfs(t, "eth0", 2)
	address, hostdevNet := device(t, "eth0", 0)
	_, netdev := device(t, "eth0", 1)
	before := links(t)
	hd := d.define(t, tiny("hd", hostdev(macH, address, ""), words(nic(macH, "vlan='42' trust='yes'"))))
	mt := d.define(t, tiny("mt", host.DirectNIC(macP, netdev, "passthrough"), words(nic(macP, "vlan='43' trust='yes'"))))
	hd2 := d.define(t, tiny("hd2", hostdev(macX, address, ""), words(nic(macX, "vlan='44' trust='no'"))))
	mt2 := d.define(t, tiny("mt2", host.DirectNIC(macX, netdev, "passthrough"), words(nic(macX, "vlan='44' trust='no'"))))
	d.start(t, hd)
	d.start(t, mt)
	require.Eventually(t, func() bool { return shown(t, "eth0", 1)["address"] == macP }, 10*time.Second, 100*time.Millisecond,
		"igb has the MAC from the VF's driver")
	running := links(t)
	for _, loser := range []libvirt.Domain{hd2, mt2} {
		err := d.DomainCreate(loser)
		require.Error(t, err)
		t.Log(err)
		require.Equal(t, running, links(t), "the winner keeps its settings")
	}
	d.destroy(t, hd)
	d.destroy(t, mt)
	require.Equal(t, before, links(t), "%s", hostdevNet)
}
