// Package checks finds out whether the hook, its configuration and this host are sound. It
// is what `libvirt-direct check` prints.
//
// A check is a function in a file of its own and a line of one of the tables below: of the
// host, of each uplink, or of each of libvirt's daemons. It changes nothing, and says in a
// Finding also what keeps it from looking.
package checks

import (
	"context"
	"fmt"

	"libvirt-direct/hooks"
)

// Level says how bad a finding is.
type Level string

// The levels, as they are printed.
const (
	OK    Level = "ok"
	Note  Level = "note"  // it may be meant so
	Fault Level = "FAULT" // the text says what to do about it
)

// Finding is one line of what was found. Its text is one line.
type Finding struct {
	Level Level  `json:"level"`
	About string `json:"about"`
	Text  string `json:"text"`
}

func finding(level Level, about, format string, args ...any) Finding {
	return Finding{level, about, fmt.Sprintf(format, args...)}
}

// Env is where the checks look. The rest, such as libvirt's folders, is where it is on
// every host.
type Env struct {
	Config  string        // the configuration's file
	Libvirt string        // URI
	Records hooks.Records // who has what
	// Stale lists what gc would remove now. It is asked as root alone.
	Stale func(ctx context.Context) ([]string, error)
}

// check looks at the host.
type check func(ctx context.Context, env *Env) []Finding

// hostChecks is the table of checks, in the order in which they are printed.
func hostChecks() []check {
	return []check{
		hookProgram,
		libvirtDaemons, // and daemonChecks
		configuration,
		uplinks, // and uplinkChecks
		station,
		virtualSwitch,
		cardTables,
		networkHook,
		drivers,
		helperProgram,
		plainTaps,
		claims,
		leftovers,
	}
}

// daemonChecks is the table of what is asked of each of libvirt's daemons that runs.
func daemonChecks() []func(daemon) []Finding {
	return []func(daemon) []Finding{
		eventPort,
		hookAge,
	}
}

// uplinkChecks is the table of what is asked of each uplink whose device is there.
func uplinkChecks() []func(context.Context, *Env, kernel, uplink) []Finding {
	return []func(context.Context, *Env, kernel, uplink) []Finding{
		alsoNames,
		macvtap,
		enforced,
		bridgeVLANs,
		bridgePort,
		qbg,
	}
}

// Run runs all checks, one after the other. Some ask libvirt, vdpd or lldpad and wait for
// them until ctx ends.
func Run(ctx context.Context, env *Env) []Finding {
	var found []Finding
	for _, look := range hostChecks() {
		found = append(found, look(ctx, env)...)
	}
	return found
}
