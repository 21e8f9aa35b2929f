package main

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/policy"
)

// list prints a line for each profile that the caller may use: its name, its kind, how many devices he may have at once,
// and his derived addresses if the profile has any, separated by blanks.
func (s *session) list() {
	c, err := config()
	if err != nil {
		fail(err)
	}
	for i := range c.Profiles {
		p := &c.Profiles[i]
		if ok, err := p.Allows(s.caller, names()); err != nil {
			fail(err)
		} else if !ok {
			continue
		}
		line := p.Name + " " + p.Kind.String() + " " + strconv.Itoa(p.MaxPerUser)
		derive, err := s.deriver(p)
		if err != nil {
			fail(err)
		}
		if derive != nil {
			macs, err := p.MACs(nil, ether.MAC{}, derive)
			if err != nil && !errors.Is(err, policy.ErrMACNeeded) {
				fail(err)
			}
			for _, m := range macs {
				if m.Slot >= 0 {
					line += " " + m.MAC.String()
				}
			}
		}
		if _, err := unix.Write(1, []byte(line+"\n")); err != nil {
			fail(err)
		}
	}
}
