//go:build integration || vm

package integration

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

// uuid is a domain's where a test must know it.
const uuid = "11111111-2222-4333-8444-555555555555"

const hookPath = "/etc/libvirt/hooks/qemu"

// A fixture is a libvirt host with the hook installed.
type fixture struct{ *hosttest.Fixture }

// newFixture makes a host whose libvirtd does not run yet. conf is its config.toml,
// none where empty.
func newFixture(ctx context.Context, t *testing.T, name, conf string) *fixture {
	t.Helper()
	h := &fixture{hosttest.NewFixture(ctx, t, host.Options{Name: name, ListenTCP: true})}
	require.NoError(t, h.InstallHook(ctx, program(t, "qemu-hook")))
	if conf != "" {
		h.Configure(conf)
	}
	return h
}

// in is the same host for a subtest.
func (h *fixture) in(t *testing.T) *fixture { return &fixture{h.In(t)} }

func (h *fixture) start(name string) {
	h.T.Helper()
	h.MustVirsh("start", "--domain", name)
}

// rewrite defines a domain after `libvirt-direct rewrite`.
func (h *fixture) rewrite(d host.Domain) {
	h.T.Helper()
	h.MustDefineXML(d.Name, h.MustPipe(d.XML(), program(h.T, "libvirt-direct"), "rewrite"))
}

// gc runs `libvirt-direct gc`.
func (h *fixture) gc() string {
	h.T.Helper()
	return h.MustRun(program(h.T, "libvirt-direct"), "gc")
}

// stop destroys a domain and waits until its release hook has run.
func (h *fixture) stop(name string) {
	h.T.Helper()
	h.MustVirsh("destroy", "--domain", name)
	require.NoError(h.T, h.WaitState(h.Ctx, name, libvirt.DomainShutoff))
}

// macvtaps are the links of that kind.
func (h *fixture) macvtaps() map[string]host.Link {
	found := map[string]host.Link{}
	for name, l := range h.MustSnapshot() {
		if l["kind"] == "macvtap" {
			found[name] = l
		}
	}
	return found
}

// qemu is the process ID of a running domain, inside.
func (h *fixture) qemu(name string) string {
	h.T.Helper()
	pid, err := os.ReadFile(h.Path("/run/libvirt/qemu/" + name + ".pid"))
	require.NoError(h.T, err)
	return strings.TrimSpace(string(pid))
}

// kill kills processes and waits until they are gone.
func (h *fixture) kill(pids ...string) {
	h.T.Helper()
	_, err := h.Run(h.Ctx, "kill", append([]string{"-KILL"}, pids...)...)
	require.NoError(h.T, err)
	for _, pid := range pids {
		require.Eventually(h.T, func() bool {
			_, err := os.Stat(h.Path("/proc/" + pid))
			return os.IsNotExist(err)
		}, 10*time.Second, 5*time.Millisecond)
	}
}

// tap is the device that libvirt has made for a running domain's first NIC.
func (h *fixture) tap(domain string) string {
	h.T.Helper()
	return strings.Fields(h.MustVirsh("domiflist", domain))[0]
}

func replaceOnce(t *testing.T, s, old, new string) string {
	t.Helper()
	require.Equal(t, 1, strings.Count(s, old), "%s in %s", old, s)
	return strings.Replace(s, old, new, 1)
}
