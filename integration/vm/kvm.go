package vm

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"libvirt-direct/integration/guest/kernel"
)

// kvmWorks tells whether the kernel boots under KVM. That /dev/kvm can be
// opened says little: nested and emulated ones abort QEMU or hang. So it boots,
// with a time limit, and keeps the answer in the cache until this machine boots.
func kvmWorks(ctx context.Context, program string, k *kernel.Kernel, initrd string) bool {
	dev, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	dev.Close()
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false
	}
	answer := filepath.Join(filepath.Dir(k.Root), "kvm")
	works := append([]byte("works "), bootID...)
	fails := append([]byte("fails "), bootID...)
	if data, err := os.ReadFile(answer); err == nil {
		switch {
		case bytes.Equal(data, works):
			return true
		case bytes.Equal(data, fails):
			return false
		}
	}
	data := fails
	if boots(ctx, program, k, initrd) {
		data = works
	}
	if ctx.Err() == nil {
		// A failure to keep the answer costs the next run a probe.
		_ = os.WriteFile(answer, data, 0o644)
	}
	return bytes.Equal(data, works)
}

func boots(ctx context.Context, program string, k *kernel.Kernel, initrd string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tmp, err := os.MkdirTemp("", "testvm-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(tmp)
	run := runDir(tmp)
	if qemu(ctx, io.Discard, program, base(k, initrd, run.console(), kernelParameters+" testvm.probe", 256, true)...) != nil {
		return false
	}
	console, err := os.ReadFile(run.console())
	return err == nil && bytes.Contains(console, []byte("testvm: alive"))
}
