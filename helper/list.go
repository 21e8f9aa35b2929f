package main

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/policy"
	"libvirt-direct/helper/internal/privilege"
)

// list prints a line for each profile that the caller may use: its name, its kind, how many devices he may have at once,
// and his derived addresses if the profile has any, separated by blanks.
func (s *session) list() {
	var text string
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
		text += line + "\n"
	}
	if err := privilege.Drop(); err != nil {
		fail(err)
	}
	for b := []byte(text); len(b) > 0; {
		n, err := unix.Write(1, b) // for as long as the reader takes, or the deadline lets
		if err != nil && err != unix.EINTR {
			fail(err)
		}
		b = b[max(n, 0):]
	}
}
