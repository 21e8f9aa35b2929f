package checks

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/internal/link"
	"libvirt-direct/vdp/control"
)

// portKernel is a fakeKernel with a card whose VFs are called by their PF.
type portKernel struct {
	fakeKernel
	spoofers []link.VF
}

func (k *portKernel) VFUses(_ context.Context, pf string) ([]link.VFUse, error) {
	return make([]link.VFUse, 4), nil
}

func (k *portKernel) Spoofers(context.Context, link.Link) ([]link.VF, error) { return k.spoofers, nil }

func TestStationPort(t *testing.T) {
	yes, no := true, false
	off, trusted := link.VFSettings{SpoofChk: &no}, link.VFSettings{SpoofChk: &yes, Trust: &yes}
	k := &portKernel{fakeKernel: fakeKernel{links: []link.Link{{Index: 3, Name: "eth0"}}}}
	u := control.Uplink{Name: "uplink", Device: "eth0", Ifindex: 3, Timers: &control.Timers{Answer: 7891}}
	require.Empty(t, stationPort(t.Context(), k, &u))

	k.spoofers = []link.VF{{Number: 1, VFSettings: off}, {Number: 2, VFSettings: trusted}, {Number: 3, VFSettings: off}}
	u.Others = []control.Agent{{Source: "02:cc:00:00:00:01", Group: "01:80:c2:00:00:0e", Chassis: "x", Port: "y"}}
	u.Timers.Peer, u.Timers.Used = &control.Exponents{Retries: 3, RTE: 18, RWD: 25, RKA: 20}, &control.Exponents{Retries: 3, RTE: 17, RWD: 22, RKA: 20}
	u.Timers.Answer = 62914.56
	requireFindings(t, []Finding{
		{Note, "vdpd uplink", "VFs 1 and 3 of eth0 can speak as the switch: spoof check is off; hold each to its own address: libvirt-direct vf set PF VF spoofchk=on trust=off"},
		{Note, "vdpd uplink", "VF 2 of eth0 can speak as the switch: trust is on; hold each"},
		{Note, "vdpd uplink", "a second agent sends EVB TLVs: chassis x, port y, address 02:cc:00:00:00:01, to 01:80:c2:00:00:0e; only one is the switch"},
		{Note, "vdpd uplink", "the switch asks for longer times than vdpd uses: ecp_rte 18 → 17, vdp_rwd 25 → 22; lower them on the switch"},
		{Note, "vdpd uplink", "the switch may take 62.9 s for an answer, and libvirt waits 10 s: lower the resource wait delay (RWD) on the switch's port and vdp_rwd in vdpd.toml, and ECP's retries and RTE"},
	}, stationPort(t.Context(), k, &u))

	require.Empty(t, stationPort(t.Context(), k, &control.Uplink{Name: "eth0", Ifindex: 4}), "in another namespace")
	require.Empty(t, stationPort(t.Context(), k, &control.Uplink{Name: "gone"}))
}

func TestLowerRWD(t *testing.T) {
	usual := control.Exponents{Retries: 3, RTE: 8, RWD: 20, RKA: 20}
	low := usual
	low.RWD = 10
	for want, timers := range map[string]control.Timers{
		"lower the resource wait delay (RWD) on the switch's port, and vdp_rwd in vdpd.toml":      {},
		"lower the resource wait delay (RWD) on the switch's port and vdp_rwd in vdpd.toml to 19": {Peer: &usual, Used: &usual},
		"lower vdp_rwd in vdpd.toml to 19": {Peer: &low, Used: &usual},
	} {
		require.Equal(t, want, lowerRWD(&timers))
	}
}
