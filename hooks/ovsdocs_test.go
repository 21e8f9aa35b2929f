package hooks

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/xmlfilter"
)

// The page's example is a configuration under which its domain starts, and its lines are
// those that are said.
func TestOVSPageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../docs/openvswitch.md")
	require.NoError(t, err)
	block := func(kind string) string {
		m := regexp.MustCompile("(?s)```" + kind + "\n(.*?)```").FindSubmatch(page)
		require.NotNil(t, m)
		return string(m[1])
	}
	cfg := block("toml")
	parsed, err := config.Parse("page", []byte(cfg))
	require.NoError(t, err)
	require.Empty(t, parsed.Faults())
	w := newWorld(t, cfg, "ovsbr0", "br-int")
	w.withSwitch("ovsbr0")
	w.ovs.ByName = map[string]ovs.Port{"vnet0": {Name: "vnet0"}, "vnet1": {Name: "vnet1"}, "vnet2": {Name: "vnet2"}}
	w.ovs.Others = []string{"ids0"}
	integration := regexp.MustCompile("ovsbr0").ReplaceAllString(onSwitch(mac3, "<target dev='vnet2'/>"), "br-int")
	doc := "<domain><name>g</name><uuid>" + uuidA + "</uuid>" + block("xml") + "<devices>" +
		onSwitch(mac1, "<target dev='vnet0'/>") + onSwitch(mac2, "<target dev='vnet1'/>") + integration + "</devices></domain>"
	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(t, err)
	require.Empty(t, d.Stray)
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	require.True(t, w.ovs.ByName["vnet0"].Protected)
	require.Equal(t, 200_000_000, w.ovs.ByName["vnet0"].QoS.MaxRate)
	require.Equal(t, "native-untagged", w.ovs.ByName["vnet1"].VLAN.Mode)
	require.Equal(t, "web-1-eth0", w.ovs.ByName["vnet2"].IDs["iface-id"])
	require.Equal(t, []string{"vnet2"}, w.ovs.Waited)

	said := ""
	for _, err := range []error{ovs.ErrUnreachable, ovs.ErrSwitch, ovs.ErrInterface, ovs.ErrNoBridge, ovs.ErrTaken, ovs.ErrNotInstalled} {
		said += err.Error() + "\n"
	}
	_, err = w.run(step.Prepare, domain(uuidB, "", onSwitch(mac1)))
	said += err.Error()
	lines := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ").FindAllSubmatch(page, -1)
	require.NotEmpty(t, lines)
	for _, m := range lines {
		require.Contains(t, said, string(m[1]))
	}
}
