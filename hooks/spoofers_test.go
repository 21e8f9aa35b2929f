package hooks

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// A VF that is not held to its address can forge the switch at the port of its card, below a
// bond too, and explain tells of it where a NIC is associated.
func TestSpoofers(t *testing.T) {
	w := newWorld(t, twoUplinks, "enpb", "lanport")
	w.kernel.AddVFs("enpb", 4)
	of := func(name string) []string {
		t.Helper()
		l, err := w.kernel.ByName(t.Context(), name)
		require.NoError(t, err)
		lines, err := Spoofers(t.Context(), w.kernel, l)
		require.NoError(t, err)
		return lines
	}
	require.Empty(t, of("enpb"), "each is held to its address")

	yes, no := true, false
	w.kernel.Function(0).SpoofChk = &no
	w.kernel.Function(1).SpoofChk, w.kernel.Function(1).Trust = &no, &yes
	w.kernel.Function(2).SpoofChk = nil // the driver does not say
	w.kernel.Function(3).SpoofChk = &no
	want := []string{
		"VFs 0 and 3 of enpb can speak as the switch: spoof check is off",
		"VF 1 of enpb can speak as the switch: spoof check is off, trust is on",
	}
	require.Equal(t, want, of("enpb"))
	require.Empty(t, of("lanport"))
	bond := w.kernel.Add(link.Link{Name: "bond0", Kind: "bond"})
	pf, err := w.kernel.ByName(t.Context(), "enpb")
	require.NoError(t, err)
	w.kernel.Links[pf.Index].Master = bond.Index
	require.Equal(t, want, of("bond0"))
	w.kernel.Links[pf.Index].Master = 0

	explained := func(nic string) string {
		d, err := xmlfilter.Parse([]byte(domain(uuidA, "", nic)))
		require.NoError(t, err)
		host, err := Survey(t.Context(), w.kernel, w.cfg, w.hook.records(), d)
		require.NoError(t, err)
		require.NoError(t, SurveySpoofers(t.Context(), w.kernel, d, w.cfg, &host))
		var out bytes.Buffer
		require.NoError(t, Explain(&out, "", d, w.cfg, host))
		return out.String()
	}
	require.Contains(t, explained(direct(mac1, "enpb.100", "vepa", qbg("11"))), "at the switch's port of enpb:\n  "+want[0]+"\n  "+want[1]+"\n")
	require.NotContains(t, explained(direct(mac1, "enpb.100", "vepa")), "as the switch", "no VSI, nobody to be fooled")
}
