package main

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest/kernel"
)

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}
}

func TestParse(t *testing.T) {
	env := lookup(map[string]string{"CI": "true", "SECRET": "1", "LANG": "", "CHOSEN": "a b", "OTHER": "x"})
	m, command, err := parse([]string{
		"-cache", "/c", "-m", "2048", "-t", "5s", "-nic", "igb", "-iommu", "-e", "CHOSEN", "-e", "OTHER=y", "-e", "UNSET",
		"-w", "/a", "-w", "/b", "-qemu", "-device edu", "-append", "x=1", "--", "cmd", "-t", "--", "x",
	}, env, io.Discard)
	require.NoError(t, err)
	require.Equal(t, []string{"cmd", "-t", "--", "x"}, command)
	require.Equal(t, []string{kernel.CacheVariable + "=/c", "CI=true", "LANG=", "CHOSEN=a b", "OTHER=y"}, m.Env)
	require.Equal(t, 2048, m.Memory)
	require.Equal(t, 5*time.Second, m.Timeout)
	require.Equal(t, "igb", m.NIC)
	require.True(t, m.IOMMU)
	require.Equal(t, []string{"/a", "/b"}, m.Writable)
	require.Equal(t, []string{"-device", "edu"}, m.QEMU)
	require.Equal(t, []string{"x=1"}, m.Kernel)

	// go test -exec puts no -- before the binary by itself.
	_, command, err = parse([]string{"-cache", "/c", "/tmp/x.test", "-test.v=true"}, env, io.Discard)
	require.NoError(t, err)
	require.Equal(t, []string{"/tmp/x.test", "-test.v=true"}, command)
}

func TestParseRefuses(t *testing.T) {
	for name, args := range map[string][]string{
		"no command":   {"-m", "256"},
		"unknown flag": {"-x", "cmd"},
		"memory":       {"-m", "64", "cmd"},
		"processors":   {"-cpus", "0", "cmd"},
		"time limit":   {"-t", "0s", "cmd"},
		"accelerator":  {"-accel", "xen", "cmd"},
		"variable":     {"-e", "=x", "cmd"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse(append([]string{"-cache", "/c"}, args...), lookup(nil), io.Discard)
			require.Error(t, err)
		})
	}
}
