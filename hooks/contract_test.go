package hooks

import (
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
)

// What the hook asks of the host, hooktest's contracts hold its fakes to: a method without
// a row is one whose fake can say anything.
func TestEachMethodHasARow(t *testing.T) {
	for _, c := range []struct {
		of   reflect.Type
		rows []string
	}{
		{reflect.TypeFor[step.Kernel](), slices.Concat(hooktest.KernelContract().Methods(), hooktest.VLANContract().Methods(),
			hooktest.VFContract().Methods(), hooktest.PortContract().Methods())},
		{reflect.TypeFor[step.Switch](), hooktest.SwitchContract().Methods()},
		{reflect.TypeFor[step.Station](), hooktest.StationContract().Methods()},
	} {
		var methods []string
		for i := range c.of.NumMethod() {
			methods = append(methods, c.of.Method(i).Name)
		}
		for _, m := range methods {
			require.Contains(t, c.rows, m, "%v has no row", c.of)
		}
		for _, m := range c.rows {
			require.Contains(t, methods, m, "a row about what %v does not have", c.of)
		}
	}
}
