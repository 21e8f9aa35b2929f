package checks

import "context"

// enforced says whether guests are kept from sending frames of VLANs that an uplink's vlans do
// not allow. vlans alone limits what the hook sets up, which may be all that is meant.
func enforced(_ context.Context, env *Env, _ kernel, u uplink) []Finding {
	l, name := u.device, u.config.Name
	about := "uplink " + name
	tap := l.Bridge != nil && !l.Bridge.VLANFiltering
	switch {
	case !u.config.Limits() && u.config.Enforce:
		return []Finding{finding(Note, about, "enforce of [uplink.%s] has no effect, since all VLANs are allowed: set vlans, or leave enforce out", name)}
	case !u.config.Limits():
		return nil
	case tap && u.config.Enforce:
		return []Finding{finding(Note, about, "vlans of [uplink.%s] is not enforced for taps in %s that have no settings: ip link set %[2]s type bridge vlan_filtering 1", name, l.Name)}
	case tap:
		return []Finding{finding(Note, about, "vlans of [uplink.%s] is not enforced for taps in %s, which does not filter VLANs: ip link set %[2]s type bridge vlan_filtering 1", name, l.Name)}
	case u.config.Enforce:
		return []Finding{finding(OK, about, "a guest that could send VLANs that are not allowed onto %s is refused", l.Name)}
	case l.Bridge != nil:
		return nil // it filters, for its own device as well
	}
	return []Finding{finding(Note, about, "vlans of [uplink.%s] is not enforced for macvtaps on %s itself and for virtual functions without a VLAN, whose guests can send any tag: to refuse these, set enforce = true in %s",
		name, l.Name, env.Config)}
}
