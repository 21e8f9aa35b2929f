package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// initArg is argv[0] of the process that becomes PID 1 of a Peer.
const initArg = "libvirt-direct-host-init"

// That process writes one of these to its standard output: the first once the
// namespaces are set up, the second before an error text.
const (
	initReady  = "ready\n"
	initFailed = "error:"
)

// initConfig is the first JSON value on that process's standard input, which
// then stays open for as long as the Peer shall live.
type initConfig struct {
	Name string
	Dir  string
}

// emptyDirs are hidden by an empty tmpfs: what the machine keeps there belongs
// to its own libvirt, and autostarted domains must not start twice.
var emptyDirs = [...]string{
	"/etc/libvirt",
	"/etc/libvirt-direct",
	"/var/lib/libvirt",
	"/var/lib/libvirt-direct",
	"/var/cache/libvirt",
}

// MaybeInit turns the calling process into PID 1 of a [Peer], and never
// returns, if it was started as one. Otherwise it does nothing.
//
// Call it first in main or TestMain of every program that uses this package.
func MaybeInit() {
	if !isInit() {
		return
	}
	// Registered before anything can die here.
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)

	stdin := json.NewDecoder(os.Stdin)
	var cfg initConfig
	err := stdin.Decode(&cfg)
	if err == nil {
		err = setUp(cfg)
	}
	if err != nil {
		fmt.Print(initFailed, err)
		os.Exit(1)
	}
	fmt.Print(initReady)
	os.Stdout.Close()

	go func() {
		io.Copy(io.Discard, os.Stdin) // ends with the creator
		os.Exit(0)
	}()
	for range children {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if pid <= 0 {
				break
			}
		}
	}
}

func isInit() bool { return len(os.Args) > 0 && os.Args[0] == initArg }

// setUp gives the new namespaces their own file systems and a loopback.
func setUp(cfg initConfig) error {
	if err := unix.Sethostname([]byte(cfg.Name)); err != nil {
		return fmt.Errorf("set host name %q: %w", cfg.Name, err)
	}
	// Dir may lie below something that is about to be hidden.
	dir, err := unix.Open(cfg.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	defer unix.Close(dir)

	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// Detached, not only covered: libvirt finds cgroups through /proc/mounts.
	for _, fsType := range []string{"proc", "sys"} {
		at := "/" + fsType
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
	const noX = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("proc", "/proc", "proc", noX, ""); err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", "sysfs", noX, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	if err := mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return err
	}
	if err := overlay("/etc", "/var"); err != nil {
		return err
	}
	for _, d := range emptyDirs {
		if err := mountAt("tmpfs", d, "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	for _, d := range []string{"/run/lock", "/run/libvirt", "/var/lib/libvirt/qemu/nvram", "/var/lib/libvirt/qemu/save"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// libvirtd looks its own name up, and there may be no name server.
	names := fmt.Sprintf("127.0.0.1 localhost\n127.0.1.1 %s\n", cfg.Name)
	if err := os.WriteFile("/etc/hosts", []byte(names), 0o644); err != nil {
		return err
	}
	if err := mountAt(fmt.Sprintf("/proc/self/fd/%d", dir), cfg.Dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	logs := filepath.Join(cfg.Dir, logDir)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	if err := mountAt(logs, "/var/log/libvirt", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return setUpNetwork()
}

func mount(source, target, fsType string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fsType, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s (%s): %w", fsType, target, data, err)
	}
	return nil
}

// mountAt is mount after making the mount point.
func mountAt(source, target, fsType string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	return mount(source, target, fsType, flags, data)
}

// overlay covers each of dirs with a writable layer in memory. overlayfs takes
// no overlay as upper layer, which the machine's root may be in a container.
func overlay(dirs ...string) error {
	const layers = "/run/overlay"
	if err := mountAt("tmpfs", layers, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, d := range dirs {
		upper, work := layers+d+"/upper", layers+d+"/work"
		for _, l := range []string{upper, work} {
			if err := os.MkdirAll(l, 0o755); err != nil {
				return err
			}
		}
		opts := strings.Join([]string{"lowerdir=" + d, "upperdir=" + upper, "workdir=" + work}, ",")
		if err := mount("overlay", d, "overlay", 0, opts); err != nil {
			return err
		}
	}
	if err := unix.Unmount(layers, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", layers, err)
	}
	return os.Remove(layers)
}

// setUpNetwork sets the loopback up and switches IPv6 off, whose duplicate
// address detection and solicitations come unasked between what a test watches.
func setUpNetwork() error {
	for _, scope := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket to set lo up: %w", err)
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
