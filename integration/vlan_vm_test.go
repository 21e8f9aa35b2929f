//go:build vm

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// take moves a network card of the machine into a peer, and sets it up.
func take(t *testing.T, ctx context.Context, p *host.Peer, card, name string) {
	t.Helper()
	pid := strings.Split(p.Path("/"), "/")[2]
	out, err := exec.CommandContext(ctx, "ip", "link", "set", card, "netns", pid).CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, err = p.Run(ctx, "ip", "link", "set", card, "name", name, "up")
	require.NoError(t, err)
}

// Twenty hooks at once want a share of each other's patience on an emulated processor.
const vlanConf = `deadline = "1m"
[uplink.storage]
device = "nica"
vlans = ["100-199", "300"]
[profile.office]
uplink = "storage"
vlan = 300
own = "hook"
`

// One wire with a host at the one end and a capture at the other, on a kernel with
// VLANs. All is one test, for the sake of one libvirtd and one wire.
func TestVLAN(t *testing.T) {
	if !inMachine() {
		t.Skip("this is for the test machine: go test -tags vm -exec testvm")
	}
	ctx := deadline(t, 8*time.Minute)
	const card = "eth0"
	device, err := filepath.EvalSymlinks("/sys/class/net/" + card + "/device")
	require.NoError(t, err)
	if strings.HasPrefix(filepath.Base(device), "virtio") {
		device = filepath.Dir(device)
	}
	permanent, err := os.ReadFile("/sys/class/net/" + card + "/address")
	require.NoError(t, err)

	s := newSite(ctx, t, "a", vlanConf)
	far := hosttest.NewPeer(ctx, t, host.Options{Name: "far"})
	take(t, ctx, s.Peer, card, "nica")
	take(t, ctx, far, "eth1", "wire0")
	s.up()
	before := s.snapshot()

	t.Run("made for the first guest, gone with the last", func(t *testing.T) {
		s := s.in(t)
		capture, err := far.Capture(ctx, "wire0")
		require.NoError(t, err)
		defer capture.Close()
		// iPXE asks for an address, in vain.
		boots := host.DirectNIC(mac(1), "nica.100", "vepa", "<boot order='1'/>")
		s.define(tiny("first", boots))
		s.define(tiny("second", direct(2, "storage.100", "bridge"))) // the same device by another name
		s.start("first")
		running := s.snapshot()
		require.Equal(t, "vlan", running["nica.100"]["kind"])
		require.Equal(t, "nica", running["nica.100"]["parent"])
		require.Equal(t, "true", running["nica.100"]["up"])
		require.Equal(t, "1500", running["nica.100"]["mtu"])
		require.Equal(t, 100, s.vid("nica.100"))
		s.start("second")
		require.Equal(t, "storage.100", s.snapshot()["nica.100"]["altnames"])
		frame, err := capture.Wait(ctx, func(f []byte) bool {
			return len(f) > 18 && bytes.Equal(f[6:12], []byte{0x52, 0x54, 0x00, 0x55, 0x00, 0x01})
		})
		require.NoError(t, err)
		require.Equal(t, []byte{0x81, 0x00, 0x00, 100}, frame[12:16], "% x", frame[:18])
		s.stop("first")
		require.Contains(t, s.snapshot(), "nica.100", "the second guest is on it")
		s.stop("second")
		s.unchanged(before)
	})

	t.Run("vlan element and words rewritten", func(t *testing.T) {
		s := s.in(t)
		s.rewrite(tiny("tagged", direct(1, "storage", "bridge", "<vlan><tag id='150'/></vlan>")))
		d := tiny("profiled", direct(2, "nica", "private"))
		d.Metadata = metadata(2, "profile='office'")
		s.rewrite(d)
		s.start("tagged")
		s.start("profiled")
		require.Equal(t, 150, s.vid("nica.150"))
		require.Equal(t, 300, s.vid("nica.300"))
		for _, m := range s.macvtaps() {
			switch m["mac"] {
			case mac(1):
				require.Equal(t, "nica.150", m["parent"])
				require.Equal(t, "bridge", m["mode"])
			case mac(2):
				require.Equal(t, "nica.300", m["parent"])
				require.Equal(t, "private", m["mode"])
			}
		}
		s.stop("tagged")
		s.stop("profiled")
		s.unchanged(before)
	})

	t.Run("one that was there stays", func(t *testing.T) {
		s := s.in(t)
		_, err := s.Run(ctx, "ip", "link", "add", "link", "nica", "name", "nica.160", "type", "vlan", "id", "160")
		require.NoError(t, err)
		there := s.snapshot()
		d := tiny("g", direct(1, "nica.160", "bridge"))
		d.UUID = uuid
		for _, op := range []string{"prepare", "stopped", "release"} {
			s.hook(d.XML(), op)
			require.Empty(t, there.Diff(s.snapshot()), op)
		}
		_, err = s.Run(ctx, "ip", "link", "del", "nica.160")
		require.NoError(t, err)
		s.unchanged(before)
	})

	t.Run("one under a container stays", func(t *testing.T) {
		s := s.in(t)
		d := tiny("g", direct(1, "nica.170", "bridge"))
		d.UUID = uuid
		s.hook(d.XML(), "prepare")
		ip := func(args ...string) {
			_, err := s.Run(ctx, "ip", args...)
			require.NoError(t, err)
		}
		ip("netns", "add", "container")
		ip("link", "add", "link", "nica.170", "name", "mv0", "netns", "container", "type", "macvlan")
		s.hook(d.XML(), "release")
		ip("-n", "container", "link", "del", "mv0") // it is still there
		ip("netns", "del", "container")
		ip("link", "del", "nica.170")
		s.unchanged(before)
	})

	t.Run("not allowed", func(t *testing.T) {
		s := s.in(t)
		s.define(tiny("g", direct(1, "nica.200", "bridge")))
		_, err := s.Virsh(ctx, "start", "g")
		require.ErrorContains(t, err, `not allowed on this host: VLAN 200 on uplink "storage"; add it to vlans of [uplink.storage] in /etc/libvirt-direct/config.toml`)
		s.unchanged(before)
	})

	for found, by := range map[string]string{"mac": strings.TrimSpace(string(permanent)), "pci": filepath.Base(device)} {
		t.Run("uplink by "+found, func(t *testing.T) {
			s := s.in(t)
			s.configure(fmt.Sprintf("[uplink.core]\n%s = %q\n", found, by))
			defer s.configure(vlanConf)
			d := tiny("g", direct(1, "core", "bridge"), direct(2, "core.400", "bridge"))
			d.UUID = uuid
			s.hook(d.XML(), "prepare")
			running := s.snapshot()
			require.Equal(t, "core", running["nica"]["altnames"])
			require.Equal(t, "core.400", running["nica.400"]["altnames"])
			require.Equal(t, 400, s.vid("nica.400"))
			s.hook(d.XML(), "release")
			s.unchanged(before)
		})
	}

	t.Run("crowd of guests on one VLAN", func(t *testing.T) {
		s := s.in(t)
		var names []string
		for n := range 6 { // five seconds each on the emulated processor
			d := tiny(fmt.Sprintf("g%d", n), direct(n, "storage.100", "bridge"))
			s.define(d)
			names = append(names, d.Name)
		}
		start := func(name string) error {
			_, err := s.Virsh(ctx, "start", "--paused", "--domain", name)
			return err
		}
		stop := func(name string) error {
			_, err := s.Virsh(ctx, "destroy", "--domain", name)
			return err
		}
		s.crowd(names, 1, start, stop, func() {
			require.Equal(t, 100, s.vid("nica.100"))
			require.Len(t, s.macvtaps(), len(names))
		})
	})

	hooks := s.in(t)
	require.NoError(t, hooks.InstallHook(ctx, program(t, "killhook")))
	hooks.live()
	t.Run("hook killed everywhere", func(t *testing.T) {
		s := s.in(t)
		d := tiny("g", direct(1, "storage.100", "bridge"))
		d.UUID = uuid
		points := s.killEverywhere(d.XML(), true)
		t.Logf("%d points", points)
	})
	t.Run("crowd of hooks on one VLAN", func(t *testing.T) {
		s := s.in(t)
		var names []string
		xml := map[string]string{}
		for n := range 20 {
			d := tiny(fmt.Sprintf("g%d", n), direct(n, "storage.100", "bridge"))
			d.UUID = fmt.Sprintf("11111111-2222-4333-8444-%012d", n)
			names = append(names, d.Name)
			xml[d.Name] = d.XML()
		}
		life := func(ops ...string) func(string) error {
			return func(name string) error {
				for _, op := range ops {
					cmd := s.Command(ctx, hookPath, name, op, "begin", "-")
					cmd.Stdin = strings.NewReader(xml[name])
					if out, err := cmd.CombinedOutput(); err != nil {
						return errors.Join(fmt.Errorf("%s %s: %s", name, op, out), err)
					}
				}
				return nil
			}
		}
		// Rounds of real guests are TestCrowd's; here an emulated processor is at work.
		s.crowd(names, 3, life("prepare"), life("release"), func() {
			require.Equal(t, 100, s.vid("nica.100"))
			require.Len(t, s.journals(), 20)
		})
	})
}

// vid is a VLAN device's identifier.
func (s *site) vid(name string) int {
	s.t.Helper()
	var links []struct {
		Info struct {
			Data struct{ ID int } `json:"info_data"`
		} `json:"linkinfo"`
	}
	require.NoError(s.t, json.Unmarshal([]byte(s.run("", "ip", "-details", "-json", "link", "show", name)), &links))
	require.Len(s.t, links, 1)
	return links[0].Info.Data.ID
}
