//go:build vm

package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

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
	ctx := hosttest.Deadline(t, 8*time.Minute)
	const card = "eth0"
	device, err := filepath.EvalSymlinks("/sys/class/net/" + card + "/device")
	require.NoError(t, err)
	if strings.HasPrefix(filepath.Base(device), "virtio") {
		device = filepath.Dir(device)
	}
	permanent, err := os.ReadFile("/sys/class/net/" + card + "/address")
	require.NoError(t, err)

	h := newFixture(ctx, t, "a", vlanConf)
	far := hosttest.NewPeer(ctx, t, host.Options{Name: "far"})
	h.MustTakeCard(card, "nica")
	hosttest.TakeCard(ctx, t, far, "eth1", "wire0")
	h.MustStartLibvirtd()
	before := h.MustSnapshot()

	t.Run("made for the first guest, gone with the last", func(t *testing.T) {
		h := h.in(t)
		capture, err := far.Capture(ctx, "wire0")
		require.NoError(t, err)
		defer capture.Close()
		// iPXE asks for an address, in vain.
		boots := host.DirectNIC(mac(1), "nica.100", "vepa", "<boot order='1'/>")
		h.MustDefine(tiny("first", boots))
		h.MustDefine(tiny("second", direct(2, "storage.100", "bridge"))) // the same device by another name
		h.start("first")
		running := h.MustSnapshot()
		require.Equal(t, "vlan", running["nica.100"]["kind"])
		require.Equal(t, "nica", running["nica.100"]["parent"])
		require.Equal(t, "true", running["nica.100"]["up"])
		require.Equal(t, "1500", running["nica.100"]["mtu"])
		require.Equal(t, 100, h.vid("nica.100"))
		h.start("second")
		require.Equal(t, "storage.100", h.MustSnapshot()["nica.100"]["altnames"])
		frame, err := capture.Wait(ctx, func(f []byte) bool {
			return len(f) > 18 && bytes.Equal(f[6:12], []byte{0x52, 0x54, 0x00, 0x55, 0x00, 0x01})
		})
		require.NoError(t, err)
		require.Equal(t, []byte{0x81, 0x00, 0x00, 100}, frame[12:16], "% x", frame[:18])
		h.stop("first")
		require.Contains(t, h.MustSnapshot(), "nica.100", "the second guest is on it")
		h.stop("second")
		h.RequireUnchanged(before)
	})

	t.Run("vlan element and words rewritten", func(t *testing.T) {
		h := h.in(t)
		h.rewrite(tiny("tagged", direct(1, "storage", "bridge", "<vlan><tag id='150'/></vlan>")))
		d := tiny("profiled", direct(2, "nica", "private"))
		d.Metadata = metadata(2, "profile='office'")
		h.rewrite(d)
		h.start("tagged")
		h.start("profiled")
		require.Equal(t, 150, h.vid("nica.150"))
		require.Equal(t, 300, h.vid("nica.300"))
		for _, m := range h.macvtaps() {
			switch m["mac"] {
			case mac(1):
				require.Equal(t, "nica.150", m["parent"])
				require.Equal(t, "bridge", m["mode"])
			case mac(2):
				require.Equal(t, "nica.300", m["parent"])
				require.Equal(t, "private", m["mode"])
			}
		}
		h.stop("tagged")
		h.stop("profiled")
		h.RequireUnchanged(before)
	})

	t.Run("one that was there stays", func(t *testing.T) {
		h := h.in(t)
		_, err := h.Run(ctx, "ip", "link", "add", "link", "nica", "name", "nica.160", "type", "vlan", "id", "160")
		require.NoError(t, err)
		there := h.MustSnapshot()
		d := tiny("g", direct(1, "nica.160", "bridge"))
		d.UUID = uuid
		for _, op := range []string{"prepare", "stopped", "release"} {
			h.hook(d.XML(), op)
			require.Empty(t, there.Diff(h.MustSnapshot()), op)
		}
		_, err = h.Run(ctx, "ip", "link", "del", "nica.160")
		require.NoError(t, err)
		h.RequireUnchanged(before)
	})

	t.Run("one under a container stays", func(t *testing.T) {
		h := h.in(t)
		d := tiny("g", direct(1, "nica.170", "bridge"))
		d.UUID = uuid
		h.hook(d.XML(), "prepare")
		ip := func(args ...string) {
			_, err := h.Run(ctx, "ip", args...)
			require.NoError(t, err)
		}
		ip("netns", "add", "container")
		ip("link", "add", "link", "nica.170", "name", "mv0", "netns", "container", "type", "macvlan")
		h.hook(d.XML(), "release")
		ip("-n", "container", "link", "del", "mv0") // it is still there
		ip("netns", "del", "container")
		ip("link", "del", "nica.170")
		h.RequireUnchanged(before)
	})

	t.Run("not allowed", func(t *testing.T) {
		h := h.in(t)
		h.MustDefine(tiny("g", direct(1, "nica.200", "bridge")))
		_, err := h.Virsh(ctx, "start", "g")
		require.ErrorContains(t, err, `not allowed on this host: VLAN 200 on uplink "storage"; add it to vlans of [uplink.storage] in /etc/libvirt-direct/config.toml`)
		h.RequireUnchanged(before)
	})

	for found, by := range map[string]string{"mac": strings.TrimSpace(string(permanent)), "pci": filepath.Base(device)} {
		t.Run("uplink by "+found, func(t *testing.T) {
			h := h.in(t)
			h.Configure(fmt.Sprintf("[uplink.core]\n%s = %q\n", found, by))
			defer h.Configure(vlanConf)
			d := tiny("g", direct(1, "core", "bridge"), direct(2, "core.400", "bridge"))
			d.UUID = uuid
			h.hook(d.XML(), "prepare")
			running := h.MustSnapshot()
			require.Equal(t, "core", running["nica"]["altnames"])
			require.Equal(t, "core.400", running["nica.400"]["altnames"])
			require.Equal(t, 400, h.vid("nica.400"))
			h.hook(d.XML(), "release")
			h.RequireUnchanged(before)
		})
	}

	t.Run("crowd of guests on one VLAN", func(t *testing.T) {
		h := h.in(t)
		var names []string
		for n := range 6 { // five seconds each on the emulated processor
			d := tiny(fmt.Sprintf("g%d", n), direct(n, "storage.100", "bridge"))
			h.MustDefine(d)
			names = append(names, d.Name)
		}
		start := func(name string) error {
			_, err := h.Virsh(ctx, "start", "--paused", "--domain", name)
			return err
		}
		stop := func(name string) error {
			_, err := h.Virsh(ctx, "destroy", "--domain", name)
			return err
		}
		h.crowd(names, 1, start, stop, func() {
			require.Equal(t, 100, h.vid("nica.100"))
			require.Len(t, h.macvtaps(), len(names))
		})
	})

	hooks := h.in(t)
	require.NoError(t, hooks.InstallHook(ctx, program(t, "killhook")))
	hooks.live()
	t.Run("hook killed everywhere", func(t *testing.T) {
		h := h.in(t)
		d := tiny("g", direct(1, "storage.100", "bridge"))
		d.UUID = uuid
		points := h.killEverywhere(d.XML(), true)
		t.Logf("%d points", points)
	})
	t.Run("crowd of hooks on one VLAN", func(t *testing.T) {
		h := h.in(t)
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
					cmd := h.Command(ctx, hookPath, name, op, "begin", "-")
					cmd.Stdin = strings.NewReader(xml[name])
					if out, err := cmd.CombinedOutput(); err != nil {
						return errors.Join(fmt.Errorf("%s %s: %s", name, op, out), err)
					}
				}
				return nil
			}
		}
		// Rounds of real guests are TestCrowd's; here an emulated processor is at work.
		h.crowd(names, 3, life("prepare"), life("release"), func() {
			require.Equal(t, 100, h.vid("nica.100"))
			require.Len(t, h.Journals(), 20)
		})
	})
}

// vid is a VLAN device's identifier.
func (h *fixture) vid(name string) int {
	h.T.Helper()
	var links []struct {
		Info struct {
			Data struct{ ID int } `json:"info_data"`
		} `json:"linkinfo"`
	}
	require.NoError(h.T, json.Unmarshal([]byte(h.MustRun("ip", "-details", "-json", "link", "show", name)), &links))
	require.Len(h.T, links, 1)
	return links[0].Info.Data.ID
}
