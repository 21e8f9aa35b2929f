// Package guest makes a Linux guest for tests: Debian's own kernel with an
// initramfs of busybox and NIC drivers. It needs no disk, no more than 128 MiB
// of memory, and pings its peers about three seconds after power-on, under TCG.
//
// The guest sets up the NICs that its kernel command line names (see Cmdline),
// answers pings, powers off at the ACPI power button, and reports on its first
// serial port, one line per event, each ending with the seconds since boot:
//
//	guest: up 2.31
//	guest: nic 52:54:00:00:00:01 10.0.0.2/24 2.40
//	guest: ping 10.0.0.1 ok 2.50
//	guest: ping 10.0.0.1 lost 4.07
//	guest: gone 52:54:00:00:00:01 5.61
//	guest: poweroff 9.83
//
// A NIC without any address reports "nic MAC none"; "gone" says that it was
// unplugged. Drivers: virtio_net, e1000e, igbvf, and 8021q.
package guest

import (
	"context"
	_ "embed"
	"io"

	"libvirt-direct/integration/guest/cpio"
	"libvirt-direct/integration/guest/kernel"
)

//go:embed init.sh
var initScript []byte

// An Image is what a guest boots from.
type Image struct {
	// Version is the kernel's, "6.1.0-56-amd64".
	Version string
	// KernelPath and InitrdPath are for QEMU's -kernel and -initrd and
	// libvirt's <kernel> and <initrd>.
	KernelPath, InitrdPath string
	// ModulesDir is the /lib/modules of the kernel.
	ModulesDir string
}

// Prepare makes sure that cacheDir holds a kernel, as kernel.Fetch does, and an
// initramfs for it. With a filled cache it takes milliseconds. The package
// busybox-static must be installed.
func Prepare(ctx context.Context, cacheDir string, log io.Writer) (*Image, error) {
	k, err := kernel.Fetch(ctx, cacheDir, log)
	if err != nil {
		return nil, err
	}
	initrd, err := k.Initramfs("guest", func(busybox []byte) ([]cpio.File, error) {
		base, err := k.ModuleFiles(ctx, "modules/base",
			"virtio_pci", "virtio_net", "e1000e", "igbvf", "button", "evdev")
		if err != nil {
			return nil, err
		}
		vlan, err := k.ModuleFiles(ctx, "modules/vlan", "8021q")
		if err != nil {
			return nil, err
		}
		files := []cpio.File{
			{Name: "init", Mode: 0o755, Data: initScript},
			{Name: "bin/busybox", Mode: 0o755, Data: busybox},
		}
		return append(append(files, base...), vlan...), nil
	}, initScript)
	if err != nil {
		return nil, err
	}
	return &Image{Version: k.Version, KernelPath: k.Image, InitrdPath: initrd, ModulesDir: k.ModulesDir}, nil
}
