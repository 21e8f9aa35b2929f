package kernel

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bzImage is the least of a kernel image that payload accepts.
func bzImage(compressed []byte) []byte {
	const sects = 3
	image := make([]byte, (sects+1)*512, (sects+1)*512+16+len(compressed))
	image[0x1f1] = sects
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(image[0x248:], 16)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(compressed)))
	return append(append(image, make([]byte, 16)...), compressed...)
}

func TestDecompressImage(t *testing.T) {
	elf := append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel"), 1000)...)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(elf)
	require.NoError(t, err)
	require.NoError(t, w.Close())

	dir := t.TempDir()
	from, to := filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "vmlinux")
	require.NoError(t, os.WriteFile(from, bzImage(packed.Bytes()), 0o600))
	require.NoError(t, decompressImage(t.Context(), from, to))
	got, err := os.ReadFile(to)
	require.NoError(t, err)
	require.True(t, bytes.Equal(elf, got))

	for name, image := range map[string][]byte{
		"empty":     nil,
		"no header": make([]byte, 4096),
		"truncated": bzImage(packed.Bytes())[:2100],
		"no ELF":    bzImage([]byte("something else")),
	} {
		require.NoError(t, os.WriteFile(from, image, 0o600))
		require.ErrorIs(t, decompressImage(t.Context(), from, filepath.Join(dir, "bad")), errImage, name)
		require.NoFileExists(t, filepath.Join(dir, "bad"))
	}
}

func FuzzPayload(f *testing.F) {
	f.Add([]byte{})
	f.Add(bzImage([]byte("payload")))
	f.Fuzz(func(t *testing.T, image []byte) {
		p, err := payload(image)
		if err == nil && !bytes.Contains(image, p) {
			t.Fatal("payload is not part of the image")
		}
	})
}

func TestParseDepends(t *testing.T) {
	got, err := parseDepends([]byte("builtin virtio\ninsmod /c d/net/a.ko \ninsmod /c d/b.ko.xz x=1\n"))
	require.NoError(t, err)
	require.Equal(t, []string{"/c d/net/a.ko", "/c d/b.ko.xz"}, got)
	for _, bad := range []string{"install /bin/true", "insmod", "insmod /a/b"} {
		_, err := parseDepends([]byte(bad))
		require.ErrorIs(t, err, ErrModules, bad)
	}
}

func FuzzParseDepends(f *testing.F) {
	f.Add([]byte("builtin virtio\ninsmod /c d/net/a.ko \ninsmod /c d/b.ko.xz x=1\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		paths, _ := parseDepends(out)
		for _, p := range paths {
			if p == "" {
				t.Fatal("empty path")
			}
		}
	})
}

func TestCacheDir(t *testing.T) {
	t.Setenv(CacheVariable, "")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), nil, 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o700))
	t.Chdir(filepath.Join(dir, "a/b"))
	got, err := CacheDir()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, ".cache"), got)

	t.Setenv(CacheVariable, "../c")
	got, err = CacheDir()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "a/c"), got)
}

func TestFetchFindsWhatIsCached(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "linux-6.1.0-9-amd64/boot"), 0o700))
	// What an interrupted download leaves does not count.
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "fetch-1/linux-9"), 0o700))
	var log bytes.Buffer
	k, err := Fetch(t.Context(), dir, &log)
	require.NoError(t, err)
	require.Equal(t, "6.1.0-9-amd64", k.Version)
	require.Equal(t, filepath.Join(k.Root, "boot/vmlinuz-6.1.0-9-amd64"), k.Image)
	require.NoError(t, os.WriteFile(filepath.Join(k.Root, "vmlinux"), nil, 0o600))
	k, err = Fetch(t.Context(), dir, &log)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(k.Root, "vmlinux"), k.Image)
	require.Empty(t, log.String())
}

func TestLockEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	unlock, err := Lock(t.Context(), dir)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = Lock(ctx, dir)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	unlock()
	unlock, err = Lock(t.Context(), dir)
	require.NoError(t, err)
	unlock()
}
