package xmlfilter

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/settings"
)

func withSettings(attrs string) []byte {
	return []byte("<domain><metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='52:54:00:00:00:01' " + attrs + "/></ld:nics></metadata>" +
		"<numatune><memory mode='strict' nodeset='0-2,^1'/></numatune>" +
		"<devices><interface type='hostdev'><mac address='52:54:00:00:00:01'/>" +
		"<source><address type='pci' domain='0x0000' bus='3' slot='0x10' function='0x2'/></source></interface></devices></domain>")
}

func TestVFSettings(t *testing.T) {
	d, err := Parse(withSettings("vlan='42' qos='3' proto='802.1AD' trust='on' spoofchk='no' minrate='0' maxrate='100' linkstate='yes' queryrss='off' portprofile='gold'"))
	require.NoError(t, err)
	yes, no, zero, three, hundred, enable := true, false, 0, 3, 100, "enable"
	n := d.NICs[0]
	require.Equal(t, settings.VF{
		QoS: &three, Proto: "802.1ad", PortProfile: "gold", VFAttributes: settings.VFAttributes{
			Trust: &yes, SpoofChk: &no, MinRate: &zero, MaxRate: &hundred, LinkState: &enable, QueryRSS: &no,
		},
	}, n.Settings.VF)
	require.Equal(t, "0000:03:10.2", n.Source.PCI)
	require.Equal(t, []int{0, 2}, d.Nodes)
}

func TestVFSettingsRefuse(t *testing.T) {
	for _, attrs := range []string{
		"qos='8'", "qos='x'", "proto='802.1x'", "trust='maybe'", "minrate='-1'", "linkstate='up'",
		fmt.Sprintf("portprofile='%040d'", 0),
	} {
		_, err := Parse(withSettings(attrs))
		require.ErrorIs(t, err, ErrSettings, attrs)
	}
}
