//go:build integration

package main

import (
	"context"
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
	"libvirt-direct/internal/config"
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
	build := exec.Command("go", "build", "-o", dir, "../../hooks/qemu", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

const (
	hookFile = "/etc/libvirt/hooks/qemu"
	mac1     = "52:54:00:00:00:01"
	mac2     = "52:54:00:00:00:02"

	uplinkConfig = "[uplink.storage]\ndevice = \"nica\"\n"
	vlan100      = "<vlan><tag id='100'/></vlan>"
)

// A site is a libvirt host whose NIC "nica" is wired to a peer.
type site struct {
	*host.Host
	t    *testing.T
	ctx  context.Context
	bin  string
	peer *host.Peer // at the other end of nica, which is wire0 there
}

// newSite makes a site. Its libvirtd does not run yet, and it has no hook.
func newSite(t *testing.T, conf string) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	h := hosttest.New(ctx, t, host.Options{Name: "h"})
	bin, err := programs()
	require.NoError(t, err)
	peer := hosttest.NewPeer(ctx, t, host.Options{Name: "peer"})
	require.NoError(t, host.Wire(ctx, h.Peer, "nica", peer, "wire0"))
	s := &site{h, t, ctx, bin, peer}
	if conf != "" {
		s.write(config.Path, 0o644, conf)
	}
	return s
}

func (s *site) in(t *testing.T) *site {
	c := *s
	c.t = t
	return &c
}

func (s *site) write(path string, mode os.FileMode, text string) {
	s.t.Helper()
	require.NoError(s.t, s.WriteFile(s.ctx, path, mode, []byte(text)))
}

// up installs the hook and starts libvirtd.
func (s *site) up() {
	s.t.Helper()
	s.installHook(hookFile, 0o755)
	require.NoError(s.t, s.StartLibvirtd(s.ctx))
}

func (s *site) installHook(path string, mode os.FileMode) {
	s.t.Helper()
	require.NoError(s.t, s.CopyFile(s.ctx, path, mode, filepath.Join(s.bin, "qemu")))
}

// cli runs the command line inside.
func (s *site) cli(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	var out, errs strings.Builder
	cmd := s.Command(s.ctx, filepath.Join(s.bin, "libvirt-direct"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(s.t, err, &exit)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ok runs the command line, which must succeed.
func (s *site) ok(args ...string) string {
	s.t.Helper()
	stdout, stderr, code := s.cli(args...)
	require.Zero(s.t, code, "%q: %s%s", args, stdout, stderr)
	require.Empty(s.t, stderr)
	return stdout
}

// fails runs the command line, which must say why it fails, in one line.
func (s *site) fails(args ...string) string {
	s.t.Helper()
	stdout, stderr, code := s.cli(args...)
	require.Equal(s.t, exitFault, code, "%q: %s%s", args, stdout, stderr)
	require.Equal(s.t, 1, strings.Count(stderr, "\n"), stderr)
	return stderr
}

func (s *site) run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.Run(s.ctx, name, args...)
	require.NoError(s.t, err)
	return out
}

func (s *site) virsh(args ...string) string {
	s.t.Helper()
	out, err := s.Virsh(s.ctx, args...)
	require.NoError(s.t, err)
	return out
}

// define defines a domain for the time of the test.
func (s *site) define(d host.Domain) {
	s.t.Helper()
	require.NoError(s.t, s.Define(s.ctx, d.XML()))
	s.t.Cleanup(func() {
		s.Virsh(s.ctx, "destroy", "--domain", d.Name) // it may not run
		s.Virsh(s.ctx, "undefine", "--domain", d.Name)
	})
}

// inactive is a domain's definition, with its secrets.
func (s *site) inactive(name string) string {
	s.t.Helper()
	return s.virsh("dumpxml", "--inactive", "--security-info", "--domain", name)
}

func (s *site) snapshot() host.Snapshot {
	s.t.Helper()
	snapshot, err := s.Snapshot(s.ctx)
	require.NoError(s.t, err)
	return snapshot
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
