// Package lldpad is a client of a running lldpad, for 802.1Qbg: it associates
// VSIs over lldpad's rtnetlink port where the port speaks draft 0.2, and over
// its control socket where it speaks the 2012 edition, and finds out why it
// cannot.
//
//	c, err := lldpad.Open(ctx)
//	vsi, err = c.Associate(ctx, "eth0", vsi)
//	if errors.Is(err, lldpad.ErrWaitingForSwitch) { … }
//
// lldpad decides by its configuration which edition a port speaks; Check tells.
// The 2012 edition goes through the control socket because a request over
// rtnetlink that fails there leaves lldpad with a VSI that it neither drops nor
// lets anybody change until it is restarted, and because rtnetlink never shows
// a VID that the switch chose.
//
// lldpad keeps no VSI over its restart or reload (SIGHUP), and says so to nobody:
// see [Events].
package lldpad
