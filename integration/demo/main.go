package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"libvirt-direct/integration/guest"
	"libvirt-direct/integration/guest/kernel"
	"libvirt-direct/integration/host"
)

// timeLimit is for machines far slower than those on which the demo takes a minute.
const timeLimit = 10 * time.Minute

// options say what to show, and how.
type options struct {
	programs string
	scene    string
	colour   bool
}

func main() {
	host.MaybeInit()
	var o options
	flag.StringVar(&o.programs, "programs", "", "show the qemu-hook and the libvirt-direct of a `directory` rather than build them")
	flag.StringVar(&o.scene, "scene", "all", "what to show: all, or vlan, which is what the demo runs in the test machine")
	flag.BoolVar(&o.colour, "colour", false, "colour the screen even if it is no terminal")
	flag.Parse()
	if flag.NArg() > 0 || o.scene != "all" && o.scene != "vlan" {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, o))
}

func run(ctx context.Context, o options) int {
	interrupted := ctx
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	out := newScreen(os.Stdout)
	out.colour = out.colour || o.colour
	err := show(ctx, out, o)
	switch {
	case interrupted.Err() != nil:
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted; the throwaway host and its guests are gone")
		return 130
	case err != nil && ctx.Err() != nil:
		fmt.Fprintf(os.Stderr, "\ndemo: given up after %v: %v\n", timeLimit, err)
		return 1
	case err != nil:
		fmt.Fprintf(os.Stderr, "\ndemo: not as it should be: %v\n", err)
		return 1
	}
	return 0
}

func show(ctx context.Context, out *screen, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("making network namespaces needs root: sudo make demo")
	}
	dir, err := os.MkdirTemp("", "libvirt-direct-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.scene == "all" {
		out.title("libvirt-direct: guests whose NICs sit directly on the host's network")
		out.say("All of it happens on a throwaway libvirt host, in namespaces of its own. Your own libvirt, " +
			"your network and your files in /etc are not touched, and the host is gone at the end.")
	}
	if o.programs == "" {
		out.say("Building the programs to show …")
		o.programs = filepath.Join(dir, "bin")
		if err := build(ctx, o.programs); err != nil {
			return err
		}
	}
	if o.scene == "vlan" {
		return showVLANAlone(ctx, out, dir, o.programs)
	}
	return showAll(ctx, out, dir, o.programs)
}

func showAll(ctx context.Context, out *screen, dir, programs string) error {
	mine, err := ownFiles()
	if err != nil {
		return err
	}
	cache, err := kernel.CacheDir()
	if err != nil {
		return err
	}
	img, err := guest.Prepare(ctx, cache, os.Stdout)
	if err != nil {
		return err
	}

	out.step("A host, a switch, and a peer on the other end of the wire")
	b, err := newTestbed(ctx, out, dir, programs)
	if err != nil {
		return err
	}
	defer b.close()
	var elsewhere *machine
	if !b.vlans {
		machineCtx, cancel := context.WithCancel(ctx)
		elsewhere, err = startMachine(machineCtx, out, cache, programs)
		if err != nil {
			cancel()
			return err
		}
		defer elsewhere.wait()
		defer cancel()
	}
	if err := b.showGuests(ctx, img); err != nil {
		return err
	}

	out.step("A VLAN: <source dev='" + vlanDev + "'>, which is not there")
	if elsewhere == nil {
		err = b.showVLAN(ctx)
	} else {
		out.say("The running kernel has no VLAN devices (8021q); Debian's has. This scene is played by the same program in an " +
			"emulated machine that sees the files of this one. It began with the demo, and takes about a minute.")
		err = elsewhere.show()
	}
	if err != nil {
		return err
	}
	if err := b.close(); err != nil {
		return err
	}

	out.step("The end")
	left, err := ownFiles()
	if err != nil {
		return err
	}
	if left != mine {
		return fmt.Errorf("files of this machine's own libvirt have changed meanwhile; before:\n%s\nafter:\n%s", mine, left)
	}
	out.ok("the throwaway host is gone, and this machine's own libvirt is as it was")
	out.say("On a host of your own: make install, then say in /etc/libvirt-direct/config.toml what its uplinks are. README.md has the first steps.")
	return nil
}

// build builds the programs that the demo shows into dir.
func build(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, pkg := range map[string]string{"qemu-hook": "hooks/qemu", "libvirt-direct": "cmd/libvirt-direct"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, name), "libvirt-direct/"+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s (from inside the repository): %w: %s", pkg, err, out)
		}
	}
	return nil
}

// ownFiles lists, with their times, the files that a demo that escapes from its
// namespaces would change.
func ownFiles() (string, error) {
	var list strings.Builder
	for _, root := range []string{"/etc/libvirt", "/etc/libvirt-direct", "/var/lib/libvirt-direct", "/run/libvirt-direct"} {
		err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err == nil {
				fmt.Fprintln(&list, path, info.ModTime().UnixNano())
			}
			return err
		})
		if err != nil {
			return "", fmt.Errorf("list the files of this machine's own libvirt: %w", err)
		}
	}
	return list.String(), nil
}
