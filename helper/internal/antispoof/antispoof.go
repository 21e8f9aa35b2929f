// Package antispoof builds the packet filters that keep a guest to its own MAC address and VLANs.
//
// The holder of a TAP or macvtap descriptor needs no privilege to send frames with any source address, to the bridges'
// own group addresses, or with any VLAN tag, nor to change the device's address. The filter sits on the device where
// the holder cannot reach it.
//
// The programs are classic BPF (linux/filter.h), for the hooks of a clsact queueing discipline, where a frame begins
// with its Ethernet header. A load beyond the end would end such a program with 0, which is Pass; therefore lengths are
// compared first.
package antispoof

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/linkproto"
	"libvirt-direct/helper/internal/policy"
)

// Verdicts of a direct-action classifier (linux/pkt_cls.h).
const (
	Pass = 0 // TC_ACT_OK
	Drop = 2 // TC_ACT_SHOT
)

// Offsets of a classic BPF program's ancillary loads (linux/filter.h).
const (
	ancillary      = 0xfffff000 // SKF_AD_OFF
	vlanTag        = ancillary + 44
	vlanTagPresent = ancillary + 48
)

const (
	header   = 14
	typeAt   = 12
	tagSize  = 4
	minType  = 0x600 // smaller numbers are an LLC frame's length
	llcSize  = 3
	snapSize = 8
)

// Scratch memory of a program that allows link-control protocols with addresses of their own.
const (
	cellReserved = iota // whether the destination is one of the table's
	cellForm            // what the frame carries: its EtherType, or one of those below
)

const (
	formLLC  = 1 << 16 // with the destination access point
	formSNAP = 2 << 16 // a SNAP header of an allowed protocol
	formNone = 3 << 16 // no protocol of the table
)

// control is LLC's unnumbered information, which stands in front of a SNAP header's organization.
const control = 3 << 24

// filter is a program in the making.
type filter struct {
	program
	pass, drop label
	allowed    []*linkproto.Protocol
	reserved   bool // frames to the table's destinations have to be told apart by what they carry
}

func newFilter() *filter {
	f := &filter{program: program{ops: make([]op, 0, 512), labels: make([]int, 0, 128)}}
	f.pass, f.drop = f.label(), f.label()
	return f
}

func (f *filter) finish() []unix.SockFilter {
	f.place(f.drop)
	f.ret(Drop)
	f.place(f.pass)
	f.ret(Pass)
	return f.assemble()
}

// Outgoing returns the program for what a guest sends. A frame passes if
//
//   - its source is mac;
//   - it has no VLAN tag, or one (TPID 0x8100 or 0x88a8) whose VLAN ID is in vlans, or with vlans.All up to two of any
//     TPID in linkproto.Tags. A tag may be in the frame or, as the kernel moves it, beside it;
//   - what it carries, behind the tags, is no form of a link-control protocol, or of one that is allowed;
//   - its destination is none of the link-control protocols', or is of an allowed one whose form the frame has;
//   - it does not end within a header.
//
// LLC frames are judged by the access points; either may make them STP's or SNAP. SNAP headers that hold an EtherType do not
// pass: the guest may leave a checksum to the kernel, which is filled in behind the filter, from octet 20 of the frame on,
// and there that EtherType is. Of other SNAP headers AppleTalk's passes, and those of allowed protocols. There is no list of
// bad ones: every vendor may have put a control protocol there, and data protocols no longer use it.
func Outgoing(mac ether.MAC, vlans policy.VLANSet, allowed linkproto.Set) []unix.SockFilter {
	f := newFilter()
	f.allowed = allowed.Protocols()
	for _, p := range f.allowed {
		f.reserved = f.reserved || len(p.Groups) > 0
	}
	f.room(header)
	f.load(unix.BPF_W|unix.BPF_ABS, 6)
	f.when(unix.BPF_JEQ, word(mac[:4]), next, f.drop)
	f.load(unix.BPF_H|unix.BPF_ABS, 10)
	f.when(unix.BPF_JEQ, word(mac[4:]), next, f.drop)
	f.destination()
	f.tags(vlans)
	f.form(allowed)
	return f.finish()
}

// Incoming returns the program for what goes towards the guest. A frame passes if
//
//   - its destination is a group address, or mac; any if mac is nil. A macvtap whose holder gave it another address
//     would otherwise receive another station's frames;
//   - it has no VLAN tag (TPIDs in linkproto.Tags), or those that Outgoing allows, or a priority tag (VLAN ID 0), which
//     puts it in no VLAN; with vlans.All any;
//   - it does not end within a header.
//
// Where every frame passes the program is nil.
func Incoming(mac *ether.MAC, vlans policy.VLANSet) []unix.SockFilter {
	if mac == nil && vlans.All {
		return nil
	}
	f := newFilter()
	f.room(header)
	if mac != nil {
		mine, other := f.label(), f.label()
		f.load(unix.BPF_B|unix.BPF_ABS, 0)
		f.when(unix.BPF_JSET, 1, mine, other)
		f.place(other)
		f.load(unix.BPF_W|unix.BPF_ABS, 0)
		f.when(unix.BPF_JEQ, word(mac[:4]), next, f.drop)
		f.load(unix.BPF_H|unix.BPF_ABS, 4)
		f.when(unix.BPF_JEQ, word(mac[4:]), mine, f.drop)
		f.place(mine)
	}
	if !vlans.All {
		vlans.Ranges = append([]policy.VLANRange{{}}, vlans.Ranges...)
		f.tags(vlans)
		f.load(unix.BPF_H|unix.BPF_IND, 0)
		f.anyTag(f.pass)
		f.jump(f.drop)
	} else {
		f.jump(f.pass)
	}
	return f.finish()
}

func word(octets []byte) (n uint32) {
	for _, o := range octets {
		n = n<<8 | uint32(o)
	}
	return n
}

// destination drops frames to the table's destinations, or notes them for judge.
func (f *filter) destination() {
	ordinary, found := f.label(), f.drop
	if f.reserved {
		found = f.label()
		f.do(unix.BPF_LD|unix.BPF_IMM, 0)
		f.do(unix.BPF_ST, cellReserved)
	}
	chunks := prefixes()
	labels := make([]label, len(chunks))
	f.load(unix.BPF_B|unix.BPF_ABS, 0)
	for i, c := range chunks {
		labels[i] = f.label()
		value, _ := c[0].Match()
		f.when(unix.BPF_JEQ, uint32(value>>40), labels[i], next)
	}
	f.jump(ordinary)
	for i, c := range chunks {
		f.place(labels[i])
		f.begins(c, found)
		f.jump(ordinary)
	}
	if f.reserved {
		f.place(found)
		f.do(unix.BPF_LD|unix.BPF_IMM, 1)
		f.do(unix.BPF_ST, cellReserved)
	}
	f.place(ordinary)
}

// prefixes returns the table's destinations by their first octets, without those that others include.
func prefixes() (chunks [][]linkproto.Prefix) {
	all := make([]linkproto.Prefix, 0, 128)
	for _, p := range linkproto.All() {
		all = append(all, p.Groups...)
	}
	slices.Sort(all) // one that includes another stands before it
	last := linkproto.Prefix("none")
	for _, g := range all {
		if strings.HasPrefix(string(g), string(last)) {
			continue
		}
		if g[:2] != last[:2] {
			chunks = append(chunks, nil)
		}
		chunks[len(chunks)-1] = append(chunks[len(chunks)-1], g)
		last = g
	}
	return chunks
}

// begins jumps to yes if the destination is one of groups, and goes on otherwise.
func (f *filter) begins(groups []linkproto.Prefix, yes label) {
	for _, g := range groups {
		value, mask := g.Match()
		no := f.label()
		f.load(unix.BPF_W|unix.BPF_ABS, 0)
		if high := uint32(mask >> 16); high != 1<<32-1 {
			f.do(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, high)
		}
		if mask&0xffff == 0 {
			f.when(unix.BPF_JEQ, uint32(value>>16), yes, no)
		} else {
			f.when(unix.BPF_JEQ, uint32(value>>16), next, no)
			f.load(unix.BPF_H|unix.BPF_ABS, 4)
			if low := uint32(mask & 0xffff); low != 0xffff {
				f.do(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, low)
			}
			f.when(unix.BPF_JEQ, uint32(value&0xffff), yes, no)
		}
		f.place(no)
	}
}

// tags judges the tags that the guest may use, and leaves the offset of what follows in X. A tag more is left to be
// judged as an EtherType, which is none that passes.
func (f *filter) tags(vlans policy.VLANSet) {
	f.do(unix.BPF_LDX|unix.BPF_W|unix.BPF_IMM, typeAt)
	f.load(unix.BPF_W|unix.BPF_ABS, vlanTagPresent)
	end := f.label()
	switch {
	case vlans.All:
		two := f.label()
		f.when(unix.BPF_JEQ, 0, two, next)
		f.load(unix.BPF_H|unix.BPF_ABS, typeAt)
		f.skipTag(typeAt, end)
		f.jump(end)
		f.place(two)
		f.load(unix.BPF_H|unix.BPF_ABS, typeAt)
		f.skipTag(typeAt, end)
		f.load(unix.BPF_H|unix.BPF_ABS, typeAt+tagSize)
		f.skipTag(typeAt+tagSize, end)
	case len(vlans.Ranges) == 0:
		f.when(unix.BPF_JEQ, 0, next, f.drop)
	default:
		inside, tag := f.label(), f.label()
		f.when(unix.BPF_JEQ, 0, inside, next)
		f.load(unix.BPF_W|unix.BPF_ABS, vlanTag)
		f.member(vlans, end)
		f.place(inside)
		f.load(unix.BPF_H|unix.BPF_ABS, typeAt)
		f.when(unix.BPF_JEQ, uint32(linkproto.Tags[0]), tag, next)
		f.when(unix.BPF_JEQ, uint32(linkproto.Tags[1]), tag, end)
		f.place(tag)
		f.room(header + tagSize)
		f.do(unix.BPF_LDX|unix.BPF_W|unix.BPF_IMM, typeAt+tagSize)
		f.load(unix.BPF_H|unix.BPF_ABS, header)
		f.member(vlans, end)
	}
	f.place(end)
}

// skipTag takes the value loaded from at. If it is no tag's, it jumps to end.
func (f *filter) skipTag(at uint32, end label) {
	f.anyTag(end)
	f.room(at + 2 + tagSize)
	f.do(unix.BPF_LDX|unix.BPF_W|unix.BPF_IMM, at+tagSize)
}

// anyTag takes the value loaded for a TPID, goes on if it is one, and jumps to no otherwise.
func (f *filter) anyTag(no label) {
	yes := f.label()
	for _, tpid := range linkproto.Tags {
		f.when(unix.BPF_JEQ, uint32(tpid), yes, next)
	}
	f.jump(no)
	f.place(yes)
}

// room drops a frame of fewer octets.
func (f *filter) room(octets uint32) {
	f.load(unix.BPF_W|unix.BPF_LEN, 0)
	f.when(unix.BPF_JGE, octets, next, f.drop)
}

// roomBehind drops a frame that has fewer octets behind the type at X.
func (f *filter) roomBehind(octets uint32) {
	f.load(unix.BPF_W|unix.BPF_LEN, 0)
	f.do(unix.BPF_ALU|unix.BPF_SUB|unix.BPF_X, 0)
	f.when(unix.BPF_JGE, 2+octets, next, f.drop)
}

// member takes the value loaded for a tag's TCI, jumps to yes if its VLAN ID is one of vlans, and drops others.
func (f *filter) member(vlans policy.VLANSet, yes label) {
	f.do(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0xfff)
	for _, r := range vlans.Ranges {
		no := f.label()
		f.when(unix.BPF_JGE, uint32(r.First), next, no)
		f.when(unix.BPF_JGT, uint32(r.Last), no, yes)
		f.place(no)
	}
	f.jump(f.drop)
}

// form judges what the frame carries: the type, or the length and what follows, is at X.
func (f *filter) form(allowed linkproto.Set) {
	judge, etherType := f.label(), f.label()
	f.load(unix.BPF_H|unix.BPF_IND, 0)
	f.when(unix.BPF_JGE, minType, etherType, next)

	snap := f.label()
	f.roomBehind(llcSize)
	bridge := f.drop
	if slices.ContainsFunc(f.allowed, func(p *linkproto.Protocol) bool { return slices.Contains(p.SAPs, linkproto.SAPBridge) }) {
		bridge = f.label()
	}
	for _, sap := range [...]struct {
		is uint8
		to label
	}{{linkproto.SAPBridge, bridge}, {linkproto.SAPSNAP, snap}} {
		for at := uint32(2); at < 4; at++ {
			f.load(unix.BPF_B|unix.BPF_IND, at)
			f.do(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0xfe) // the lowest bit marks a group, or a response
			f.when(unix.BPF_JEQ, uint32(sap.is), sap.to, next)
		}
	}
	f.load(unix.BPF_B|unix.BPF_IND, 2)
	f.do(unix.BPF_ALU|unix.BPF_OR|unix.BPF_K, formLLC)
	f.jump(judge)
	if bridge != f.drop {
		f.place(bridge)
		f.do(unix.BPF_LD|unix.BPF_IMM, formLLC|uint32(linkproto.SAPBridge))
		f.jump(judge)
	}
	f.place(snap)
	f.snap(judge)

	f.place(etherType)
	for _, common := range [...]uint32{unix.ETH_P_IP, unix.ETH_P_IPV6, unix.ETH_P_ARP} {
		f.when(unix.BPF_JEQ, common, judge, next)
	}
	for _, t := range linkproto.Tags {
		f.when(unix.BPF_JEQ, uint32(t), f.drop, next)
	}
	for _, p := range allowed.Others() {
		for _, t := range p.Types {
			if !p.Elsewhere && !slices.ContainsFunc(f.allowed, func(p *linkproto.Protocol) bool { return slices.Contains(p.Types, t) }) {
				f.when(unix.BPF_JEQ, uint32(t), f.drop, next)
			}
		}
	}
	f.place(judge)
	f.judge()
}

// snap judges a SNAP header.
func (f *filter) snap(judge label) {
	apple, vendor := f.label(), f.label()
	f.roomBehind(snapSize)
	f.load(unix.BPF_W|unix.BPF_IND, 4)
	f.when(unix.BPF_JEQ, control|linkproto.OUIEtherType, f.drop, next)
	f.when(unix.BPF_JEQ, control|linkproto.OUITunnel, f.drop, next)
	f.when(unix.BPF_JEQ, control|linkproto.OUIApple, apple, vendor)

	f.place(apple)
	f.load(unix.BPF_H|unix.BPF_IND, 8)
	none := f.label()
	f.when(unix.BPF_JEQ, uint32(linkproto.PIDApple), none, f.drop)
	f.place(none)
	f.do(unix.BPF_LD|unix.BPF_IMM, formNone)
	f.jump(judge)

	f.place(vendor)
	known := f.label()
	for _, p := range f.allowed {
		f.snapOf(p, known)
	}
	f.jump(f.drop)
	f.place(known)
	f.do(unix.BPF_LD|unix.BPF_IMM, formSNAP)
	f.jump(judge)
}

// snapOf jumps to yes if the SNAP header is one of p's, and goes on otherwise.
func (f *filter) snapOf(p *linkproto.Protocol, yes label) {
	for _, s := range p.SNAPs {
		no, found := f.label(), yes
		if !s.AnyPID {
			found = next
		}
		f.load(unix.BPF_W|unix.BPF_IND, 4)
		if s.OUI == linkproto.AnyVendor {
			f.do(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0xff000000)
			f.when(unix.BPF_JEQ, control, found, no)
		} else {
			f.when(unix.BPF_JEQ, control|s.OUI, found, no)
		}
		if !s.AnyPID {
			f.load(unix.BPF_H|unix.BPF_IND, 8)
			f.when(unix.BPF_JEQ, uint32(s.PID), yes, no)
		}
		f.place(no)
	}
}

// judge lets a frame pass whose destination is not the table's, or goes with the form that is in A.
func (f *filter) judge() {
	if !f.reserved {
		f.jump(f.pass)
		return
	}
	f.do(unix.BPF_ST, cellForm)
	f.load(unix.BPF_MEM, cellReserved)
	f.when(unix.BPF_JEQ, 0, f.pass, next)
	for _, p := range f.allowed {
		if len(p.Groups) == 0 {
			continue
		}
		yes, no := f.label(), f.label()
		if len(p.Types)+len(p.SAPs)+len(p.SNAPs) > 0 {
			f.load(unix.BPF_MEM, cellForm)
			for _, t := range p.Types {
				f.when(unix.BPF_JEQ, uint32(t), yes, next)
			}
			for _, s := range p.SAPs {
				f.when(unix.BPF_JEQ, formLLC|uint32(s), yes, next)
			}
			if len(p.SNAPs) > 0 {
				f.when(unix.BPF_JEQ, formSNAP, next, no)
				f.snapOf(p, yes)
			}
			f.jump(no)
		}
		f.place(yes)
		f.begins(p.Groups, f.pass)
		f.place(no)
	}
	f.jump(f.drop)
}
