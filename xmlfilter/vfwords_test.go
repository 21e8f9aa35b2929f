package xmlfilter

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func withWords(attrs string) []byte {
	return []byte("<domain><metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='52:54:00:00:00:01' " + attrs + "/></ld:nics></metadata>" +
		"<numatune><memory mode='strict' nodeset='0-2,^1'/></numatune>" +
		"<devices><interface type='hostdev'><mac address='52:54:00:00:00:01'/>" +
		"<source><address type='pci' domain='0x0000' bus='3' slot='0x10' function='0x2'/></source></interface></devices></domain>")
}

func TestVFWords(t *testing.T) {
	d, err := Parse(withWords("vlan='42' qos='3' proto='802.1AD' trust='on' spoofchk='no' minrate='0' maxrate='100' linkstate='yes' queryrss='off' portprofile='gold'"))
	require.NoError(t, err)
	yes, no, zero, three, hundred := true, false, 0, 3, 100
	n := d.NICs[0]
	require.Equal(t, VFWords{
		QoS: &three, Proto: "802.1ad", Trust: &yes, SpoofChk: &no, MinRate: &zero, MaxRate: &hundred,
		LinkState: "enable", QueryRSS: &no, PortProfile: "gold",
	}, n.Words.VFWords)
	require.Equal(t, "0000:03:10.2", n.Source.PCI)
	require.Equal(t, []int{0, 2}, d.Nodes)
	require.False(t, VFWords{}.Set())
	require.Equal(t, n.Words.VFWords, VFWords{}.Over(n.Words.VFWords))
	require.Equal(t, &no, VFWords{Trust: &no}.Over(n.Words.VFWords).Trust, "no goes before yes")
}

func TestVFWordsRefuse(t *testing.T) {
	for _, attrs := range []string{
		"qos='8'", "qos='x'", "proto='802.1x'", "trust='maybe'", "minrate='-1'", "linkstate='up'",
		fmt.Sprintf("portprofile='%040d'", 0),
	} {
		_, err := Parse(withWords(attrs))
		require.ErrorIs(t, err, ErrWords, attrs)
	}
}
