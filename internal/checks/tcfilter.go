package checks

import (
	"encoding/binary"
	"errors"
	"slices"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

// The hooks of clsact and ingress, as parents of filters (include/uapi/linux/pkt_sched.h).
const (
	tcIngress = 0xfffffff2
	tcEgress  = 0xfffffff3
)

// byTC says which filters of a device's own drop frames: a macvtap's and a bridge's pass them,
// at ingress before anything else has them.
func byTC(d link.Link) (found []Finding) {
	for _, side := range []struct {
		parent uint32
		tcx    uint32
		name   string
		which  string
	}{{tcIngress, tcxIngress, "ingress", "come in by"}, {tcEgress, tcxEgress, "egress", "leave by"}} {
		if tcxPrograms(d.Index, side.tcx) > 0 {
			found = append(found, finding(Note, "filter", "guests' frames that %s %s pass a BPF program first (tcx), which may drop them; if guests miss some: bpftool net show dev %[2]s", side.which, d.Name))
		}
		filters, err := tcFilters(d.Index, side.parent)
		if err != nil {
			continue // it has no such hook
		}
		drops, program := false, false
		for _, b := range filters {
			f := parseFilter(b)
			drops = drops || f.drops
			program = program || f.kind == "bpf"
		}
		switch {
		case drops:
			found = append(found, finding(Note, "filter", "some frames that %s %s, guests' among them, are dropped by tc; look for the rule: tc filter show dev %[2]s %[3]s", side.which, d.Name, side.name))
		case program:
			found = append(found, finding(Note, "filter", "guests' frames that %s %s pass a BPF program of tc, which may drop them; if guests miss some: tc filter show dev %[2]s %[3]s", side.which, d.Name, side.name))
		}
	}
	return found
}

// BPF_TCX_INGRESS and BPF_TCX_EGRESS of include/uapi/linux/bpf.h.
const (
	tcxIngress = 46
	tcxEgress  = 47
)

// tcxPrograms counts the BPF programs at a device that tc does not list: Cilium's on a kernel
// from 6.6 on, say. On an older one there are none.
func tcxPrograms(index int, at uint32) int {
	query := struct { // what BPF_PROG_QUERY has in union bpf_attr
		index, at, flags, attachFlags uint32
		ids                           uint64
		count, _                      uint32
		attachFlagsOf, linkIDs        uint64
		linkFlags                     uint64
		revision                      uint64
	}{index: uint32(index), at: at}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&query)), unsafe.Sizeof(query)); errno != 0 {
		return 0
	}
	return int(query.count)
}

// tcFilters lists the filters at one of a device's hooks, as payloads of RTM_NEWTFILTER messages.
func tcFilters(index int, parent uint32) ([][]byte, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETTFILTER, unix.NLM_F_DUMP)
	req.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Parent: parent})
	filters, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWTFILTER)
	if errors.Is(err, nl.ErrDumpInterrupted) { // what was read by then counts
		err = nil
	}
	if parent == tcEgress {
		filters = slices.DeleteFunc(filters, ofIngressQdisc)
	}
	return filters, err
}

// ofIngressQdisc reports whether the payload of an RTM_NEWTFILTER message is a filter of the qdisc
// "ingress", of before clsact. It has one hook, and the kernel tells of that whichever is asked for.
func ofIngressQdisc(b []byte) bool {
	const parentAt, root = 12, 0xffff0000 // struct tcmsg's tcm_parent, "ffff:"
	return len(b) >= nl.SizeofTcMsg && binary.NativeEndian.Uint32(b[parentAt:]) == root
}

// tcFilter is what is known of a filter.
type tcFilter struct {
	kind  string
	drops bool
}

// actionsAt says where a kind of filter has its actions (TCA_U32_ACT and the like of
// include/uapi/linux/pkt_cls.h).
func actionsAt(kind string) (at uint16, known bool) {
	at, known = map[string]uint16{"u32": 7, "flower": 3, "matchall": 2, "bpf": 1, "basic": 3, "fw": 4}[kind]
	return at, known
}

// parseFilter reads the payload of an RTM_NEWTFILTER message. What cannot be read drops nothing.
func parseFilter(b []byte) (f tcFilter) {
	const (
		kind, options           = 1, 2 // TCA_KIND, TCA_OPTIONS
		actKind, actOptions     = 1, 2 // TCA_ACT_KIND, TCA_ACT_OPTIONS
		parms, actionAt, gotoOf = 2, 8, 12
		shot                    = 2 // TC_ACT_SHOT
	)
	if len(b) < nl.SizeofTcMsg {
		return f
	}
	attr := func(b []byte, want uint16) (found [][]byte) {
		_ = link.EachAttr(b, func(typ uint16, v []byte) error { // what comes before a fault counts
			if typ == want || want == 0 {
				found = append(found, v)
			}
			return nil
		})
		return found
	}
	b = b[nl.SizeofTcMsg:]
	for _, v := range attr(b, kind) {
		f.kind = string(v[:max(0, len(v)-1)])
	}
	at, known := actionsAt(f.kind)
	if !known {
		return f
	}
	for _, o := range attr(b, options) {
		for _, list := range attr(o, at) {
			for _, action := range attr(list, 0) {
				isGact := slices.ContainsFunc(attr(action, actKind), func(v []byte) bool { return string(v) == "gact\x00" })
				for _, o := range attr(action, actOptions) {
					for _, p := range attr(o, parms) {
						f.drops = f.drops || isGact && len(p) >= gotoOf && binary.NativeEndian.Uint32(p[actionAt:]) == shot
					}
				}
			}
		}
	}
	return f
}
