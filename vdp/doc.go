// Package vdp speaks IEEE 802.1Qbg, Edge Virtual Bridging, from the station's
// side: the EVB TLV carried in LLDP, the Edge Control Protocol (ECP) and the
// VSI Discovery and Configuration Protocol (VDP).
//
// Two editions are on the wire and do not understand each other: draft 0.2,
// spoken by libvirt's and lldpad's first implementation and by the switches
// built for it, and the ratified 802.1Qbg-2012. The codecs know both, and a
// [Station] chooses by what the switch's EVB TLV says.
//
// A Station is pure: it opens no socket, starts no goroutine and reads no
// clock. Its owner feeds it the time, the frames that arrive on one uplink, and
// those that leave it: only what has not left it can be the switch's. It sends the
// frames that the Station returns.
//
//	s, err := vdp.NewStation(vdp.Config{MAC: mac})
//	s.Opened(time.Now())
//	out := s.LinkUp(time.Now())
//	out, err = s.Associate(time.Now(), vsi)
//	for {
//		// send out.Frames, act on out.Events, then wait for a frame
//		// until s.Next():
//		s.Sent(time.Now(), left)               // what others on this host sent, and then
//		out, err = s.Handle(time.Now(), frame) // or
//		out = s.Tick(time.Now())
//	}
package vdp
