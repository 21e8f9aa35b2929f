package vdp_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
)

// A guest can make the switch's frames look like echoes: it foretells them, or sends more
// than can be remembered. The station hears nothing then, but the switch does, and keeps
// the VSIs.
func TestSilencedStationKeepsItsVSIs(t *testing.T) {
	for name, silence := range map[string]func(s *sim, heard []byte){
		"foretold answers": func(s *sim, heard []byte) {
			for ahead := range uint16(6) {
				f := append([]byte{}, heard...)
				binary.BigEndian.PutUint16(f[16:], binary.BigEndian.Uint16(f[16:])+1+ahead)
				s.st.Sent(s.now, f)
			}
		},
		"missed frames": func(s *sim, _ []byte) { s.st.Missed(s.now) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, vdp.Edition2012)
			s.br.Supervision = 15750 * time.Millisecond
			s.up()
			var heard []byte // the switch's last answer
			s.travel = func(toBridge bool, frame []byte) []time.Duration {
				var f vdp.Frame
				require.NoError(t, f.UnmarshalBinary(frame))
				if !toBridge && f.EtherType == vdp.EtherTypeECP {
					if p, err := vdp.UnmarshalECPDU(vdp.Edition2012, f.Payload); err == nil && !p.Ack {
						heard = frame
					}
				}
				return []time.Duration{100 * time.Microsecond}
			}
			s.associate(testVSI(1))
			s.run(12 * time.Second)
			for range 600 {
				silence(s, heard)
				s.run(time.Second)
				require.Equal(t, vdp.Associate, s.br.Mode(testVSI(1).ID))
			}
			require.Equal(t, vdp.StateLost, s.state(testVSI(1)))
			s.run(20 * time.Second)
			require.Equal(t, vdp.StateEstablished, s.state(testVSI(1)))
		})
	}
}
