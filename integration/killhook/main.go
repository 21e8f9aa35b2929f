//go:build integration || vm

// Killhook is the hook program, for tests, that dies where it is told to. The file
// /run/killhook says where: "prepare 7" ends the operation prepare with SIGKILL at its
// seventh point, and "prepare 2 vsi" at the second that lies at the 802.1Qbg station.
//
// Points lie before and after each change of the kernel and each request to the
// station, and where it looks at the kernel for the first time after one. The journal is written between these, so that every state of
// journal and kernel side by side has its point: a step is intended (before its first
// change), half done (between its changes), acted (after the last one), and marked
// done or dropped (before the next step looks).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/logging"
)

const file = "/run/killhook"

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: killhook DOMAIN OPERATION")
		os.Exit(2)
	}
	k, err := condemned(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	h := &hooks.Hook{
		OVS:        hooks.OpenSwitch,
		Config:     func() (*config.Config, error) { return config.Load(config.Path) },
		Kernel:     k.open,
		Station:    k.openStation,
		Journal:    journal.Existing(journal.DefaultDir),
		Libvirt:    hooks.LibvirtFolder(hooks.LibvirtDir),
		Log:        logging.New("killhook", io.Discard),
		Privileged: true,
	}
	call := hooks.Call{Domain: os.Args[1], Op: step.Op(os.Args[2]), Stdin: os.Stdin, Stdout: os.Stdout}
	if err := h.Run(context.Background(), call); err != nil {
		fmt.Fprintln(os.Stderr, hooks.OneLine(err))
		os.Exit(1)
	}
}

// condemned reads where to die.
func condemned(op string) (*mortal, error) {
	k := &mortal{}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	words := append(strings.Fields(string(text)), "", "")
	n, nerr := strconv.Atoi(words[1])
	if err := errors.Join(err, nerr); err != nil {
		return nil, fmt.Errorf("%s: %q: %w", file, text, err)
	}
	if words[0] == op {
		k.left, k.atStation = n, words[2] == "vsi"
	}
	return k, nil
}

func (k *mortal) open() (step.Kernel, func(), error) {
	c, err := link.Open()
	if err != nil {
		return nil, nil, err
	}
	k.Kernel = c
	return k, c.Close, nil
}

// mortal is a Kernel with points to die at.
type mortal struct {
	step.Kernel
	left      int  // points to go; none when not above 0
	atStation bool // only those at the station count
	changed   bool // since it looked
}

func (k *mortal) point() {
	if !k.atStation {
		k.tick()
	}
}

func (k *mortal) tick() {
	if k.left--; k.left == 0 {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

func (k *mortal) look() {
	if k.changed {
		k.changed = false
		k.point()
	}
}

func (k *mortal) change(do func() error) error {
	k.point()
	err := do()
	k.changed = true
	k.point()
	return err
}

func (k *mortal) ByName(ctx context.Context, name string) (link.Link, error) {
	k.look()
	return k.Kernel.ByName(ctx, name)
}

func (k *mortal) ByIndex(ctx context.Context, index int) (link.Link, error) {
	k.look()
	return k.Kernel.ByIndex(ctx, index)
}

func (k *mortal) Uppers(ctx context.Context, name string) ([]string, error) {
	k.look()
	return k.Kernel.Uppers(ctx, name)
}

func (k *mortal) UppersEverywhere(ctx context.Context, name string) ([]link.Use, error) {
	k.look()
	return k.Kernel.UppersEverywhere(ctx, name)
}

func (k *mortal) TapNode(ctx context.Context, l link.Link) (string, error) {
	k.look()
	return k.Kernel.TapNode(ctx, l)
}

func (k *mortal) AddVLAN(ctx context.Context, v link.VLAN) error {
	return k.change(func() error { return k.Kernel.AddVLAN(ctx, v) })
}

func (k *mortal) AddMacvtap(ctx context.Context, m link.Macvtap) error {
	return k.change(func() error { return k.Kernel.AddMacvtap(ctx, m) })
}

func (k *mortal) Delete(ctx context.Context, index int) error {
	return k.change(func() error { return k.Kernel.Delete(ctx, index) })
}

func (k *mortal) SetUp(ctx context.Context, index int, up bool) error {
	return k.change(func() error { return k.Kernel.SetUp(ctx, index, up) })
}

func (k *mortal) SetAllMulticast(ctx context.Context, index int, on bool) error {
	return k.change(func() error { return k.Kernel.SetAllMulticast(ctx, index, on) })
}

func (k *mortal) SetAlias(ctx context.Context, index int, alias string) error {
	return k.change(func() error { return k.Kernel.SetAlias(ctx, index, alias) })
}

func (k *mortal) SetMAC(ctx context.Context, index int, mac string) error {
	return k.change(func() error { return k.Kernel.SetMAC(ctx, index, mac) })
}

func (k *mortal) SetName(ctx context.Context, index int, name string) error {
	return k.change(func() error { return k.Kernel.SetName(ctx, index, name) })
}

func (k *mortal) AddAltName(ctx context.Context, index int, name string) error {
	return k.change(func() error { return k.Kernel.AddAltName(ctx, index, name) })
}

func (k *mortal) RemoveAltName(ctx context.Context, index int, name string) error {
	return k.change(func() error { return k.Kernel.RemoveAltName(ctx, index, name) })
}

func (k *mortal) DisableIPv6(ctx context.Context, name string) error {
	return k.change(func() error { return k.Kernel.DisableIPv6(ctx, name) })
}
