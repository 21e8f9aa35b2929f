// Command qemu is libvirt's hook program /etc/libvirt/hooks/qemu: libvirt runs it at
// every step in a domain's life, with the domain's XML on standard input
// (https://libvirt.org/hooks.html). It needs no arguments from anybody else.
//
// Under the name /etc/libvirt/hooks/network it is libvirt's hook for networks.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/logging"
	"libvirt-direct/internal/version"
)

func main() {
	notes := &bytes.Buffer{}
	h := &hooks.Hook{
		Config:     func() (*config.Config, error) { return config.Load(config.Path) },
		Kernel:     openKernel,
		Station:    hooks.OpenStation,
		OVS:        hooks.OpenSwitch(config.Path),
		Journal:    journal.Existing(journal.DefaultDir),
		Libvirt:    hooks.LibvirtFolder(hooks.LibvirtDir),
		Log:        logging.New("libvirt-direct", notes),
		Privileged: os.Geteuid() == 0,
	}
	p := process{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		// Where there is neither journal nor syslog nothing is to be shown twice.
		log:   logging.New("libvirt-direct", io.Discard),
		notes: notes,
	}
	os.Exit(p.run(os.Args, h))
}

// process is what the program has from libvirt, and the log for what it prints as well.
type process struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	log            *slog.Logger
	notes          *bytes.Buffer // what no log has taken
}

// run does one call and returns the exit status.
func (p process) run(args []string, h *hooks.Hook) int {
	if hooks.LeftOver(args[0]) {
		return 0
	}
	if len(args) < 3 { // a person; libvirt gives four, and the first may be "--help"
		fmt.Fprintf(p.stderr, "libvirt-direct hook %s: run by libvirt as /etc/libvirt/hooks/qemu DOMAIN OPERATION SUB-OPERATION EXTRA; see `libvirt-direct --help`\n", version.Version)
		if len(args) == 2 && (args[1] == "--help" || args[1] == "--version") {
			return 0
		}
		return 2
	}
	err := p.call(args, h)
	if err == nil {
		// Only now: libvirt shows all that a hook that fails has written there, and that is
		// to be one line.
		if p.notes != nil {
			_, _ = p.notes.WriteTo(p.stderr)
		}
		return 0
	}
	// libvirt shows this line to whoever started the domain.
	line := args[2] + ": " + hooks.OneLine(err)
	fmt.Fprintln(p.stderr, "libvirt-direct: "+line)
	var bug *bugError
	if errors.As(err, &bug) {
		line += "\n" + bug.stack
	}
	p.log.Error(line, "domain", args[1], "op", args[2])
	if bug != nil && !mayFail(step.Op(args[2])) {
		return 0
	}
	return 1
}

// call does one call. A panic is an error that is a *bugError.
func (p process) call(args []string, h *hooks.Hook) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = newBugError(v)
		}
	}()
	if hooks.ForNetworks(args[0]) {
		return h.RunNetwork(context.Background(), hooks.NetworkCall{Network: args[1], Op: step.Op(args[2]), Stdin: p.stdin})
	}
	return h.Run(context.Background(), hooks.Call{Domain: args[1], Op: step.Op(args[2]), Stdin: p.stdin, Stdout: p.stdout})
}

func openKernel() (step.Kernel, func(), error) {
	c, err := link.Open()
	if err != nil {
		return nil, nil, err
	}
	return c, c.Close, nil
}
