//go:build integration

package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest/kernel"
)

// testvm returns a built testvm, with its own TMPDIR, and the cache filled: time
// limits are for the machine alone.
func testvm(t *testing.T) (program, tmp string) {
	t.Helper()
	if os.Getenv("CI") != "true" {
		if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
			t.Skip(err)
		}
		if os.Geteuid() != 0 {
			t.Skip("only root can read all of the host's files")
		}
	}
	cache, err := kernel.CacheDir()
	require.NoError(t, err)
	_, err = kernel.Fetch(t.Context(), cache, os.Stderr)
	require.NoError(t, err)
	t.Setenv(kernel.CacheVariable, cache)
	tmp = t.TempDir()
	program = filepath.Join(t.TempDir(), "testvm")
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	t.Setenv("TMPDIR", tmp)
	return program, tmp
}

// clean asserts that neither files nor QEMU are left of a machine.
func clean(t *testing.T, tmp string) {
	t.Helper()
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left)
	require.False(t, running(t, tmp))
}

// running tells whether a QEMU runs whose console is below tmp.
func running(t *testing.T, tmp string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, f := range files {
		data, _ := os.ReadFile(f)
		if bytes.HasPrefix(data, []byte("qemu-system")) && bytes.Contains(data, []byte("file:"+tmp)) {
			return true
		}
	}
	return false
}

const inside = `
echo output
echo errors >&2
cat marker
echo changed >marker
echo written >shared/file
touch /etc/testvm-was-here /tmp/testvm-was-here
[ "$CHOSEN" = "a b" ] && [ -z "$SECRET" ] && [ "$LIBVIRT_DIRECT_VM" = 1 ] && echo environment
set -e
modprobe 8021q
[ -z "$(ls /var/lib/libvirt/qemu)" ]
ip netns add far
ip link set eth1 netns far
ip link add link eth0 name eth0.7 type vlan id 7
ip -n far link add link eth1 name eth1.7 type vlan id 7
for l in eth0 eth0.7; do ip link set $l up; done
for l in eth1 eth1.7; do ip -n far link set $l up; done
ip addr add 10.0.0.1/24 dev eth0.7
ip -n far addr add 10.0.0.2/24 dev eth1.7
/bin/busybox ping -c 1 -W 5 10.0.0.2 >/dev/null
echo wire
exit 42
`

// TestCommand boots in a mount namespace whose working directory is a file
// system of its own, as a work tree may be.
func TestCommand(t *testing.T) {
	program, tmp := testvm(t)
	t.Setenv("CHOSEN", "a b")
	t.Setenv("SECRET", "1")
	wd := t.TempDir()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `
		mount -t tmpfs none "$1" && cd "$1" && mkdir shared && echo "own file system" >marker || exit 99
		"$2" -t 60s -e CHOSEN -w shared -- sh -c "$3"
		status=$?
		echo "host: $(cat marker) $(cat shared/file) $(ls)"
		exit $status`, "sh", wd, program, inside)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.ErrorAs(t, err, new(*exec.ExitError))
	require.Equal(t, "output\nerrors\nown file system\nenvironment\nwire\nhost: own file system written marker\nshared\n",
		string(out), stderr.String())
	require.Equal(t, 42, cmd.ProcessState.ExitCode())
	require.Empty(t, stderr.String())
	require.NoFileExists(t, "/etc/testvm-was-here")
	require.NoFileExists(t, "/tmp/testvm-was-here")
	clean(t, tmp)
}

func TestGoTestExec(t *testing.T) {
	program, tmp := testvm(t)
	profile := filepath.Join(t.TempDir(), "cover.out")
	cmd := exec.Command("go", "test", "-count=1", "-v", "-run", "TestWriteRefuses", "-coverprofile", profile,
		"-exec", program+" -nic none -t 60s --", "libvirt-direct/integration/guest/cpio")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: TestWriteRefuses/absolute")
	data, err := os.ReadFile(profile)
	require.NoError(t, err)
	require.Contains(t, string(data), "cpio/cpio.go:")
	require.False(t, running(t, tmp))
}

func TestTimeLimit(t *testing.T) {
	program, tmp := testvm(t)
	start := time.Now()
	cmd := exec.Command(program, "-accel", "tcg", "-t", "2s", "--", "sleep", "100")
	out, err := cmd.CombinedOutput()
	require.ErrorAs(t, err, new(*exec.ExitError))
	require.Equal(t, 125, cmd.ProcessState.ExitCode())
	require.Contains(t, string(out), "time limit")
	require.Less(t, time.Since(start), 5*time.Second)
	clean(t, tmp)
}

func TestKernelPanic(t *testing.T) {
	program, tmp := testvm(t)
	cmd := exec.Command(program, "-accel", "tcg", "-nic", "none", "-t", "60s", "-append", "rdinit=/none", "--", "true")
	out, err := cmd.CombinedOutput()
	require.ErrorAs(t, err, new(*exec.ExitError))
	require.Equal(t, 125, cmd.ProcessState.ExitCode())
	require.Contains(t, string(out), "without an exit status")
	require.Contains(t, string(out), "Kernel panic")
	clean(t, tmp)
}

func TestQEMURefuses(t *testing.T) {
	program, tmp := testvm(t)
	cmd := exec.Command(program, "-accel", "tcg", "-nic", "no-such-card", "--", "true")
	out, err := cmd.CombinedOutput()
	require.ErrorAs(t, err, new(*exec.ExitError))
	require.Equal(t, 125, cmd.ProcessState.ExitCode())
	require.Contains(t, string(out), "no-such-card")
	clean(t, tmp)
}

func TestSignals(t *testing.T) {
	program, tmp := testvm(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			cmd := exec.Command(program, "-accel", "tcg", "-t", "60s", "--", "sleep", "100")
			var stderr strings.Builder
			cmd.Stderr, cmd.Stdout = &stderr, io.Discard
			require.NoError(t, cmd.Start())
			require.Eventually(t, func() bool { return running(t, tmp) }, 10*time.Second, 10*time.Millisecond)
			require.NoError(t, cmd.Process.Signal(signal))
			require.Error(t, cmd.Wait())
			if signal != syscall.SIGKILL {
				require.Equal(t, 125, cmd.ProcessState.ExitCode(), stderr.String())
				clean(t, tmp)
				return
			}
			require.Eventually(t, func() bool { return !running(t, tmp) }, 2*time.Second, 10*time.Millisecond,
				"the kernel ends QEMU with its parent")
		})
	}
}
