//go:build integration

package main

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a filtered guest must not tell the switch: each protocol to its group address, to all, and to one station.

const (
	nearestBridge = "01:80:c2:00:00:0e"
	slowProtocols = "01:80:c2:00:00:02"
	cisco         = "01:00:0c:cc:cc:cc"
	pvst          = "01:00:0c:cc:cc:cd"

	llcSTP   = "0040" + "424203"
	snapPVST = "0040" + "aaaa03" + "00000c010b"
	snapCDP  = "0040" + "aaaa03" + "00000c2000"
	snapVTP  = "0040" + "aaaa03" + "00000c2003"
	snapDTP  = "0040" + "aaaa03" + "00000c2004"
	snapUDLD = "0040" + "aaaa03" + "00000c0111"
)

// said is a frame of the guest's; the address and the rest of the header.
type said struct{ text, dst, rest string }

// requireUnheard has the guest say frames, of which the wire hears only those that are called "allowed".
func requireUnheard(t *testing.T, more string, frames ...said) {
	t.Helper()
	eachFiltered(t, more, func(t *testing.T, a *nic, far string) {
		wire := ear(t, far)
		var want []string
		for _, f := range frames {
			if f.text == "allowed" {
				want = append(want, f.text)
			}
			a.says(t, eth(t, f.text, f.dst, a.mac, f.rest))
		}
		a.says(t, a.end(t, a.mac))
		require.Equal(t, want, hears(t, wire))
	})
}

// everywhere is a frame of one protocol to its group, to all and to the router.
func everywhere(text, group, rest string) []said {
	return []said{{text, group, rest}, {text + " to all", everybody, rest}, {text + " to one", router, rest}}
}

func TestGuestBecomesTheRootOfTheSpanningTree(t *testing.T) {
	frames := append(everywhere("stp", "01:80:c2:00:00:00", llcSTP), everywhere("provider stp", "01:80:c2:00:00:08", llcSTP)...)
	requireUnheard(t, "", append(frames, everywhere("pvst+", pvst, snapPVST)...)...)
}

func TestGuestTurnsThePortIntoATrunk(t *testing.T) {
	requireUnheard(t, "", append(everywhere("dtp", cisco, snapDTP), everywhere("vtp", cisco, snapVTP)...)...)
}

func TestGuestShutsThePortDown(t *testing.T) {
	requireUnheard(t, "", everywhere("udld", cisco, snapUDLD)...)
}

func TestGuestStopsTheSwitchWithPause(t *testing.T) {
	requireUnheard(t, "", everywhere("pause", "01:80:c2:00:00:01", "88080001ffff")...)
}

func TestGuestJoinsTheLinkAggregation(t *testing.T) {
	requireUnheard(t, "", append(everywhere("lacp", slowProtocols, "88090101"), everywhere("oam", slowProtocols, "88090301")...)...)
}

func TestGuestAuthenticatesThePort(t *testing.T) {
	requireUnheard(t, "", append(everywhere("eapol", "01:80:c2:00:00:03", "888e0101"), everywhere("macsec", "01:80:c2:00:00:03", "88e52c00")...)...)
}

func TestGuestPosesAsTheSwitchsNeighbour(t *testing.T) {
	frames := append(everywhere("lldp", nearestBridge, "88cc"), everywhere("lldp customer", "01:80:c2:00:00:00", "88cc")...)
	frames = append(frames, everywhere("lldp nontpmr", "01:80:c2:00:00:03", "88cc")...)
	requireUnheard(t, "", append(frames, everywhere("cdp", cisco, snapCDP)...)...)
}

func TestGuestPosesAsAStationOfAnEdgeBridge(t *testing.T) {
	requireUnheard(t, "", append(everywhere("ecp", nearestBridge, "8940"), everywhere("draft ecp", nearestBridge, "88b7001b3f0000")...)...)
}

func TestGuestRegistersVLANsWithTheSwitch(t *testing.T) {
	frames := append(everywhere("mvrp", "01:80:c2:00:00:21", "88f5"), everywhere("mmrp", "01:80:c2:00:00:20", "88f6")...)
	requireUnheard(t, "", append(frames, said{"gvrp", "01:80:c2:00:00:21", llcSTP})...)
}

func TestGuestStealsTheClock(t *testing.T) {
	requireUnheard(t, "", said{"ptp", nearestBridge, "88f7"})
}

func TestGuestHidesBehindATag(t *testing.T) {
	var frames []said
	for _, tag := range []string{"893f000000000000", "8926000000000000", "9100000a", "9200000a", "88a8000a", "8100000a"} {
		frames = append(frames, said{tag, everybody, tag + experimental}, said{tag + " to one", router, tag + experimental})
	}
	requireUnheard(t, "", frames...)
}

func TestGuestHidesControlBehindItsVLAN(t *testing.T) {
	var frames []said
	for _, f := range []said{{"stp", "01:80:c2:00:00:00", llcSTP}, {"pvst+", pvst, snapPVST}, {"cdp", cisco, snapCDP}, {"udld to one", router, snapUDLD},
		{"lacp", router, "88090101"}, {"pause", router, "88080001ffff"}, {"eapol", router, "888e0101"}, {"lldp", router, "88cc"},
		{"mvrp", router, "88f5"}, {"macsec", router, "88e52c00"}, {"ecp", router, "8940"}, {"e-tag", router, "893f000000000000" + experimental}, {"vn-tag", router, "8926000000000000" + experimental}} {
		frames = append(frames, said{f.text, f.dst, vlan10 + f.rest}, said{f.text + " in service tag", f.dst, ad10 + f.rest})
	}
	requireUnheard(t, "guest-vlans = 10\n", append(frames, said{"allowed", everybody, vlan10 + experimental})...)
}

func TestGuestHidesControlInSNAP(t *testing.T) {
	var frames []said
	for _, typ := range []string{"88cc", "8809", "8808", "888e", "88e5", "8940", "88f5", "893f", "8926", "8100", "88a8", "9100", "9200"} {
		for _, organization := range []string{"000000", "0000f8"} {
			frames = append(frames, everywhere("snap "+organization+typ, nearestBridge, "0040"+"aaaa03"+organization+typ)...)
		}
	}
	requireUnheard(t, "", frames...)
}

// One protocol is allowed by its name; that is no way out for another, or for another's address.
func TestGuestUsesOneAllowedProtocolForAnother(t *testing.T) {
	for _, kind := range []string{"macvtap isolated", "macvtap plain", "macvtap visible"} {
		t.Run(kind, func(t *testing.T) {
			wire(t, "v0", "v1")
			profiles(t, filtered[kind].profile+"link-protocols = lldp\n")
			far := ear(t, "v1")
			a := granted(t, alice, "net/"+alicesMAC)
			a.says(t,
				eth(t, "stp", "01:80:c2:00:00:00", a.mac, llcSTP),
				eth(t, "lacp", slowProtocols, a.mac, "88090101"),
				eth(t, "lacp at lldp's", nearestBridge, a.mac, "88090101"),
				eth(t, "lldp at lacp's", slowProtocols, a.mac, "88cc"),
				eth(t, "lldp at cisco's", cisco, a.mac, "88cc"),
				eth(t, "eapol", "01:80:c2:00:00:03", a.mac, "888e0101"),
				eth(t, "plain at lldp's", nearestBridge, a.mac, experimental),
				eth(t, "spoofed", nearestBridge, bobsMAC, "88cc"),
				eth(t, "tagged", nearestBridge, a.mac, vlan10, "88cc"),
				eth(t, "allowed", nearestBridge, a.mac, "88cc"),
				a.end(t, a.mac))
			require.Equal(t, []string{"allowed"}, hears(t, far))
		})
	}
}

func TestGuestSpeaksAsItsNeighbour(t *testing.T) {
	eachFiltered(t, "", func(t *testing.T, a *nic, far string) {
		wire := ear(t, far)
		lies := [][]byte{
			eth(t, "as bob", everybody, bobsMAC, experimental), eth(t, "as the router", everybody, router, experimental),
			eth(t, "as all", everybody, everybody, experimental), eth(t, "as nobody", everybody, "00:00:00:00:00:00", experimental),
		}
		a.says(t, lies...)
		_ = a.takes(t, bobsMAC)
		a.says(t, lies...)
		_ = a.takes(t, a.mac)
		a.says(t, a.end(t, a.mac))
		require.Empty(t, hears(t, wire))
	})
}

// Whatever a frame to these carries.
func TestGuestSpeaksToTheBridgesOwnAddresses(t *testing.T) {
	var frames []said
	for _, group := range []string{"01:80:c2:00:00:00", "01:80:c2:00:00:0a", "01:80:c2:00:00:0f", "01:80:c2:00:00:2a", "01:80:c2:00:01:00", "01:00:0c:11:22:33", cisco, pvst} {
		frames = append(frames, said{group, group, experimental}, said{group + " ip", group, "0800"})
	}
	requireUnheard(t, "", append(frames, said{"allowed", "01:00:5e:00:00:01", experimental})...)
}

// A filter that looks beyond the end of a frame ends, and lets it pass. The lower device sends it, and what receives it
// need not be Linux, which drops it.
func TestGuestHidesInAFrameThatEndsWithinAHeader(t *testing.T) {
	for _, kind := range []string{"macvtap isolated", "macvtap plain", "macvtap visible"} {
		t.Run(kind, func(t *testing.T) {
			wire(t, "v0", "v1")
			profiles(t, filtered[kind].profile+"guest-vlans = 10\n")
			near := ear(t, "v0")
			a := granted(t, alice, "net/"+alicesMAC)
			for _, rest := range []string{"8100", "810000", "8100000a", "8100000a88", "88a8", "0004", "0004aa", "0004aaaa", "0004aaaa03", "0008aaaa03000000"} {
				b, err := hex.DecodeString(strings.ReplaceAll(everybody+alicesMAC+rest, ":", ""))
				require.NoError(t, err)
				a.says(t, b)
			}
			a.says(t, a.end(t, alicesMAC))
			for {
				b := make([]byte, 2048)
				n, _, _, _, err := receiveMsg(near, b, nil)
				require.NoError(t, err)
				if textOf(b[:n]) == "end" {
					break
				}
				require.Greater(t, n, 32, "%x", b[:n])
			}
		})
	}
}
