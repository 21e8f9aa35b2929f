package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/step"
)

// The hook knows the helper's devices by how their alias begins.
func TestAliasIsWhatTheHookLooksFor(t *testing.T) {
	require.Equal(t, step.HelperAlias, program+": ")
}
