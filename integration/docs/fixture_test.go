//go:build integration

package docs_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/docs"
	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

func TestMain(m *testing.M) { hosttest.Main(m) }

// A fixture is a libvirt host on which all of libvirt-direct is installed.
type fixture struct{ *hosttest.Fixture }

const (
	bin    = "/run/docs/bin" // the programs and what stands in for others
	helper = "/usr/libexec/qemu-direct-helper"
)

// newSite installs the programs of a folder, the helper setuid for the group kvm.
func newFixture(ctx context.Context, t *testing.T, name, programs string) *fixture {
	t.Helper()
	h := &fixture{hosttest.NewFixture(ctx, t, host.Options{Name: name, ListenTCP: true})}
	for program, to := range map[string]string{
		"libvirt-direct": bin + "/libvirt-direct", "vdpd": bin + "/vdpd", "qemu-hook": "/etc/libvirt/hooks/qemu",
	} {
		require.NoError(t, h.CopyFile(ctx, to, 0o755, filepath.Join(programs, program)))
	}
	h.MustRun("mkdir", "-p", filepath.Dir(helper))
	h.MustRun("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", filepath.Dir(helper))
	require.NoError(t, h.CopyFile(ctx, helper, 0o755, filepath.Join(programs, "qemu-direct-helper")))
	h.MustRun("chmod", "4755", helper)
	// No display, whatever starts QEMU from a shell, and no service manager.
	h.script("qemu-system-x86_64", `exec "$(PATH=/usr/bin:/bin command -v qemu-system-x86_64)" "$@" -display none`)
	h.script("systemctl", `case "$*" in
		"reload libvirtd") kill -HUP "$(cat /run/libvirtd.pid)" ;;
		"enable --now vdpd") mkdir -p /run/vdpd; setsid `+bin+`/vdpd >>/var/log/vdpd.log 2>&1 & ;;
		*) echo "systemctl $*: not in this test" >&2; exit 1 ;;
		esac`)
	h.script("journalctl", `case "$*" in
		"-u vdpd") cat /var/log/vdpd.log ;;
		*) echo "journalctl $*: not in this test" >&2; exit 1 ;;
		esac`)
	return h
}

func (h *fixture) script(name, text string) {
	h.T.Helper()
	h.MustWrite(bin+"/"+name, 0o755, "#!/bin/sh\n"+text+"\n")
}

// shell starts a shell, of root or, behind a command such as setpriv, of another.
func (h *fixture) shell(name string, as ...string) *docs.Shell {
	h.T.Helper()
	home := "/run/docs/home-" + name
	h.MustRun("install", "-d", "-m", "777", home, home+"/run")
	argv := append(as, "env", "HOME="+home, "XDG_RUNTIME_DIR="+home+"/run", "PATH="+bin+":/usr/sbin:/usr/bin:/sbin:/bin", "bash")
	cmd := h.Command(h.Ctx, argv[0], argv[1:]...)
	return docs.NewShell(h.T, name, h.Path("/"), home, cmd.Cmd, cmd.Start)
}
