package kernel

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"libvirt-direct/integration/guest/cpio"
)

const busyboxPath = "/bin/busybox"

// Initramfs returns the path of a gzip'ed initramfs of the given name in the
// cache that k is in. It is made of the files that build returns, which is given
// the statically linked busybox of this machine, unless it was made before from
// the same kernel, busybox and inputs: whatever else build depends on has to be
// among inputs.
func (k *Kernel) Initramfs(name string, build func(busybox []byte) ([]cpio.File, error), inputs ...[]byte) (string, error) {
	info, err := os.Stat(busyboxPath)
	if err != nil {
		return "", fmt.Errorf("install busybox-static: %w", err)
	}
	hash := sha256.New()
	fmt.Fprintln(hash, k.Version, info.Size(), info.ModTime().UnixNano())
	for _, in := range inputs {
		fmt.Fprintln(hash, len(in))
		hash.Write(in)
	}
	file := filepath.Join(filepath.Dir(k.Root), fmt.Sprintf("%s-%x.cpio.gz", name, hash.Sum(nil)[:6]))
	if _, err := os.Stat(file); err == nil {
		return file, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look for %s: %w", file, err)
	}

	busybox, err := os.ReadFile(busyboxPath)
	if err != nil {
		return "", fmt.Errorf("read busybox: %w", err)
	}
	if err := checkStatic(busybox); err != nil {
		return "", err
	}
	files, err := build(busybox)
	if err != nil {
		return "", err
	}
	var archive bytes.Buffer
	w := gzip.NewWriter(&archive)
	if err := cpio.Write(w, files); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	if err := replaceFile(file, archive.Bytes()); err != nil {
		return "", fmt.Errorf("write the initramfs: %w", err)
	}
	return file, nil
}

// replaceFile writes a file that is, at any time and also when two processes
// write it at once, either complete or not there.
func replaceFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".initramfs-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	// QEMU may run as another user.
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// ErrBusybox is wrapped by the error of Initramfs when the machine's busybox
// cannot run in a guest without libraries.
var ErrBusybox = errors.New("busybox is not statically linked")

func checkStatic(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBusybox, busyboxPath, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%w: install busybox-static in the place of busybox", ErrBusybox)
		}
	}
	return nil
}
