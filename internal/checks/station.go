package checks

import (
	"context"
	"fmt"
	"math"
	"strings"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/link"
	"libvirt-direct/vdp/control"
)

// libvirtWaits is how long libvirt waits for the switch's answer, in milliseconds
// (src/util/virnetdevvportprofile.c, STATUS_POLL_TIMEOUT_USEC).
const libvirtWaits = 10_000

// station checks what vdpd's uplinks are like, whether the configuration has them or not. It
// is silent where vdpd does not run: qbg tells of that where it matters.
func station(ctx context.Context, _ *Env) (found []Finding) {
	all, err := control.NewClient("").Status(ctx)
	if err != nil {
		return nil
	}
	k, err := link.Open()
	if err != nil {
		return nil // uplinks says so
	}
	defer k.Close()
	for i := range all {
		found = append(found, stationPort(ctx, k, &all[i])...)
	}
	return found
}

// stationPort says what is notable of one of vdpd's uplinks.
func stationPort(ctx context.Context, k kernel, u *control.Uplink) (found []Finding) {
	note := func(format string, args ...any) {
		found = append(found, finding(Note, "vdpd "+u.Name, format, args...))
	}
	lines, err := hooks.UplinkSpoofers(ctx, k, u)
	if err != nil {
		note("whether virtual functions can speak as the switch is not known: %v", err)
	}
	for _, l := range lines {
		note("%s; hold each to its own address: libvirt-direct vf set PF VF spoofchk=on trust=off", l)
	}
	for _, a := range u.Others {
		note("a second agent sends EVB TLVs: %s; only one is the switch: if this one is, pin it with neighbor in vdpd.toml, else find it by its address", a)
	}
	if t := u.Timers; t != nil {
		if limited := t.Limited(); len(limited) > 0 {
			note("the switch asks for longer times than vdpd uses: %s; lower them on the switch, or set them in vdpd.toml", strings.Join(limited, ", "))
		}
		if t.Answer > libvirtWaits {
			note("the switch may take %.1f s for an answer, and libvirt waits 10 s: %s", t.Answer/1000, lowerRWD(t))
		}
	}
	return found
}

// lowerRWD says on which side the time for an answer is to be lowered, and to which exponent:
// the larger of both sides' is used.
func lowerRWD(t *control.Timers) string {
	ours, theirs := "vdp_rwd in vdpd.toml", "the resource wait delay (RWD) on the switch's port"
	if t.Peer == nil || t.Used == nil {
		return fmt.Sprintf("lower %s, and %s", theirs, ours)
	}
	where := fmt.Sprintf("lower %s and %s", theirs, ours)
	if t.Peer.RWD < t.Used.RWD {
		where = "lower " + ours
	}
	// 1.5 × ((1+2R)·2^RTE + 2^RWD) × 10 µs, as vdp.Timers: what is left for the second term.
	left := libvirtWaits*100/1.5 - (1+2*float64(t.Used.Retries))*math.Exp2(float64(t.Used.RTE))
	if left < 1 {
		return where + ", and ECP's retries and RTE"
	}
	return fmt.Sprintf("%s to %d", where, int(math.Log2(left)))
}
