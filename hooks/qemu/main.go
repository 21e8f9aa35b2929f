// Command qemu is libvirt's hook program /etc/libvirt/hooks/qemu: libvirt runs it at
// every step in a domain's life, with the domain's XML on standard input
// (https://libvirt.org/hooks.html). It needs no arguments from anybody else.
//
// Under the name /etc/libvirt/hooks/network it is libvirt's hook for networks.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/logging"
	"libvirt-direct/internal/state"
	"libvirt-direct/internal/version"
)

func main() { os.Exit(run(os.Args)) }

func run(args []string) int {
	if hooks.LeftOver(args[0]) {
		return 0
	}
	if len(args) < 3 { // a person; libvirt gives four, and the first may be "--help"
		fmt.Fprintf(os.Stderr, "libvirt-direct hook %s: run by libvirt as /etc/libvirt/hooks/qemu DOMAIN OPERATION SUB-OPERATION EXTRA; see `libvirt-direct --help`\n", version.Version)
		if len(args) == 2 && (args[1] == "--help" || args[1] == "--version") {
			return 0
		}
		return 2
	}
	log := logging.New("libvirt-direct", os.Stderr)
	h := &hooks.Hook{
		Config:     func() (*config.Config, error) { return config.Load(config.Path) },
		Kernel:     openKernel,
		Station:    hooks.OpenStation,
		OVS:        hooks.OpenSwitch,
		Journal:    state.Existing(state.DefaultDir),
		Libvirt:    hooks.LibvirtFolder(hooks.LibvirtDir),
		Log:        log,
		Privileged: os.Geteuid() == 0,
	}
	if err := call(h, args); err != nil {
		// libvirt shows this line to whoever started the domain.
		line := "libvirt-direct: " + args[2] + ": " + hooks.OneLine(err)
		fmt.Fprintln(os.Stderr, line)
		// Where there is neither journal nor syslog it is not to be shown twice.
		logging.New("libvirt-direct", io.Discard).Error(strings.TrimPrefix(line, "libvirt-direct: "), "domain", args[1], "op", args[2])
		return 1
	}
	return 0
}

func call(h *hooks.Hook, args []string) error {
	if hooks.ForNetworks(args[0]) {
		return h.RunNetwork(context.Background(), hooks.NetworkCall{Network: args[1], Op: hooks.Op(args[2]), Stdin: os.Stdin})
	}
	return h.Run(context.Background(), hooks.Call{Domain: args[1], Op: hooks.Op(args[2]), Stdin: os.Stdin, Stdout: os.Stdout})
}

func openKernel() (hooks.Kernel, func(), error) {
	c, err := link.Open()
	if err != nil {
		return nil, nil, err
	}
	return c, c.Close, nil
}
