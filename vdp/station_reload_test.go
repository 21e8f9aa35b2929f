package vdp_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
)

// A switch that has reloaded shows so by all that it no longer has from us, whatever we ask for.
func TestReloadShowsWithoutReflectiveRelay(t *testing.T) {
	for name, mod := range map[string]func(c *vdp.Config){
		"nothing asked": func(c *vdp.Config) { c.EVB.ReflectiveRelay = false },
		"group ids":     func(c *vdp.Config) { c.EVB = vdp.EVBConfig{GroupIDs: true} },
		"both":          func(c *vdp.Config) { c.EVB.GroupIDs = true },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, vdp.Edition2012, mod)
			s.br.EVB = vdp.EVB{Retries: 3, RTE: 8, RWD: 20, RKA: 20}
			s.up()
			s.associate(testVSI(1))
			s.run(5 * time.Second)
			require.Equal(t, 1, s.br.Len())
			s.br.Restart()
			s.run(3 * time.Second)
			require.Equal(t, 1, s.br.Len())
		})
	}
}
