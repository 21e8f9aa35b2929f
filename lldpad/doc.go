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
// What lldpad 1.1 does that its caller must know, and what is done about it:
//
//   - A port belongs to the 2012 edition from a second after its appearance, and
//     to the draft only after a reload: ErrNeedsReload.
//   - enableTx=yes is refused while another EVB TLV is on: the order of
//     Report.Fix.
//   - A reload may crash some versions, and makes lldpad forget its VSIs; so
//     does a restart, and nobody is told: ErrRestarted, for restarts.
//   - GETLINK forgets what it has reported, and skips the VSI behind that:
//     Client.Query warns, and a VSI must be missing twice.
//   - De-associating an unknown VSI of the draft leaves an entry for ever, and
//     lldptool's leave theirs in the state exit: not sent, and shown by Check.
//   - Over rtnetlink, the 2012 edition leaves dead VSIs, shows old results and
//     indicates its caller's own de-association: the control socket instead.
//   - It refuses VSI ids that begin with eight zero octets, VLAN 1 and one MAC
//     in two filters without a reason, and guesses how to read a manager id:
//     ErrRejected beforehand, and all 32 digits.
//   - It sleeps for a second when it indicates, and waits for receivers that do
//     not read: replyTimeout, and sockets that are read all the time.
//   - It sends an event as often as a client has attached: once.
//   - A get answers with the status of a module that has nothing to do with it:
//     Check reads the body all the same.
//   - Frames are read past their end, and illegal states abort it (assert);
//     its configuration grows with every interface it ever saw: none of which a
//     client can help. See package vdp for a station that needs no lldpad.
//   - There is one lldpad for each network namespace, and its pid file is
//     per mount namespace: the process id comes from lldpad itself.
package lldpad
