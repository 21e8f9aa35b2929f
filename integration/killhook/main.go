//go:build integration || vm

// Killhook is the hook program, for tests, with crash points. The file /run/killhook
// chooses one: at "prepare 7" the operation prepare ends with SIGKILL at its seventh crash
// point, and at "prepare 2 vsi" at the second that lies at the 802.1Qbg station.
//
// Crash points lie before and after each change of the kernel and each request to the
// station, and where it looks at the kernel for the first time after one. The journal is
// written between these, so that every state of journal and kernel side by side has its
// point: a step is intended (before its first change), half done (between its changes),
// acted (after the last one), and marked done or dropped (before the next step looks).
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
	k, err := readCrashPoint(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	h := &hooks.Hook{
		OVS:        hooks.OpenSwitch(config.Path),
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

// readCrashPoint reads where to end; an operation for which nothing is said runs through.
func readCrashPoint(op string) (*crashPoint, error) {
	k := &crashPoint{}
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

func (k *crashPoint) open() (step.Kernel, func(), error) {
	c, err := link.Open()
	if err != nil {
		return nil, nil, err
	}
	k.Kernel = c
	return k, c.Close, nil
}

// A crashPoint is a Kernel that ends the program at one of its crash points.
type crashPoint struct {
	step.Kernel
	left      int  // crash points to go; none when not above 0
	atStation bool // only those at the station count
	changed   bool // since it looked
}

func (k *crashPoint) point() {
	if !k.atStation {
		k.tick()
	}
}

func (k *crashPoint) tick() {
	if k.left--; k.left == 0 {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

func (k *crashPoint) look() {
	if k.changed {
		k.changed = false
		k.point()
	}
}

func (k *crashPoint) change(do func() error) error {
	k.point()
	err := do()
	k.changed = true
	k.point()
	return err
}

func (k *crashPoint) ByName(ctx context.Context, name string) (link.Link, error) {
	k.look()
	return k.Kernel.ByName(ctx, name)
}

func (k *crashPoint) ByIndex(ctx context.Context, index int) (link.Link, error) {
	k.look()
	return k.Kernel.ByIndex(ctx, index)
}

func (k *crashPoint) Uppers(ctx context.Context, name string) ([]string, error) {
	k.look()
	return k.Kernel.Uppers(ctx, name)
}

func (k *crashPoint) UppersEverywhere(ctx context.Context, name string) ([]link.Use, error) {
	k.look()
	return k.Kernel.UppersEverywhere(ctx, name)
}

func (k *crashPoint) TapNode(ctx context.Context, l link.Link) (string, error) {
	k.look()
	return k.Kernel.TapNode(ctx, l)
}

func (k *crashPoint) AddVLAN(ctx context.Context, v link.VLAN) error {
	return k.change(func() error { return k.Kernel.AddVLAN(ctx, v) })
}

func (k *crashPoint) AddMacvtap(ctx context.Context, m link.Macvtap) error {
	return k.change(func() error { return k.Kernel.AddMacvtap(ctx, m) })
}

func (k *crashPoint) Delete(ctx context.Context, index int) error {
	return k.change(func() error { return k.Kernel.Delete(ctx, index) })
}

func (k *crashPoint) SetUp(ctx context.Context, index int, up bool) error {
	return k.change(func() error { return k.Kernel.SetUp(ctx, index, up) })
}

func (k *crashPoint) SetAllMulticast(ctx context.Context, index int, on bool) error {
	return k.change(func() error { return k.Kernel.SetAllMulticast(ctx, index, on) })
}

func (k *crashPoint) SetAlias(ctx context.Context, index int, alias string) error {
	return k.change(func() error { return k.Kernel.SetAlias(ctx, index, alias) })
}

func (k *crashPoint) SetMAC(ctx context.Context, index int, mac string) error {
	return k.change(func() error { return k.Kernel.SetMAC(ctx, index, mac) })
}

func (k *crashPoint) SetName(ctx context.Context, index int, name string) error {
	return k.change(func() error { return k.Kernel.SetName(ctx, index, name) })
}

func (k *crashPoint) AddAltName(ctx context.Context, index int, name string) error {
	return k.change(func() error { return k.Kernel.AddAltName(ctx, index, name) })
}

func (k *crashPoint) RemoveAltName(ctx context.Context, index int, name string) error {
	return k.change(func() error { return k.Kernel.RemoveAltName(ctx, index, name) })
}

func (k *crashPoint) DisableIPv6(ctx context.Context, name string) error {
	return k.change(func() error { return k.Kernel.DisableIPv6(ctx, name) })
}
