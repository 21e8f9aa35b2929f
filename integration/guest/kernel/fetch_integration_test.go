//go:build integration

package kernel_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest/kernel"
)

// The download itself is what the first run in a fresh clone does.
func TestModulesOfTheCachedKernel(t *testing.T) {
	dir, err := kernel.CacheDir()
	require.NoError(t, err)
	k, err := kernel.Fetch(t.Context(), dir, os.Stderr)
	require.NoError(t, err)
	require.DirExists(t, k.ModulesDir+"/"+k.Version)
	require.FileExists(t, k.Image)

	files, err := k.ModuleFiles(t.Context(), "mod", "8021q", "virtio_net", "garp")
	require.NoError(t, err)
	at := make(map[string]int)
	for i, f := range files {
		_, module, ok := strings.Cut(f.Name, "-")
		require.True(t, ok, f.Name)
		require.NotContains(t, at, module)
		require.Equal(t, "\x7fELF", string(f.Data[:4]), f.Name)
		at[module] = i
		if i > 0 {
			require.Less(t, files[i-1].Name, f.Name)
		}
	}
	require.Less(t, at["garp.ko"], at["8021q.ko"])
	require.Contains(t, at, "virtio_net.ko")

	_, err = k.ModuleFiles(t.Context(), "mod", "no_such_module")
	require.ErrorContains(t, err, "no_such_module")
}
