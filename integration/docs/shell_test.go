//go:build integration || vm

package docs

import (
	"bufio"
	"context"
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

// A shell is where a reader types.
type shell struct {
	*site
	name  string
	stdin *os.File
	done  *bufio.Reader
	count int
}

// newShell starts a shell, of root or, behind a command such as setpriv, of another.
func (s *site) newShell(name string, as ...string) *shell {
	s.t.Helper()
	home := "/run/docs/home-" + name
	s.run("install", "-d", "-m", "777", home, home+"/run")
	argv := append(as, "env", "HOME="+home, "XDG_RUNTIME_DIR="+home+"/run", "PATH="+bin+":/usr/sbin:/usr/bin:/sbin:/bin", "bash", "--noprofile", "--norc", "-e")
	cmd := s.Command(s.ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	theirs, ours, err := os.Pipe()
	require.NoError(s.t, err)
	answer, theirAnswer, err := os.Pipe()
	require.NoError(s.t, err)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirAnswer, s.t.Output()
	require.NoError(s.t, cmd.Start())
	theirs.Close()
	theirAnswer.Close()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	s.t.Cleanup(func() {
		ours.Close()
		_ = cmd.Process.Kill()
		<-ended
		answer.Close()
	})
	sh := &shell{s, name, ours, bufio.NewReader(answer), 0}
	sh.send("cd " + home)
	return sh
}

// send has a line read by the shell, and waits until it is done; false is its end.
func (sh *shell) send(line string) bool {
	_, err := fmt.Fprintf(sh.stdin, "%s\necho\n", line)
	if err != nil {
		return false
	}
	_, err = sh.done.ReadString('\n')
	return err == nil
}

// substitute is for what this machine has not: KVM.
var substitute = strings.NewReplacer("<domain type='kvm'>", "<domain type='qemu'>", "-accel kvm", "-accel tcg")

// typed types a block and returns what it prints.
func (sh *shell) typed(b block) (output string, ok bool) {
	sh.t.Helper()
	sh.count++
	file := fmt.Sprintf("/run/docs/home-%s/.%d", sh.name, sh.count)
	require.NoError(sh.t, sh.WriteFile(sh.ctx, file+".sh", 0o644, []byte(substitute.Replace(b.text))))
	run := fmt.Sprintf(". %s.sh >%[1]s.out 2>&1 </dev/null", file)
	switch {
	case b.says("fails"):
		run = "if ( " + run + " ); then exit 1; fi"
	case b.says("background"):
		run = ": >" + file + ".out; ( " + run + " ) &"
	}
	ok = sh.send(run)
	out, err := os.ReadFile(sh.Path(file + ".out"))
	require.NoError(sh.t, err)
	return string(out), ok
}

// follow types a page's blocks. A block belongs to the shell that one of its words
// names, or else to the first one. After each block then is called.
func follow(t *testing.T, page string, then func(b block, output string), shells ...*shell) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, page))
	require.NoError(t, err)
	all := blocks(string(text))
	require.NotEmpty(t, all)
	for _, b := range all {
		sh := shells[0]
		for _, other := range shells {
			if b.says(other.name) {
				sh = other
			}
		}
		begin := time.Now()
		out, ok := sh.typed(b)
		t.Logf("%s:%d (%s, %v)\n%s%s", page, b.line, sh.name, time.Since(begin).Round(time.Millisecond), b.text, out)
		require.True(t, ok, "it is to succeed, or to fail where the page says so")
		if b.output != nil && !shown(*b.output, out) {
			t.Fatalf("%s:%d shows\n%s", page, b.line, *b.output)
		}
		if then != nil {
			then(b, out)
		}
	}
}
