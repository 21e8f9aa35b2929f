package xmlfilter

import (
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/settings"
)

const hookData = `<hookData>
  <network connections='1'>
    <name>pool</name>
    <metadata>
      <ld:network xmlns:ld="urn:libvirt-direct:1" profile="gold" trust="yes">
        <ld:portgroup name="fast" trust="no" maxrate="100"/>
      </ld:network>
    </metadata>
    <forward mode='hostdev' managed='yes'>
      <pf dev='eth0'/>
      <address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x1' connections='1'/>
    </forward>
    <portgroup name='fast'/>
  </network>
  <networkport>
    <uuid>3845caa7-e720-40e7-ba0a-a92e9f97afc4</uuid>
    <owner><name>g</name><uuid>B632F9A1-192A-41CA-8200-22076A3288F3</uuid></owner>
    <group>fast</group>
    <mac address='52:54:00:55:00:01'/>
    <vlan><tag id='42'/></vlan>
    <plug type='hostdev-pci' managed='yes'>
      <driver name='vfio'/>
      <address domain='0x0000' bus='0x03' slot='0x10' function='0x1'/>
    </plug>
  </networkport>
</hookData>`

func TestParseHook(t *testing.T) {
	n, p, err := ParseHook([]byte(hookData))
	require.NoError(t, err)
	require.Equal(t, []string{"eth0"}, n.PFs)
	require.Equal(t, []string{"0000:03:10.1"}, n.PCI)
	require.Empty(t, n.Devices)
	require.True(t, n.Pool())
	require.Equal(t, &NetworkPort{
		Owner: "g", OwnerUUID: "b632f9a1-192a-41ca-8200-22076a3288f3", MAC: "52:54:00:55:00:01", Portgroup: "fast",
		PCI: "0000:03:10.1", VLAN: 42,
	}, p)
	no, yes, rate := false, true, 100
	require.Equal(t, &NetworkSettings{Profile: "gold", VF: settings.VF{VFAttributes: settings.VFAttributes{Trust: &no, MaxRate: &rate}}}, n.Settings(p))
	require.Equal(t, &NetworkSettings{Profile: "gold", VF: settings.VF{VFAttributes: settings.VFAttributes{Trust: &yes}}}, n.Settings(&NetworkPort{Portgroup: "slow"}))

	n, p, err = ParseHook([]byte("<hookData><network><name>nat</name><forward dev='eth0' mode='nat'><interface dev='eth0'/></forward></network></hookData>"))
	require.NoError(t, err)
	require.Nil(t, p)
	require.False(t, n.Pool())
	require.Nil(t, n.Settings(&NetworkPort{}))

	for doc, kind := range map[string]error{
		"": ErrSyntax, "<network/>": ErrNotNetwork, "<hookData/>": ErrNotNetwork,
		"<hookData><network/><networkport><mac address='x'/></networkport></hookData>":                                      ErrNIC,
		"<hookData><network><metadata><network xmlns='urn:libvirt-direct:1' x='y'/></metadata></network></hookData>":        ErrSettings,
		"<hookData><network><metadata><network xmlns='urn:libvirt-direct:1'><a/></network></metadata></network></hookData>": ErrSettings,
	} {
		_, _, err := ParseHook([]byte(doc))
		require.ErrorIs(t, err, kind, doc)
	}
}

func FuzzParseHook(f *testing.F) {
	f.Add([]byte(hookData))
	f.Add([]byte("<hookData><network><forward mode='bridge' dev='a'><interface dev='a'/></forward></network></hookData>"))
	for _, doc := range encodedSeeds(f) {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		n, p, err := ParseHook(doc)
		if err == nil && p != nil {
			n.Settings(p)
		}
		ParseNetworkState(doc)
	})
}
