// Package noevb says why no EVB TLV arrives at a port of this host, in the order in which it
// is worth looking: at the switch's port, at what is in between, and at the card itself.
package noevb

import (
	"fmt"
	"strings"
	"time"
)

// A Port is one at which somebody waits for the switch's EVB TLV.
type Port struct {
	Name string
	// Up is how long it has had a link, 0 where that is not known.
	Up time.Duration
	// Heard is the last LLDPDU since then, nil for none.
	Heard *LLDPDU
}

// An LLDPDU is one that did not make its sender the switch.
type LLDPDU struct {
	Ago      time.Duration // 0 where that is not known
	From, To string        // MAC addresses, "" where they are not known
	// Flaw says why its EVB TLV does not do; "" where it has none.
	Flaw string
}

// Flaws that an EVB TLV of LLDP can have, whoever looks at it.
const (
	NotABridge = "is not a bridge's"
	NoVDP      = "does not offer both ECP and VDP"
)

// stale is how long an LLDPDU says that its sender is heard: the usual time to live.
const stale = 120 * time.Second

// nearestCustomerBridge is the agent of 802.1Qbg.
const nearestCustomerBridge = "01:80:c2:00:00:00"

// Causes says on one line what was heard and what to do about it.
func (p Port) Causes() string {
	if h := p.Heard; h != nil && h.Ago <= stale {
		return h.causes()
	}
	causes := []string{
		"enable LLDP and EVB on the switch's port",
		"see that nothing in between eats frames to " + nearestCustomerBridge,
	}
	for _, a := range agents(sys, p.Name) {
		causes = append(causes, a.String())
	}
	return p.silence() + ": " + strings.Join(causes, "; ")
}

func (p Port) silence() string {
	switch {
	case p.Heard != nil:
		return "no LLDPDU for " + seconds(p.Heard.Ago)
	case p.Up > 0:
		return "no LLDPDU since the link came up " + seconds(p.Up) + " ago"
	}
	return "no LLDPDU"
}

// causes leaves out what eats LLDPDUs on the host: this one has come through.
func (h *LLDPDU) causes() string {
	has := "the LLDPDUs that arrive have"
	if h.From != "" {
		has = fmt.Sprintf("the last LLDPDU, %s ago from %s to %s, has", seconds(h.Ago), h.From, h.To)
	}
	if h.Flaw != "" {
		return fmt.Sprintf("%s one that %s", has, h.Flaw)
	}
	return has + " none: enable EVB/VDP on the switch's port, for LLDP to " + nearestCustomerBridge + ", which a bridge in between would eat"
}

func seconds(d time.Duration) string { return fmt.Sprintf("%d s", int(d/time.Second)) }
