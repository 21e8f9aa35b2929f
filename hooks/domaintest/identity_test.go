package domaintest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/xmlfilter"
)

// team is a domain with two NICs of one MAC, as a team needs them.
func team(nics string, interfaces ...string) []byte {
	metadata := ""
	if nics != "" {
		metadata = "<metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'>" + nics + "</ld:nics></metadata>"
	}
	return []byte("<domain type='kvm'><name>team</name><uuid>aaaaaaaa-0000-4000-8000-00000000000c</uuid>" + metadata +
		"<devices>" + strings.Join(interfaces, "") + "</devices></domain>")
}

func teamNIC(typ, inner string) string {
	return "<interface type='" + typ + "'><mac address='52:54:00:11:22:44'/>" + inner + "</interface>"
}

// Each NIC of a team gets its own device, on its own network.
func TestTeamsOwnTheirDevices(t *testing.T) {
	h := Hosts()[0]
	for name, doc := range map[string][]byte{
		"own, by alias": team("<ld:nic alias='ua-a' own='hook' dev='eth0' /><ld:nic alias='ua-b' own='hook' dev='eth1' />",
			teamNIC("direct", "<source dev='eth0' mode='bridge'/><alias name='ua-a'/>"), teamNIC("direct", "<source dev='eth1' mode='bridge'/><alias name='ua-b'/>")),
		"VLANs, without aliases": team("",
			teamNIC("direct", "<source dev='eth0' mode='bridge'/><vlan><tag id='5'/></vlan>"), teamNIC("direct", "<source dev='eth1' mode='bridge'/><vlan><tag id='5'/></vlan>")),
	} {
		t.Run(name, func(t *testing.T) {
			d, err := xmlfilter.Parse(doc)
			require.NoError(t, err)
			after, err := rewrite(d, h)
			require.NoError(t, err)
			require.NotNil(t, after)
			steps, err := plan.For(step.Prepare, after, h.Config, h.Survey(after))
			require.NoError(t, err)
			lower, made := map[string]string{}, map[string]bool{}
			for _, s := range steps {
				switch k := s.Kind.(type) {
				case *step.Macvtap:
					lower[s.NIC], made[k.Name] = k.Lower, true
				case *step.VLAN:
					lower[s.NIC], made[k.Name] = k.Parent, true
				}
			}
			require.Equal(t, map[string]string{after.NICs[0].ID(): "eth0", after.NICs[1].ID(): "eth1"}, lower)
			require.Len(t, made, 2)
			require.NotEqual(t, after.NICs[0].ID(), after.NICs[1].ID())
		})
	}
	for name, doc := range map[string][]byte{
		"a bridge's port and a function": team("<ld:nic mac='52:54:00:11:22:44' trust='yes' vlan='120'/>",
			teamNIC("bridge", "<source bridge='br0'/><teaming type='persistent'/><alias name='ua-backup0'/>"),
			teamNIC("hostdev", "<source><address type='pci' domain='0' bus='3' slot='16' function='1'/></source><teaming type='transient' persistent='ua-backup0'/>")),
		"two macvtaps": team("<ld:nic mac='52:54:00:11:22:44' vlan='100'/>", teamNIC("direct", "<source dev='eth0'/>"), teamNIC("direct", "<source dev='eth1'/>")),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := xmlfilter.Parse(doc)
			require.ErrorIs(t, err, xmlfilter.ErrSettings)
			require.ErrorContains(t, err, "name it by an alias")
		})
	}
}

// Where <source> and settings say different networks a start does not choose one of them.
func TestTwoNetworksAreRefused(t *testing.T) {
	h := Hosts()[0]
	for name, c := range map[string]struct{ settings, source string }{
		"uplinks":                          {"uplink='san'", "lan"},
		"an uplink and a VLAN's name":      {"uplink='san'", "lan.5"},
		"an uplink and another's also":     {"uplink='san'", "eno1"},
		"an uplink and a VLAN of a device": {"uplink='san'", "eth0.5"},
		"a VLAN of the uplink itself":      {"uplink='lan' vlan='5'", "lan"},
		"a VLAN of another host's name":    {"vlan='5'", "eno1"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := xmlfilter.Parse(team("<ld:nic mac='52:54:00:11:22:44' "+c.settings+"/>", teamNIC("direct", "<source dev='"+c.source+"'/>")))
			require.NoError(t, err)
			_, err = plan.For(step.Prepare, d, h.Config, h.Survey(d))
			require.ErrorIs(t, err, plan.ErrNotRewritten)
			after, err := rewrite(d, h)
			require.NoError(t, err)
			require.NotNil(t, after)
			_, err = started(after, h)
			require.NoError(t, err)
		})
	}
}
