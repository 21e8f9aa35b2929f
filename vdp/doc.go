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
// clock. Its owner feeds it the time and the frames that arrive on one uplink
// and sends the frames that it returns.
//
//	s, err := vdp.NewStation(vdp.Config{MAC: mac})
//	out := s.LinkUp(time.Now())
//	out, err = s.Associate(time.Now(), vsi)
//	for {
//		// send out.Frames, act on out.Events, then wait for a frame
//		// until s.Next():
//		out, err = s.Handle(time.Now(), frame) // or
//		out = s.Tick(time.Now())
//	}
package vdp
