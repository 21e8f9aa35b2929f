package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
)

func TestAsScript(t *testing.T) {
	for name, want := range map[string][]string{
		"/usr/bin/libvirt-direct":  {"tap0"},
		"/etc/qemu/ifup-fabric":    {"ifup", "--on", "fabric", "tap0"},
		"ifup-br-int":              {"ifup", "--on", "br-int", "tap0"},
		"/etc/qemu/ifdown-fabric":  {"ifdown", "tap0"},
		"/etc/qemu/ifdown":         {"ifdown", "tap0"},
		"/etc/qemu/ifup":           {"tap0"},
		"/opt/ifup-x/bin/whatever": {"tap0"},
	} {
		require.Equal(t, want, asScript([]string{name, "tap0"}), name)
	}
}

func TestIfupUsage(t *testing.T) {
	for _, args := range [][]string{
		{"ifup", "tap0"}, {"ifup", "--on", "x"}, {"ifup", "--on", "x", "a/b"}, {"ifup", "--on", "x", "--vlan", "4095", "t"}, {"ifdown"}, {"ifdown", "a", "b"},
	} {
		_, stderr, code := cli(t, nil, args...)
		require.Equal(t, exitUsage, code, "%v: %s", args, stderr)
	}
}

// What a name means, as far as no device is asked for.
func TestIfupPort(t *testing.T) {
	cfg, err := config.Parse("c", []byte("[profile.loose]\nvlan = 5\n[profile.loose.ovs]\nmtu = 1400\n"))
	require.NoError(t, err)
	var k *link.Conn
	p, err := ifupPort(t.Context(), k, cfg, "ovsbr0", 7)
	require.NoError(t, err)
	require.Equal(t, "ovsbr0", p.Bridge)
	require.Equal(t, 7, *p.VLAN.Tag)
	require.Equal(t, ifupOwner, p.Owner)
	_, err = ifupPort(t.Context(), k, cfg, "loose", 0)
	require.ErrorContains(t, err, `profile "loose" names no uplink`)
}
