package xmlfilter

import (
	"testing"

	"github.com/stretchr/testify/require"
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
	require.Equal(t, &NetworkWords{Profile: "gold", VFWords: VFWords{Trust: &no, MaxRate: &rate}}, n.Words(p))
	require.Equal(t, &NetworkWords{Profile: "gold", VFWords: VFWords{Trust: &yes}}, n.Words(&NetworkPort{Portgroup: "slow"}))

	n, p, err = ParseHook([]byte("<hookData><network><name>nat</name><forward dev='eth0' mode='nat'><interface dev='eth0'/></forward></network></hookData>"))
	require.NoError(t, err)
	require.Nil(t, p)
	require.False(t, n.Pool())
	require.Nil(t, n.Words(&NetworkPort{}))

	for doc, kind := range map[string]error{
		"": ErrSyntax, "<network/>": ErrNotNetwork, "<hookData/>": ErrNotNetwork,
		"<hookData><network/><networkport><mac address='x'/></networkport></hookData>":                                      ErrNIC,
		"<hookData><network><metadata><network xmlns='urn:libvirt-direct:1' x='y'/></metadata></network></hookData>":        ErrWords,
		"<hookData><network><metadata><network xmlns='urn:libvirt-direct:1'><a/></network></metadata></network></hookData>": ErrWords,
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
			n.Words(p)
		}
		ParseNetworkState(doc)
	})
}

func TestParseVLANs(t *testing.T) {
	ids, err := ParseVLANs("200-202, 7,201,4094")
	require.NoError(t, err)
	require.Equal(t, []int{7, 200, 201, 202, 4094}, ids)
	require.Equal(t, "7,200-202,4094", FormatVLANs(ids))
	for _, bad := range []string{"0", "4095", "5-4", "1,", "a", "1-", "-1", "1-4095", "+1"} {
		_, err := ParseVLANs(bad)
		require.Error(t, err, bad)
	}
}

func FuzzParseVLANs(f *testing.F) {
	f.Add("100,200-299")
	f.Fuzz(func(t *testing.T, s string) {
		ids, err := ParseVLANs(s)
		if err != nil {
			return
		}
		again, err := ParseVLANs(FormatVLANs(ids))
		require.NoError(t, err)
		require.Equal(t, ids, again)
	})
}
