package main

import (
	"errors"

	"libvirt-direct/hooks"
	"libvirt-direct/lldpad"
	"libvirt-direct/vdp/control"
)

// qbg checks what an uplink's device needs for <virtualport type='802.1Qbg'>. Only who
// wants that has a station running, so that nothing of it is a fault.
func (c *checker) qbg(uplink, device string) {
	about := "802.1Qbg " + uplink
	vdpd := control.NewClient("")
	if _, err := vdpd.Status(c.ctx); err == nil {
		if err := vdpd.Ready(c.ctx, device); err != nil {
			c.say(levelNote, about, "%s", hooks.OneLine(err))
		} else {
			c.say(levelOK, about, "vdpd and the switch have agreed on %s", device)
		}
		return
	}
	r, err := lldpad.Check(c.ctx, device)
	switch {
	case err != nil:
		c.say(levelNote, about, "%s", hooks.OneLine(err))
	case errors.Is(r.Err, lldpad.ErrNoDaemon):
	case r.Err == nil:
		c.say(levelOK, about, "lldpad and the switch have agreed on %s, edition %s", device, r.Edition)
	default:
		c.say(levelNote, about, "%v", r.Err)
		if len(r.Fix) > 0 {
			c.say(levelNote, about, "what follows mends it; reloading lldpad drops all VSIs that it holds")
		}
		for _, command := range r.Fix {
			c.say(levelNote, about, "to mend it: %s", command)
		}
	}
}
