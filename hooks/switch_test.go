package hooks

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/config"
	"libvirt-direct/internal/ovs"
)

// The configuration goes first, then OVS_RUNDIR, then what packages have. What is said is
// never passed over for another, which could be another switch.
func TestWhereTheSwitchIs(t *testing.T) {
	for name, c := range map[string]struct {
		config, runDir string
		socket, from   string
		err            error
	}{
		"nothing says it":        {"", "", ovs.Default().Socket, "", nil},
		"OVS_RUNDIR":             {"", "/usr/local/var/run/openvswitch", "/usr/local/var/run/openvswitch/db.sock", "OVS_RUNDIR", nil},
		"its slashes":            {"", "/srv//ovs/", "/srv/ovs/db.sock", "OVS_RUNDIR", nil},
		"configuration":          {"[ovs]\nsocket = '/srv/db.sock'", "/elsewhere", "/srv/db.sock", "[ovs] socket", nil},
		"as ovs-vsctl writes it": {"ovs.socket = 'unix:/srv/db.sock'", "", "/srv/db.sock", "[ovs] socket", nil},
		"an empty key":           {"[ovs]\nsocket = ''", "/run/x", "/run/x/db.sock", "OVS_RUNDIR", nil},
		"a relative OVS_RUNDIR":  {"", "run/ovs", "", "", config.ErrSocket},
		"a relative path":        {"[ovs]\nsocket = 'db.sock'", "/run/x", "", "", config.ErrConfig},
		"a TCP connection":       {"[ovs]\nsocket = 'tcp:127.0.0.1:6640'", "/run/x", "", "", config.ErrConfig},
		"a misspelt key":         {"[ovs]\nsockt = '/srv/db.sock'", "/run/x", "", "", config.ErrConfig},
		"a misspelt section":     {"[openvswitch]\nsocket = '/srv/db.sock'", "/run/x", "", "", config.ErrConfig},
		"another faulty section": {"[ovs]\nsocket = '/srv/db.sock'\n[vlan]\ncreate = 'x'", "", "/srv/db.sock", "[ovs] socket", nil},
		"no TOML":                {"[ovs", "/run/x", "/run/x/db.sock", "OVS_RUNDIR", nil},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.toml")
			require.NoError(t, os.WriteFile(file, []byte(c.config), 0o600))
			t.Setenv(ovs.RunDir, c.runDir)
			db := FindSwitch(file)
			place, err := db.Place()
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				_, err = db.List(t.Context())
				require.ErrorIs(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.socket, place.Socket)
			if c.from == "[ovs] socket" {
				c.from += " in " + file
			}
			require.Equal(t, c.from, place.From)
		})
	}
}

// Who is told that the switch is not there learns which socket was tried, and what says so.
func TestASwitchThatIsNotThereIsNamed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	socket := filepath.Join(dir, "none", "db.sock")
	require.NoError(t, os.WriteFile(file, []byte("[ovs]\nsocket = '"+socket+"'"), 0o600))
	_, err := FindSwitch(file).List(t.Context())
	require.ErrorIs(t, err, ovs.ErrUnreachable)
	require.ErrorContains(t, err, socket)
	require.ErrorContains(t, err, "[ovs] socket in "+file)
}
