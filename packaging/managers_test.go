package packaging

import (
	"math"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/helper/devgroup"
	"libvirt-direct/helper/tapname"
)

// udev knows devices by the group and the names that the programs give them.
func TestRulesKnowTheDevices(t *testing.T) {
	text, err := os.ReadFile("managers/udev.rules")
	require.NoError(t, err)
	require.Contains(t, string(text), `ATTR{netdev_group}=="`+strconv.Itoa(devgroup.Group)+`"`)
	patterns := regexp.MustCompile(`KERNEL=="([^"]+)"`).FindAllStringSubmatch(string(text), -1)
	known := func(name string) bool {
		return slices.ContainsFunc(patterns, func(p []string) bool {
			ok, err := path.Match(p[1], name)
			require.NoError(t, err)
			return ok
		})
	}
	for _, name := range []string{"ldt0123456789", tapname.Name(tapname.MinIndex), tapname.Name(math.MaxInt32)} {
		require.True(t, known(name), name)
	}
	for _, name := range []string{"tap0", "vnet0", tapname.Name(tapname.MinIndex - 1)} {
		require.False(t, known(name), name)
	}
}
