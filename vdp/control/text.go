package control

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// String says what a filter lets pass, for a person: "52:54:00:01:02:03 VLAN 100".
func (f Filter) String() string {
	var parts []string
	if f.MAC != "" {
		parts = append(parts, f.MAC)
	}
	if f.Group != nil {
		parts = append(parts, "group "+strconv.FormatUint(uint64(*f.Group), 10))
	}
	if f.VID == 0 {
		parts = append(parts, "VLAN of the switch's choice")
	} else {
		parts = append(parts, "VLAN "+strconv.Itoa(int(f.VID)))
	}
	if f.PCP != nil {
		parts = append(parts, "priority "+strconv.Itoa(int(*f.PCP)))
	}
	return strings.Join(parts, " ")
}

// FilterText lists the VSI's filters, for a person.
func (v *VSI) FilterText() string {
	if len(v.Filters) == 1 {
		return v.Filters[0].String()
	}
	var all []string
	for _, f := range v.Filters {
		all = append(all, f.String())
	}
	return strings.Join(all, ", ")
}

// String says who an agent is, for a person.
func (a Agent) String() string {
	s := fmt.Sprintf("chassis %s, port %s, address %s, to %s", a.Chassis, a.Port, a.Source, a.Group)
	if !a.Since.IsZero() {
		s += ", since " + a.Since.Local().Format(time.DateTime)
	}
	return s
}

// StateText is the VSI's state, for a person, with the reason if there is one.
func (v *VSIStatus) StateText() string {
	if v.Error == nil {
		return v.State
	}
	return v.State + " (" + v.Error.Error() + ")"
}
