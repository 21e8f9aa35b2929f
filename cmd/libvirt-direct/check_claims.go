package main

import (
	"cmp"
	"os"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/link"
)

// claims tells of what is claimed and is not as it should be. It is silent where all is well.
func (c *checker) claims() {
	if os.Geteuid() != 0 {
		return // leftovers says so
	}
	k, err := link.Open()
	if err != nil {
		return // uplinks says so
	}
	defer k.Close()
	all, err := hooks.AllClaims(c.ctx, k, c.records())
	if err != nil {
		c.say(levelFault, "claims", "%s", hooks.OneLine(err))
		return
	}
	for _, claim := range all {
		who := cmp.Or(claim.Name, claim.UUID)
		switch {
		case claim.Resource == "":
			c.say(levelFault, "claims", "%s; what it claims nobody else gets; look with libvirt-direct status --claims, and once domain %s is gone drop it with gc --forget %s",
				claim.Error, claim.UUID, claim.UUID)
		case !claim.Holds && !claim.Reserved:
			c.say(levelNote, "claims", "domain %q claims %s, and so does another: look with libvirt-direct status --claims", who, claim.Resource)
		case claim.Error != "":
			c.say(levelNote, "claims", "%s of domain %q is not put back yet: %s", claim.Resource, who, claim.Error)
		}
	}
}
