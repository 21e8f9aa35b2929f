package checks

import (
	"cmp"
	"context"
	"os"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/link"
)

// claims tells of what is claimed and is not as it should be. It is silent where all is well.
func claims(ctx context.Context, env *Env) (found []Finding) {
	if os.Geteuid() != 0 {
		return nil // leftovers says so
	}
	k, err := link.Open()
	if err != nil {
		return nil // uplinks says so
	}
	defer k.Close()
	all, err := hooks.AllClaims(ctx, k, env.Records)
	if err != nil {
		return []Finding{finding(Fault, "claims", "%s", hooks.OneLine(err))}
	}
	for _, c := range all {
		if f, wrong := ofClaim(c); wrong {
			found = append(found, f)
		}
	}
	return found
}

// ofClaim says what is wrong with a claim, if something is.
func ofClaim(c hooks.ClaimStatus) (f Finding, wrong bool) {
	who := cmp.Or(c.Name, c.UUID)
	switch {
	case c.Resource == "":
		return finding(Fault, "claims", "%s; what it claims nobody else gets; look with libvirt-direct status --claims, and once domain %s is gone drop it with gc --forget %s",
			c.Error, c.UUID, c.UUID), true
	case !c.Holds && !c.Reserved:
		return finding(Note, "claims", "domain %q claims %s, and so does another: look with libvirt-direct status --claims", who, c.Resource), true
	case c.Error != "":
		return finding(Note, "claims", "%s of domain %q is not put back yet: %s", c.Resource, who, c.Error), true
	}
	return f, false
}
