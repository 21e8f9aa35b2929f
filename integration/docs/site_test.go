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

// A site is a host on which libvirt-direct is installed. libvirtd runs.
type site struct {
	*host.Host
	t   *testing.T
	ctx context.Context
}

const (
	bin    = "/run/docs/bin" // the programs and what stands in for others
	helper = "/usr/libexec/qemu-direct-helper"
)

// newSite installs the programs of a folder, the helper setuid for the group kvm.
func newSite(ctx context.Context, t *testing.T, name, programs string) *site {
	t.Helper()
	s := &site{hosttest.New(ctx, t, host.Options{Name: name, ListenTCP: true}), t, ctx}
	for program, to := range map[string]string{
		"libvirt-direct": bin + "/libvirt-direct", "vdpd": bin + "/vdpd", "qemu-hook": "/etc/libvirt/hooks/qemu",
	} {
		require.NoError(t, s.CopyFile(ctx, to, 0o755, filepath.Join(programs, program)))
	}
	s.run("mkdir", "-p", filepath.Dir(helper))
	s.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", filepath.Dir(helper))
	require.NoError(t, s.CopyFile(ctx, helper, 0o755, filepath.Join(programs, "qemu-direct-helper")))
	s.run("chmod", "4755", helper)
	// No display, whatever starts QEMU from a shell, and no service manager.
	s.script("qemu-system-x86_64", `exec "$(PATH=/usr/bin:/bin command -v qemu-system-x86_64)" "$@" -display none`)
	s.script("systemctl", `case "$*" in
		"reload libvirtd") kill -HUP "$(cat /run/libvirtd.pid)" ;;
		"enable --now vdpd") mkdir -p /run/vdpd; setsid `+bin+`/vdpd >>/var/log/vdpd.log 2>&1 & ;;
		*) echo "systemctl $*: not in this test" >&2; exit 1 ;;
		esac`)
	s.script("journalctl", `case "$*" in
		"-u vdpd") cat /var/log/vdpd.log ;;
		*) echo "journalctl $*: not in this test" >&2; exit 1 ;;
		esac`)
	return s
}

func (s *site) script(name, text string) {
	s.t.Helper()
	require.NoError(s.t, s.WriteFile(s.ctx, bin+"/"+name, 0o755, []byte("#!/bin/sh\n"+text+"\n")))
}

func (s *site) run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.Run(s.ctx, name, args...)
	require.NoError(s.t, err)
	return out
}

// shell starts a shell, of root or, behind a command such as setpriv, of another.
func (s *site) shell(name string, as ...string) *docs.Shell {
	s.t.Helper()
	home := "/run/docs/home-" + name
	s.run("install", "-d", "-m", "777", home, home+"/run")
	argv := append(as, "env", "HOME="+home, "XDG_RUNTIME_DIR="+home+"/run", "PATH="+bin+":/usr/sbin:/usr/bin:/sbin:/bin", "bash")
	cmd := s.Command(s.ctx, argv[0], argv[1:]...)
	return docs.NewShell(s.t, name, s.Path("/"), home, cmd.Cmd, cmd.Start)
}
