//go:build integration

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const rounds = 200

// received runs a helper as alice and returns the time from before the fork until the descriptor is here.
func received(b testing.TB, program, name string) (time.Duration, []int) {
	ours, theirs := socketpairAs(b, alice)
	defer unix.Close(ours)
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	require.NoError(b, err)
	defer null.Close()
	attr := &syscall.ProcAttr{
		Env:   []string{"PATH=/usr/bin"},
		Files: []uintptr{null.Fd(), null.Fd(), 2, theirs.Fd()},
		Sys:   &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}},
	}
	buf, oob := make([]byte, 1), make([]byte, 64)
	start := time.Now()
	pid, err := syscall.ForkExec(program, []string{program, "--use-vnet", "--fd=3", "--br=" + name}, attr)
	require.NoError(b, err)
	theirs.Close()
	n, oobn, _, _, err := unix.Recvmsg(ours, buf, oob, unix.MSG_CMSG_CLOEXEC)
	took := time.Since(start)
	require.NoError(b, err)
	var status syscall.WaitStatus
	_, err = syscall.Wait4(pid, &status, 0, nil)
	require.NoError(b, err)
	require.Zero(b, status, "%s %s", program, name)
	if n == 0 && filepath.Base(program) == "idle" {
		return took, nil
	}
	require.Equal(b, 1, n)
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	require.NoError(b, err)
	fds, err := unix.ParseUnixRights(&msgs[0])
	require.NoError(b, err)
	return took, fds
}

// sample takes one measurement and waits until the kernel is done with taking the device down, so that this does not
// weigh on the next one.
func sample(b testing.TB, program, name string) time.Duration {
	took, fds := received(b, program, name)
	for _, fd := range fds {
		unix.Close(fd)
	}
	for len(leftovers(b)) > 0 {
		time.Sleep(time.Millisecond)
	}
	return took
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// idle is a program that ends at once. What it takes is what the Go runtime takes to start, and no helper in Go is faster.
const idle = `package main

import "syscall"

func main() { syscall.Exit(0) }
`

// BenchmarkHelper compares, in one interleaved run, the wall time from fork until the descriptor is received, with
// qemu-bridge-helper's; and both with that of a setuid program in Go that does nothing, until its end. Run it with
// -benchtime 1x.
func BenchmarkHelper(b *testing.B) {
	wire(b, "v0", "v1")
	bridge(b, "br0")
	acl(b, "allow br0\n")
	profiles(b, benchProfiles)
	theirs := filepath.Join(filepath.Dir(helper), "qemu-bridge-helper")
	run(b, "install", "-m", "4755", "/usr/lib/qemu/qemu-bridge-helper", theirs)
	nothing := filepath.Join(filepath.Dir(helper), "idle")
	source := filepath.Join(b.TempDir(), "idle.go")
	require.NoError(b, os.WriteFile(source, []byte(idle), 0o600))
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", nothing, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(b, err, "%s", out)
	run(b, "chmod", "4755", nothing)
	kinds := []struct{ metric, program, name string }{
		{"qemu-bridge-helper", theirs, "br0"}, {"idle", nothing, "br0"},
		{"bridge", helper, "br0"}, {"bridge-profile", helper, "tap"}, {"bridge-isolated", helper, "isolated"},
		{"macvtap", helper, "plain"}, {"macvtap-isolated", helper, "lan"},
	}
	measure := func(n int) map[string]time.Duration {
		times := map[string][]time.Duration{}
		for range n {
			for _, k := range kinds {
				times[k.metric] = append(times[k.metric], sample(b, k.program, k.name))
			}
		}
		out := map[string]time.Duration{}
		for k, d := range times {
			out[k] = median(d)
		}
		return out
	}
	for b.Loop() {
		measure(5)
		few := measure(rounds)
		for _, k := range kinds {
			b.ReportMetric(float64(few[k.metric].Microseconds()), k.metric+"-µs")
			if k.program != theirs {
				b.ReportMetric(float64(few[k.metric])/float64(few["qemu-bridge-helper"]), k.metric+"-ratio")
			}
		}
		for _, k := range kinds[3:] {
			b.ReportMetric(float64(memoryPer(b, k.name)), k.metric+"-KiB")
		}

		links(b, "add", 4000)
		many := measure(50)
		for _, k := range kinds {
			b.ReportMetric(float64(many[k.metric])/float64(few[k.metric]), k.metric+"-4000-links-ratio")
		}
		links(b, "del", 4000)
	}
	b.ReportMetric(0, "ns/op")
}

// links makes or removes n devices of half a veth pair each.
func links(b testing.TB, verb string, n int) {
	var s strings.Builder
	for i := range n / 2 {
		if verb == "add" {
			fmt.Fprintf(&s, "link add ma%d type veth peer name mb%d\n", i, i)
		} else {
			fmt.Fprintf(&s, "link del ma%d\n", i)
		}
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(s.String())
	out, err := cmd.CombinedOutput()
	require.NoError(b, err, "%s", out)
}

// benchProfiles has each kind of device.
const benchProfiles = lanProfile + "[plain]\nkind = macvtap\nlower = v0\ndevice = macvtap\nallow = everyone\n" +
	"[tap]\nkind = bridge\nbridge = br0\nallow = everyone\n" +
	"[isolated]\nkind = bridge\nbridge = br0\ndevice = isolated\nallow = everyone\n"

// memoryPer is what a device takes, in KiB.
func memoryPer(b testing.TB, name string) int {
	const n = 50
	profiles(b, strings.ReplaceAll(benchProfiles, "kind =", "max-per-user = 64\nkind ="))
	before := available(b)
	var held []int
	for range n {
		_, fds := received(b, helper, name)
		held = append(held, fds...)
	}
	used := (before - available(b)) / n
	for _, fd := range held {
		unix.Close(fd)
	}
	for len(leftovers(b)) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	profiles(b, benchProfiles)
	return used
}

// available is MemAvailable of proc_meminfo(5), in KiB.
func available(b testing.TB) int {
	f, err := os.Open("/proc/meminfo")
	require.NoError(b, err)
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib int
		if n, _ := fmt.Sscanf(s.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			return kib
		}
	}
	b.Fatal("no MemAvailable")
	return 0
}
