package tapname

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAbandoned(t *testing.T) {
	const index = MinIndex | 0x1234
	single := Device{Index: index, Name: "tap40001234", Kind: "tun", Persist: true}
	multi := single
	multi.MultiQueue, multi.Carrier = true, true // numbers count there
	require.True(t, single.Abandoned())
	require.True(t, multi.Abandoned())
	for name, change := range map[string]func(*Device){
		"held":             func(d *Device) { d.Carrier, d.Queues = true, 1 },
		"not persistent":   func(d *Device) { d.Persist = false },
		"another kind":     func(d *Device) { d.Kind = "veth" },
		"another name":     func(d *Device) { d.Name = "tap0" },
		"a name not its":   func(d *Device) { d.Name = "tap40001235" },
		"the kernel's":     func(d *Device) { d.Index, d.Name = 0x1234, "tap1234" },
		"capital letters":  func(d *Device) { d.Index, d.Name = MinIndex|0xab, "tap400000AB" },
		"of ip tuntap add": func(d *Device) { d.Index, d.Name = 7, "tap7" },
	} {
		for _, d := range []Device{single, multi} {
			change(&d)
			require.False(t, d.Abandoned(), name)
		}
	}
	multi.Disabled = 1
	require.False(t, multi.Abandoned(), "a queue that is only detached is held")
}
