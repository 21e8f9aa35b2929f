package checks

import "context"

// alsoNames says which names of an uplink, its own and those that other hosts use for its device,
// mean another device on this host. XML from elsewhere and this host's own then differ in what
// they mean by it.
func alsoNames(ctx context.Context, _ *Env, k kernel, u uplink) (found []Finding) {
	if l, err := k.ByName(ctx, u.config.Name); err == nil && l.Index != u.device.Index {
		found = append(found, finding(Note, "uplink "+u.config.Name,
			"another device of this host has the uplink's name: %s; settings that name the uplink mean %s, and <source dev='%s'> here means the other: give the uplink another name",
			l.Name, u.device.Name, u.config.Name))
	}
	for _, name := range u.config.Also {
		l, err := k.ByName(ctx, name)
		if err != nil || l.Index == u.device.Index {
			continue // not there, or the same
		}
		device := name
		if l.Name != name {
			device += " (" + l.Name + ")"
		}
		found = append(found, finding(Note, "uplink "+u.config.Name,
			"also names a device of this host: %s; it means %s in the XML of guests that come from elsewhere, and itself in this host's own: take it out of also of [uplink.%s], unless that is intended", device, u.device.Name, u.config.Name))
	}
	return found
}
