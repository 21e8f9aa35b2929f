package cpio_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest/cpio"
)

func realCpio(t *testing.T, dir string, archive []byte, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("cpio"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.Command("cpio", append([]string{"--quiet"}, args...)...)
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(archive)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	require.Empty(t, stderr.String())
	return string(out)
}

func TestRealCpioReadsWhatIsWritten(t *testing.T) {
	files := []cpio.File{
		{Name: "bin", Mode: fs.ModeDir | 0o700},
		{Name: "bin/busybox", Mode: 0o755, Data: bytes.Repeat([]byte{0, 1, 2}, 1001)},
		{Name: "bin/sh", Mode: fs.ModeSymlink | 0o777, Data: []byte("busybox")},
		{Name: "a/b/empty", Mode: 0o600},
		{Name: "a/b/one", Mode: 0o644, Data: []byte("1")},
		{Name: "init", Mode: 0o755, Data: []byte("#!/bin/sh\n")},
	}
	var archive bytes.Buffer
	require.NoError(t, cpio.Write(&archive, files))

	list := realCpio(t, "", archive.Bytes(), "-t")
	require.Equal(t, "bin bin/busybox bin/sh a a/b a/b/empty a/b/one init",
		strings.Join(strings.Fields(list), " "))

	dir := t.TempDir()
	realCpio(t, dir, archive.Bytes(), "-i")
	for _, f := range files {
		info, err := os.Lstat(filepath.Join(dir, f.Name))
		require.NoError(t, err)
		require.Equal(t, f.Mode, info.Mode(), f.Name)
		switch f.Mode.Type() {
		case 0:
			data, err := os.ReadFile(filepath.Join(dir, f.Name))
			require.NoError(t, err)
			require.True(t, bytes.Equal(f.Data, data), f.Name)
		case fs.ModeSymlink:
			target, err := os.Readlink(filepath.Join(dir, f.Name))
			require.NoError(t, err)
			require.Equal(t, string(f.Data), target)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, f := range map[string]cpio.File{
		"absolute":       {Name: "/init"},
		"empty":          {Name: ""},
		"root":           {Name: "."},
		"parent":         {Name: "../x"},
		"trailing slash": {Name: "dev/", Mode: fs.ModeDir},
		"trailer":        {Name: "TRAILER!!!"},
		"NUL":            {Name: "a\x00b"},
		"device":         {Name: "console", Mode: fs.ModeDevice | 0o600},
		"directory data": {Name: "dev", Mode: fs.ModeDir, Data: []byte("x")},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			require.ErrorIs(t, cpio.Write(&out, []cpio.File{{Name: "init"}, f}), cpio.ErrFile)
			require.Zero(t, out.Len())
		})
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestWriteReportsTheWriter(t *testing.T) {
	require.ErrorIs(t, cpio.Write(failingWriter{}, []cpio.File{{Name: "init"}}), os.ErrClosed)
}
