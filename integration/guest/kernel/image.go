package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

var errImage = errors.New("kernel image cannot be decompressed")

// payload returns the compressed kernel in a bzImage, by the header fields of
// the kernel's Documentation/arch/x86/boot.rst (protocol 2.08 and later).
func payload(image []byte) ([]byte, error) {
	const (
		setupSects    = 0x1f1
		magic         = 0x202
		payloadOffset = 0x248
		payloadLength = 0x24c
		headerEnd     = 0x250
	)
	if len(image) < headerEnd || string(image[magic:magic+4]) != "HdrS" {
		return nil, fmt.Errorf("%w: not a bzImage", errImage)
	}
	sects := uint64(image[setupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*512 + uint64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	end := start + uint64(binary.LittleEndian.Uint32(image[payloadLength:]))
	if end > uint64(len(image)) {
		return nil, fmt.Errorf("%w: truncated", errImage)
	}
	return image[start:end], nil
}

// decompressImage writes the ELF image inside the bzImage to the file vmlinux.
func decompressImage(ctx context.Context, bzImage, vmlinux string) error {
	image, err := os.ReadFile(bzImage)
	if err != nil {
		return err
	}
	p, err := payload(image)
	if err != nil {
		return err
	}
	// The build appends the size that the decompressor has to expect, except
	// where gzip's own format ends with it.
	if len(p) < 4 {
		return fmt.Errorf("%w: no payload", errImage)
	}
	size := binary.LittleEndian.Uint32(p[len(p)-4:])
	if !bytes.HasPrefix(p, magicGzip) {
		p = p[:len(p)-4]
	}
	elf, err := decompress(ctx, p)
	if err != nil {
		return err
	}
	if len(elf) != int(size) || !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return fmt.Errorf("%w: %d octets came out, not an ELF file of %d", errImage, len(elf), size)
	}
	return os.WriteFile(vmlinux, elf, 0o644)
}

var (
	magicGzip = []byte("\x1f\x8b")
	magicXZ   = []byte("\xfd7zXZ\x00")
	magicZstd = []byte("\x28\xb5\x2f\xfd")
)

// decompress undoes the compressions that Debian has used for kernels and
// modules; what has none of their magics is returned as it is.
func decompress(ctx context.Context, data []byte) ([]byte, error) {
	var argv []string
	switch {
	case bytes.HasPrefix(data, magicXZ):
		// busybox's xzcat knows no BCJ filter, which kernels are packed with.
		argv = []string{"xz", "-dc"}
	case bytes.HasPrefix(data, magicZstd):
		argv = []string{"zstd", "-dc"}
	case bytes.HasPrefix(data, magicGzip):
		argv = []string{"gzip", "-dc"}
	default:
		return data, nil
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w %s", errImage, argv[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
