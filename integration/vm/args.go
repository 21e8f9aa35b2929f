package vm

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"libvirt-direct/integration/guest/kernel"
)

// environment returns the whole environment of the command. Where a name
// occurs twice the last counts.
func (m Machine) environment() []string {
	return append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "TERM=dumb", Variable + "=1",
	}, m.Env...)
}

// script returns the shell script that runs command in dir.
func script(dir string, env, command []string) string {
	var b strings.Builder
	b.WriteString("cd " + quote(dir) + " || exit 126\nexec env -i")
	for _, word := range slices.Concat(env, command) {
		b.WriteString(" " + quote(word))
	}
	b.WriteString("\n")
	return b.String()
}

// quote makes a word of the shell's language of any string without NUL.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// writable returns the directories to share with the machine: dirs, and those
// that the testing flags in command and GOCOVERDIR in env name. All are
// absolute, without symbolic links, sorted and different.
func writable(dirs []string, wd string, env, command []string) ([]string, error) {
	// Relative profiles are relative to the output directory, which is wd by default.
	out := wd
	for _, arg := range command {
		if flag, value, ok := testFlag(arg); ok && flag == "outputdir" {
			out = join(wd, value)
		}
	}
	dirs = slices.Clone(dirs)
	for _, arg := range command {
		flag, value, ok := testFlag(arg)
		if !ok {
			continue
		}
		switch flag {
		case "coverprofile", "cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace":
			dirs = append(dirs, filepath.Dir(join(out, value)))
		case "gocoverdir", "outputdir":
			dirs = append(dirs, value)
		}
	}
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "GOCOVERDIR="); ok && value != "" {
			dirs = append(dirs, value)
		}
	}
	for i, dir := range dirs {
		real, err := filepath.EvalSymlinks(join(wd, dir))
		if err != nil {
			return nil, fmt.Errorf("share a directory with the test machine: %w", err)
		}
		dirs[i] = real
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}

func testFlag(arg string) (flag, value string, ok bool) {
	arg, ok = strings.CutPrefix(arg, "-test.")
	if !ok {
		return "", "", false
	}
	flag, value, _ = strings.Cut(arg, "=")
	return flag, value, value != ""
}

func join(wd, name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(wd, name)
}

// macs are the addresses of eth0 and eth1 in the machine.
var macs = [...]string{"52:54:00:76:6d:00", "52:54:00:76:6d:01"}

// The kernel's parameters for a quick and quiet boot, ending with QEMU when it panics. On
// a busy host the emulated timer can look broken to it, so that it is not to check. Both
// emulated processors have been seen to do nothing but interrupts for good: after two
// minutes of that the kernel says where it stands, and ends.
const kernelParameters = "console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off tsc=reliable no_timer_check " +
	"random.trust_cpu=on cryptomgr.notests=1 softlockup_panic=1 watchdog_thresh=60"

func shareTag(i int) string { return "share" + strconv.Itoa(i) }

func (m Machine) args(k *kernel.Kernel, initrd string, run runDir, shares []string, kvm bool) []string {
	params := kernelParameters
	if m.IOMMU {
		params += " intel_iommu=on"
	}
	params = strings.Join(append([]string{params}, m.Kernel...), " ")
	args := append(base(k, initrd, run.console(), params, m.Memory, kvm), "-smp", strconv.Itoa(m.CPUs))
	if m.IOMMU {
		args = append(args, "-device", "intel-iommu,intremap=on,caching-mode=on")
	}
	// Inode numbers of different file systems below / could be the same.
	args = append(args,
		"-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
		"-fsdev", "local,id=testvm,security_model=none,path="+comma(string(run)),
		"-device", "virtio-9p-pci,fsdev=testvm,mount_tag=testvm")
	for i, dir := range shares {
		tag := shareTag(i)
		args = append(args,
			"-fsdev", "local,id="+tag+",security_model=none,multidevs=remap,path="+comma(dir),
			"-device", "virtio-9p-pci,fsdev="+tag+",mount_tag="+tag)
	}
	args = append(args, "-device", "virtio-serial-pci",
		"-chardev", "stdio,id=output,signal=off", "-device", "virtserialport,chardev=output,name=output")
	if m.NIC != "none" {
		for i, mac := range macs {
			// SR-IOV needs a root port above the card.
			n := strconv.Itoa(i)
			args = append(args,
				"-device", "pcie-root-port,id=slot"+n+",chassis="+n+",slot="+n,
				"-netdev", "hubport,id=wire"+n+",hubid=0",
				"-device", m.NIC+",bus=slot"+n+",netdev=wire"+n+",mac="+mac)
		}
	}
	return append(args, m.QEMU...)
}

// base returns what the machine has in common with the probe for KVM.
func base(k *kernel.Kernel, initrd, console, params string, memory int, kvm bool) []string {
	machine, cpu := "q35,accel=tcg", "max"
	if kvm {
		// Interrupt remapping needs the I/O APIC in QEMU.
		machine, cpu = "q35,accel=kvm,kernel-irqchip=split", "host"
	}
	return []string{
		"-machine", machine + ",vmport=off,usb=off,smm=off", "-cpu", cpu, "-m", strconv.Itoa(memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", k.Image, "-initrd", initrd, "-append", params,
		"-serial", "file:" + comma(console),
	}
}

// comma escapes a value in an argument of QEMU that has several.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }
