package tap

import (
	"errors"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/rtnl"
	"libvirt-direct/helper/tapname"
)

// maxSweep is how many devices one call removes. Each takes the kernel some 25 ms, and the caller must not pay with his
// deadline for what another user has left; as a call leaves one at most, they become fewer all the same.
const maxSweep = 8

// Sweep removes devices that their holder made persistent and left: those in a bridge, or all of the helper's if master
// is 0, as for Open vSwitch, whose ports have a master of its own. What cannot be removed keeps nothing else from being.
func Sweep(host *rtnl.Conn, master int) error {
	links, err := host.Links(master, "tun")
	if err != nil {
		return err
	}
	var left []int
	for i := range links {
		if abandoned(&links[i]) && len(left) < maxSweep {
			left = append(left, links[i].Index)
		}
	}
	for _, index := range left {
		var m rtnl.Batch
		m.Delete(index)
		if e := host.Do(&m, -1); !errors.Is(e, unix.ENODEV) { // another call was faster
			err = errors.Join(err, e)
		}
	}
	return err
}

func abandoned(l *rtnl.Link) bool {
	return tapname.Device{
		Index: l.Index, Name: l.Name, Kind: l.Kind, Carrier: l.Carrier,
		Persist: l.Tun.Persist, MultiQueue: l.Tun.MultiQueue, Queues: l.Tun.Queues, Disabled: l.Tun.Disabled,
	}.Abandoned()
}
