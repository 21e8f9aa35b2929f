// Package vm runs one command in a virtual machine that is this machine with
// another kernel: Debian's own, from the cache of package kernel, with this
// machine's root file system, read-only, below a tmpfs. So all that is installed
// here runs there, as root, on a kernel with all of Debian's modules, and
// nothing that it does is left behind.
//
// Inside, /run, /var/log, /dev/shm and the state of libvirt, Open vSwitch and
// lldpad start empty; /tmp and the rest are the host's, with changes kept in
// memory. File systems mounted below the host's root are seen in their places.
// No daemon runs, not even udev. Two network cards, eth0 and eth1, have their
// drivers loaded and are the two ends of one wire, without a link to the host
// or the world.
package vm

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"libvirt-direct/integration/guest/cpio"
	"libvirt-direct/integration/guest/kernel"
)

var (
	//go:embed initrd.sh
	firstStage []byte
	//go:embed init.sh
	secondStage []byte
)

// ErrTimeout is wrapped by Run's error when the machine's own time limit ended it.
var ErrTimeout = errors.New("time limit of the machine exceeded")

// ErrNoStatus is wrapped by Run's error when the machine ended without the
// command's exit status: QEMU refused to start, or the kernel panicked.
var ErrNoStatus = errors.New("machine ended without an exit status")

// An Error is the failure of the machine, not of the command in it.
type Error struct {
	// Err wraps ErrTimeout, ErrNoStatus or the context's error.
	Err error
	// Console is the end of the kernel's console.
	Console string
}

func (e *Error) Error() string { return "test machine: " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// A Machine says what to boot. The zero value is not usable: see Default.
type Machine struct {
	// Cache is the cache directory of package kernel.
	Cache string
	// Program is QEMU: a path, or a name that is looked up in PATH.
	Program string
	// Memory is in MiB.
	Memory int
	CPUs   int
	// Timeout ends the machine, from before its boot.
	Timeout time.Duration
	// Accel is "tcg", "kvm", or "auto" for KVM where it works.
	Accel string
	// NIC is QEMU's name of the two network cards' model, or "none".
	NIC string
	// IOMMU adds an emulated Intel IOMMU, which VFIO needs.
	IOMMU bool
	// QEMU and Kernel are further arguments of each.
	QEMU, Kernel []string
	// Writable lists directories that the command writes through to the
	// host. Those of go test's profiles are added by themselves.
	Writable []string
	// Env is the command's environment, beside PATH, HOME, TERM and Variable.
	Env []string
	// Console is a file to write the kernel's console to, optional.
	Console string
	// Log gets told of downloads.
	Log io.Writer
}

// Variable is set to 1 in the environment of commands in a machine.
const Variable = "LIBVIRT_DIRECT_VM"

// Default returns the machine that tests run in.
func Default() Machine {
	return Machine{
		Program: "qemu-system-x86_64", Memory: 1024, CPUs: 2, Timeout: 2 * time.Minute,
		Accel: "auto", NIC: "virtio-net-pci", Log: io.Discard,
	}
}

// Run boots the machine, runs the command in it, in this process's working
// directory and with empty input, writes its output (both standard output and
// standard error) to output, and returns its exit status, as a shell has it: 127
// when there is no such command, 128 more than the number of a signal. Run ends
// the machine when ctx ends; it dies with this process in any case. The error
// is an *Error for what befell the machine itself.
func (m Machine) Run(ctx context.Context, output io.Writer, command ...string) (status int, err error) {
	if len(command) == 0 {
		return 0, errors.New("no command to run in the test machine")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.Timeout, ErrTimeout)
	defer cancel()
	k, err := kernel.Fetch(ctx, m.Cache, m.Log)
	if err != nil {
		return 0, err
	}
	initrd, err := initramfs(ctx, k)
	if err != nil {
		return 0, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	shares, err := writable(m.Writable, wd, m.Env, command)
	if err != nil {
		return 0, err
	}
	kvm := m.Accel == "kvm"
	if m.Accel == "auto" {
		kvm = kvmWorks(ctx, m.Program, k, initrd)
	}
	tmp, err := os.MkdirTemp("", "testvm-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	run := runDir(tmp)
	if err := run.fill(k, shares, script(wd, m.environment(), command)); err != nil {
		return 0, err
	}
	err = qemu(ctx, output, m.Program, m.args(k, initrd, run, shares, kvm)...)
	if m.Console != "" {
		err = errors.Join(err, copyFile(m.Console, run.console()))
	}
	if status, ok := run.status(); ok && ctx.Err() == nil {
		return status, err
	}
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
		if errors.Is(err, ErrTimeout) {
			err = fmt.Errorf("%w (%v)", err, m.Timeout)
		}
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrNoStatus, err)
	default:
		err = ErrNoStatus
	}
	return 0, &Error{Err: err, Console: run.tail()}
}

func initramfs(ctx context.Context, k *kernel.Kernel) (string, error) {
	return k.Initramfs("testvm", func(busybox []byte) ([]cpio.File, error) {
		modules, err := k.ModuleFiles(ctx, "modules", "virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")
		if err != nil {
			return nil, err
		}
		return append(modules,
			cpio.File{Name: "init", Mode: 0o755, Data: firstStage},
			cpio.File{Name: "bin/busybox", Mode: 0o755, Data: busybox}), nil
	}, firstStage)
}

// qemu runs QEMU until it ends or ctx does.
func qemu(ctx context.Context, output io.Writer, program string, args ...string) error {
	// The parent death signal is sent when the thread ends that made the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// Not the file itself: QEMU would make it non-blocking for all who share it.
	cmd.Stdout = struct{ io.Writer }{output}
	// At the end of its input QEMU closes the port, and the guest's writes block.
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU (install qemu-system-x86): %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("QEMU: %w %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// A runDir is the directory that a run shares with its machine.
type runDir string

func (d runDir) console() string { return filepath.Join(string(d), "console") }

func (d runDir) fill(k *kernel.Kernel, shares []string, command string) error {
	mounts := "modules " + quote(k.ModulesDir) + "\n"
	for i, dir := range shares {
		mounts += "share " + shareTag(i) + " " + quote(dir) + "\n"
	}
	for name, data := range map[string]string{
		"init": string(secondStage), "mounts": mounts, "command": command, "console": "",
	} {
		if err := os.WriteFile(filepath.Join(string(d), name), []byte(data), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (d runDir) status() (int, bool) {
	data, err := os.ReadFile(filepath.Join(string(d), "status"))
	if err != nil {
		return 0, false
	}
	status, err := strconv.Atoi(strings.TrimSpace(string(data)))
	return status, err == nil
}

func (d runDir) tail() string {
	data, _ := os.ReadFile(d.console())
	return string(data[max(0, len(data)-3000):])
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}
