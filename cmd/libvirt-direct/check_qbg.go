package main

import (
	"errors"

	"libvirt-direct/hooks"
	"libvirt-direct/lldpad"
)

// qbg checks what an uplink's device needs for <virtualport type='802.1Qbg'>. Only who
// wants that has a station running, so that nothing of it is a fault.
func (c *checker) qbg(uplink, device string) {
	about := "802.1Qbg " + uplink
	r, err := lldpad.Check(c.ctx, device)
	switch {
	case err != nil:
		c.say(levelNote, about, "%s", hooks.OneLine(err))
	case errors.Is(r.Err, lldpad.ErrNoDaemon):
	case r.Err == nil:
		c.say(levelOK, about, "lldpad and the switch have agreed on %s, edition %s", device, r.Edition)
	default:
		c.say(levelNote, about, "%v", r.Err)
		for _, command := range r.Fix {
			c.say(levelNote, about, "to mend it: %s", command)
		}
	}
}
