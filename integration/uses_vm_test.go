//go:build vm

package integration

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/link/linktest"
)

// What package link says of a device's users and of a macvtap on it, against a kernel
// that has bonds, teams, Open vSwitch, VLANs and ipvlans.
func TestUsesOfModules(t *testing.T) {
	if !inMachine() {
		t.Skip("this is for the test machine: go test -tags vm -exec testvm")
	}
	out, err := exec.CommandContext(t.Context(), "modprobe", "openvswitch").CombinedOutput()
	require.NoError(t, err, "%s", out)
	host := func(t *testing.T) linktest.Host { return linktest.NewNetns(t) }
	linktest.Run(t, host, linktest.Modules())
}
