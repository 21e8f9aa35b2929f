package checks

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// requireFindings compares findings by what they begin with.
func requireFindings(t *testing.T, want []Finding, got []Finding) {
	t.Helper()
	require.Len(t, got, len(want), "%v", got)
	for i, w := range want {
		require.Equal(t, w.Level, got[i].Level, got[i])
		require.Equal(t, w.About, got[i].About)
		require.Greater(t, len(got[i].Text)+1, len(w.Text), got[i])
		require.Equal(t, w.Text, got[i].Text[:len(w.Text)])
		require.NotContains(t, got[i].Text, "\n")
		require.NotContains(t, got[i].Text, "%!", "a text and its values do not match")
	}
}

// Run looks at whatever host the test runs on. It finds something, whatever that is.
func TestRun(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	asked := false
	found := Run(t.Context(), &Env{
		Config: none, Libvirt: "qemu:///system", Records: hooks.Records{Journal: journal.Existing(none), Libvirt: hooks.LibvirtFolder(none)},
		Stale: func(context.Context) ([]string, error) { asked = true; return []string{"a", "b"}, nil },
	})
	about := map[string]bool{}
	for _, f := range found {
		about[f.About] = true
		require.Contains(t, []Level{OK, Note, Fault}, f.Level)
		require.NotContains(t, f.Text, "\n")
		require.NotContains(t, f.Text, "%!")
	}
	for _, a := range []string{"hook", "libvirt", "config", "driver", "helper", "leftovers"} {
		require.True(t, about[a], a)
	}
	last := found[len(found)-1]
	require.Equal(t, Finding{OK, "config", "no " + none + ": the defaults hold"}, configuration(t.Context(), &Env{Config: none})[0])
	if asked {
		require.Equal(t, Finding{Note, "leftovers", "2 of guests that are not running: look with libvirt-direct gc --dry-run, remove with gc"}, last)
	} else {
		require.Equal(t, Finding{Note, "leftovers", "not looked for: that needs root"}, last)
	}
}

func TestClaim(t *testing.T) {
	const uuid = "aaaaaaaa-0000-4000-8000-000000000001"
	for _, c := range []struct {
		claim hooks.ClaimStatus
		want  Finding // its Text empty: nothing
	}{
		{hooks.ClaimStatus{Resource: "link/ldt0", UUID: uuid, Name: "vm", Holds: true}, Finding{}},
		{hooks.ClaimStatus{Resource: "link/ldt0", UUID: uuid, Name: "vm", Reserved: true}, Finding{}},
		{hooks.ClaimStatus{UUID: uuid, Error: "bad file"}, Finding{Fault, "claims", "bad file; what it claims nobody else gets; look with libvirt-direct status --claims, and once domain " + uuid + " is gone drop it with gc --forget " + uuid}},
		{hooks.ClaimStatus{Resource: "link/ldt0", UUID: uuid, Name: "vm"}, Finding{Note, "claims", `domain "vm" claims link/ldt0, and so does another: look with libvirt-direct status --claims`}},
		{hooks.ClaimStatus{Resource: "vf/0/3", UUID: uuid, Holds: true, Error: "busy"}, Finding{Note, "claims", `vf/0/3 of domain "` + uuid + `" is not put back yet: busy`}},
	} {
		got, wrong := ofClaim(c.claim)
		require.Equal(t, c.want.Text != "", wrong)
		require.Equal(t, c.want, got)
	}
}

func TestUplinkDevice(t *testing.T) {
	env := &Env{Config: "/c.toml"}
	require.Equal(t, Finding{Fault, "uplink u", "no such device; fix [uplink.u] in /c.toml"}, uplinkDevice(env, "u", link.Link{}, errors.New("no such device")))
	require.Equal(t, Finding{Note, "uplink u", "eth0 is down; it is set up with its first guest"}, uplinkDevice(env, "u", link.Link{Name: "eth0"}, nil))
	require.Equal(t, Finding{OK, "uplink u", "eth0, MTU 9000"}, uplinkDevice(env, "u", link.Link{Name: "eth0", Up: true, Carrier: true, MTU: 9000}, nil))
	requireFindings(t, []Finding{{Note, "uplink u", "eth0 has no carrier"}}, []Finding{uplinkDevice(env, "u", link.Link{Name: "eth0", Up: true}, nil)})
}
