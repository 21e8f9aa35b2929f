package tap

import (
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/tapname"
)

func TestAbandoned(t *testing.T) {
	const index = tapname.MinIndex | 5
	l := rtnl.Link{Index: index, Name: tapname.Name(index), Kind: "tun", Tun: rtnl.Tun{Persist: true}}
	require.True(t, abandoned(&l))
	l.Carrier = true
	require.False(t, abandoned(&l))
	l.Tun.MultiQueue = true
	require.True(t, abandoned(&l))
	l.Tun.Disabled = 1
	require.False(t, abandoned(&l))
}
