//go:build integration

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

func TestMain(m *testing.M) {
	host.MaybeInit()
	code := m.Run()
	if dir, err := programs(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// programs returns a folder with the hook ("qemu") and the command line, built once.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "libvirt-direct-")
	if err != nil {
		return "", err
	}
	return dir, hosttest.Build(dir, map[string]string{"qemu": "hooks/qemu", "libvirt-direct": "cmd/libvirt-direct"})
})

const (
	hookFile = "/etc/libvirt/hooks/qemu"
	mac1     = "52:54:00:00:00:01"
	mac2     = "52:54:00:00:00:02"

	uplinkConfig = "[uplink.storage]\ndevice = \"nica\"\n"
	vlan100      = "<vlan><tag id='100'/></vlan>"
)

// A fixture is a libvirt host whose NIC "nica" is wired to a peer.
type fixture struct {
	*hosttest.Fixture
	bin  string     // the folder of the programs
	peer *host.Peer // at the other end of nica, which is wire0 there
}

// newFixture makes one. Its libvirtd does not run yet, and it has no hook.
func newFixture(t *testing.T, conf string) *fixture {
	t.Helper()
	ctx := hosttest.Deadline(t, time.Minute)
	f := hosttest.NewFixture(ctx, t, host.Options{Name: "h"})
	bin, err := programs()
	require.NoError(t, err)
	peer := hosttest.NewPeer(ctx, t, host.Options{Name: "peer"})
	require.NoError(t, host.Wire(ctx, f.Peer, "nica", peer, "wire0"))
	if conf != "" {
		f.Configure(conf)
	}
	return &fixture{f, bin, peer}
}

// in is the same host for a subtest.
func (h *fixture) in(t *testing.T) *fixture { return &fixture{h.In(t), h.bin, h.peer} }

// up installs the hook and starts libvirtd.
func (h *fixture) up() {
	h.T.Helper()
	h.installHook(hookFile, 0o755)
	h.MustStartLibvirtd()
}

func (h *fixture) installHook(path string, mode os.FileMode) {
	h.T.Helper()
	require.NoError(h.T, h.CopyFile(h.Ctx, path, mode, filepath.Join(h.bin, "qemu")))
}

// cli runs the command line inside.
func (h *fixture) cli(args ...string) (stdout, stderr string, code int) {
	h.T.Helper()
	var out, errs strings.Builder
	cmd := h.Command(h.Ctx, filepath.Join(h.bin, "libvirt-direct"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(h.T, err, &exit)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ok runs the command line, which must succeed.
func (h *fixture) ok(args ...string) string {
	h.T.Helper()
	stdout, stderr, code := h.cli(args...)
	require.Zero(h.T, code, "%q: %s%s", args, stdout, stderr)
	require.Empty(h.T, stderr)
	return stdout
}

// fails runs the command line, which must say why it fails, in one line.
func (h *fixture) fails(args ...string) string {
	h.T.Helper()
	stdout, stderr, code := h.cli(args...)
	require.Equal(h.T, exitFault, code, "%q: %s%s", args, stdout, stderr)
	require.Equal(h.T, 1, strings.Count(stderr, "\n"), stderr)
	return stderr
}

// inactive is a domain's definition, with its secrets.
func (h *fixture) inactive(name string) string {
	h.T.Helper()
	return h.MustVirsh("dumpxml", "--inactive", "--security-info", "--domain", name)
}

// vlanGuest is a domain on VLAN 100 in the way that libvirt refuses.
func vlanGuest(name, words string, more ...string) host.Domain {
	return host.Domain{Name: name, Metadata: words, Interfaces: append([]string{host.DirectNIC(mac1, "storage", "vepa", vlan100)}, more...)}
}

// ownedGuest is a domain that asks for a hook-owned NIC. attrs are more attributes
// of our words.
func ownedGuest(name, attrs string) host.Domain {
	return host.Domain{
		Name:       name,
		Metadata:   fmt.Sprintf("<ld:nics xmlns:ld='urn:libvirt-direct:1' %s><ld:nic mac='%s' own='hook'/></ld:nics>", attrs, mac2),
		Interfaces: []string{host.DirectNIC(mac2, "storage", "bridge")},
	}
}

func words(attrs string) string {
	return "<ld:nics xmlns:ld='urn:libvirt-direct:1' " + attrs + "/>"
}
