//go:build integration

package realhost_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/hooktest/realhost"
	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

func TestSwitch(t *testing.T) {
	hosttest.Require(t, "ovsdb-server", "ovs-vswitchd", "ovs-vsctl")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	peer := hosttest.NewPeer(ctx, t, host.Options{Name: "ovs"})
	o, err := peer.StartOVS(ctx)
	require.NoError(t, err)
	hooktest.SwitchContract().Run(t, func(t *testing.T) hooktest.SwitchHost { return realhost.NewSwitch(ctx, t, peer, o) })
}
