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
// These are the traps of lldpad 1.1, and what is done about each. Code and tests that
// have to do with one name it by its number.
//
//  1. A port belongs to the 2012 edition from a second after its appearance, and to
//     the draft only after a reload: ErrNeedsReload.
//  2. enableTx=yes is refused while another EVB TLV is on: the order of Report.Fix.
//  3. Draft: GETLINK forgets what it has reported, and skips the VSI behind that:
//     Client.Query warns, and a VSI must be missing twice.
//  4. Draft: de-associating an unknown VSI leaves an entry for ever: not sent.
//  5. Draft: lldptool's VSIs stay in the state exit: shown by Check.
//  6. 2012 over rtnetlink: a request that timed out leaves a VSI that nobody can
//     change until a restart: the control socket instead.
//  7. 2012 over rtnetlink: old results are shown for new ones, and the caller's own
//     de-association is indicated to it: likewise.
//  8. 2012: VSI ids that begin with eight zero octets, VLAN 1 and one MAC in two
//     filters are refused without a reason: ErrRejected beforehand. How a manager id
//     is read depends on its digits: all 32 are sent.
//  9. It sleeps for a second when it indicates, and waits for receivers that do not
//     read: replyTimeout, and sockets that are read all the time.
//  10. A GETLINK is parsed into an array that is one attribute too short: none is
//     sent.
//  11. Frames longer than 1514 octets overrun its buffers, and VDP is read past the
//     end of what has no End TLV: package vdp sends no such frames.
//  12. Illegal transitions of a VSI abort it (assert): ErrDowngrade, ErrConflict and
//     ErrBusy beforehand.
//  13. lldptool's list of modes has no separators: parseModes.
//  14. A restart forgets all VSIs, and nobody is told; so does a reload: ErrRestarted,
//     for restarts.
//  15. Its configuration grows with every interface that it ever saw, and with
//     thousands of them old versions crash. A client cannot help it: remove
//     /var/lib/lldpad/lldpad.conf of a host with many short-lived interfaces now and then,
//     while lldpad does not run, or use vdpd.
//  16. A reload may crash some versions: Report.Fix has one only where it is needed,
//     last, and whoever runs it asks Check again, which finds out.
//  17. There is one lldpad for each network namespace, and its pid file is per mount
//     namespace: the process id comes from lldpad itself.
//  18. Draft: there is an ECPDU for each change, and no filter but one MAC with one
//     VLAN: ErrRejected for others. Package vdp packs.
//
// Beside these: an event is sent as often as a client has attached, so that it attaches
// once; and a get answers with the status of a module that has nothing to do with it, so
// that Check reads the body all the same. Package vdp has a station that needs no
// lldpad.
package lldpad
