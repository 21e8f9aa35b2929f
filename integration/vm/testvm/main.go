// Testvm runs a command in the test machine of package vm:
//
//	testvm [flags] -- command [arguments]
//	go test -exec "$PWD/bin/testvm -nic e1000e --" -tags vm ./integration/...
//
// Its exit status is the command's, or 125 when the machine failed, ran into
// its time limit (-t) or was ended by a signal, and 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"libvirt-direct/integration/guest/kernel"
	"libvirt-direct/integration/vm"
)

// passed are the variables that the command gets without -e.
var passed = [...]string{"CI", "GOCOVERDIR", "GOTRACEBACK", "GOMAXPROCS", "GODEBUG", "LANG", "LONG"}

func main() {
	machine, command, err := parse(os.Args[1:], os.LookupEnv, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		os.Exit(2)
	}
	os.Exit(run(machine, command))
}

func run(machine vm.Machine, command []string) int {
	// go test sends SIGQUIT at its own time limit.
	ctx, stop := signal.NotifyContext(context.Background(),
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	defer stop()
	status, err := machine.Run(ctx, os.Stdout, command...)
	if err == nil {
		return status
	}
	fmt.Fprintln(os.Stderr, "testvm:", err)
	if failed, ok := errors.AsType[*vm.Error](err); ok && failed.Console != "" {
		fmt.Fprintf(os.Stderr, "testvm: its console ends with:\n%s\n", failed.Console)
	}
	return 125
}

type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}

// parse reads the command line. What is wrong with it is written to usage.
func parse(args []string, lookup func(string) (string, bool), usage io.Writer) (vm.Machine, []string, error) {
	m := vm.Default()
	m.Log = usage
	flags := flag.NewFlagSet("testvm", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.Usage = func() {
		fmt.Fprintln(usage, "usage: testvm [flags] -- command [arguments]")
		flags.PrintDefaults()
	}
	flags.StringVar(&m.Cache, "cache", "", "`directory` of the kernel (default $"+kernel.CacheVariable+", or .cache in the repository)")
	flags.StringVar(&m.Program, "program", m.Program, "QEMU's `file`, for a newer one than the machine's")
	flags.IntVar(&m.Memory, "m", m.Memory, "memory in `MiB`")
	flags.IntVar(&m.CPUs, "cpus", m.CPUs, "`number` of processors")
	flags.DurationVar(&m.Timeout, "t", m.Timeout, "time limit")
	flags.StringVar(&m.Accel, "accel", m.Accel, "tcg, kvm, or auto for KVM where it works")
	flags.StringVar(&m.NIC, "nic", m.NIC, "`model` of eth0 and eth1 (virtio-net-pci, e1000e, igb ...), or none")
	flags.BoolVar(&m.IOMMU, "iommu", false, "add an Intel IOMMU")
	flags.StringVar(&m.Console, "console", "", "`file` to write the kernel's console to")
	var env, qemu list
	flags.Var(&env, "e", "pass the environment variable `NAME`, or set NAME=VALUE (repeatable)")
	flags.Var((*list)(&m.Writable), "w", "`directory` that is written through to the host (repeatable)")
	flags.Var(&qemu, "qemu", "further `arguments` of QEMU, separated by blanks (repeatable)")
	flags.Var((*list)(&m.Kernel), "append", "further `parameter` of the kernel (repeatable)")
	if err := flags.Parse(args); err != nil {
		return vm.Machine{}, nil, err
	}
	if err := complete(&m, env, qemu, lookup, flags.Args()); err != nil {
		fmt.Fprintln(usage, "testvm:", err)
		return vm.Machine{}, nil, err
	}
	return m, flags.Args(), nil
}

func complete(m *vm.Machine, env, qemu list, lookup func(string) (string, bool), command []string) error {
	switch {
	case len(command) == 0:
		return errors.New("no command (usage: testvm [flags] -- command [arguments])")
	case m.Memory < 128:
		return fmt.Errorf("-m %d: needs 128 MiB or more", m.Memory)
	case m.CPUs < 1:
		return fmt.Errorf("-cpus %d: needs one or more", m.CPUs)
	case m.Timeout <= 0:
		return fmt.Errorf("-t %v: needs a time", m.Timeout)
	case m.Accel != "auto" && m.Accel != "kvm" && m.Accel != "tcg":
		return fmt.Errorf("-accel %s: neither auto, kvm nor tcg", m.Accel)
	}
	if m.Cache == "" {
		dir, err := kernel.CacheDir()
		if err != nil {
			return err
		}
		m.Cache = dir
	}
	// Tests in the machine boot guests from the same cache.
	m.Env = append(m.Env, kernel.CacheVariable+"="+m.Cache)
	for _, name := range passed {
		if value, ok := lookup(name); ok {
			m.Env = append(m.Env, name+"="+value)
		}
	}
	for _, e := range env {
		name, _, set := strings.Cut(e, "=")
		if name == "" {
			return fmt.Errorf("-e %q: no name", e)
		}
		if set {
			m.Env = append(m.Env, e)
		} else if value, ok := lookup(e); ok {
			m.Env = append(m.Env, e+"="+value)
		}
	}
	for _, q := range qemu {
		m.QEMU = append(m.QEMU, strings.Fields(q)...)
	}
	return nil
}
