package hosttest

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp/control"
)

// Unmoved is what a forgery might change of an uplink of vdpd's.
func Unmoved(tb testing.TB, u control.Uplink) string {
	tb.Helper()
	if u.Error != nil {
		u.Error = &control.Error{Code: u.Error.Code} // the text says since when
	}
	b, err := json.Marshal(control.Uplink{
		Edition: u.Edition, Error: u.Error, Switch: u.Switch, Others: u.Others, Timers: u.Timers, Established: u.Established, VSIs: u.VSIs,
	})
	require.NoError(tb, err)
	return string(b)
}
