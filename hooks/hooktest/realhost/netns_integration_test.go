//go:build integration

package realhost_test

import (
	"testing"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/hooktest/realhost"
	"libvirt-direct/integration/host/hosttest"
)

func TestMain(m *testing.M) { hosttest.Main(m) }

// The rows that hold for hooktest's fakes, which its own tests run, hold for this kernel,
// for Open vSwitch and for vdpd. What not every kernel has is integration/sriov's.
func TestKernel(t *testing.T) { hooktest.KernelContract().Run(t, realhost.NewNetns) }
