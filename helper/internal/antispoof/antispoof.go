// Package antispoof builds the packet filter that keeps a guest to its own MAC address.
//
// The holder of a TAP or macvtap descriptor needs no privilege to send frames with any source address, to the bridges'
// own group addresses, or with any VLAN tag, nor to change the device's address. The filter sits on the device where
// the holder cannot reach it.
package antispoof

import (
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
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

// Program returns a classic BPF program (linux/filter.h) that lets a frame pass if
//
//   - its destination is none of 01:80:c2:xx:xx:xx, the group addresses of spanning tree, LACP, LLDP, 802.1X, VDP and
//     the like (IEEE 802.1Q-2018 §8.6.3), which no guest has any business with;
//   - its source is mac;
//   - it carries no VLAN tag (TPID 0x8100, 0x88a8, 0x9100), or one of the first two kinds whose VLAN ID is in vlans,
//     or vlans.All is set. A tag may be in the frame or, as the kernel moves it, beside it.
//
// It drops a frame that ends within a header. A load beyond the end would end a classic program with 0, which is Pass;
// therefore lengths are compared first.
func Program(mac ether.MAC, vlans policy.VLANSet) []unix.SockFilter {
	var p program
	p.load(unix.BPF_W|unix.BPF_LEN, 0)
	p.dropUnless(unix.BPF_JGE, 14)
	p.load(unix.BPF_W|unix.BPF_ABS, 0)
	p.op(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0, 0, 0xffffff00)
	p.dropIf(unix.BPF_JEQ, 0x0180c200)
	p.load(unix.BPF_W|unix.BPF_ABS, 6)
	p.dropUnless(unix.BPF_JEQ, uint32(mac[0])<<24|uint32(mac[1])<<16|uint32(mac[2])<<8|uint32(mac[3]))
	p.load(unix.BPF_H|unix.BPF_ABS, 10)
	p.dropUnless(unix.BPF_JEQ, uint32(mac[4])<<8|uint32(mac[5]))
	if vlans.All {
		p.ret(Pass)
		return p
	}

	// The tag beside the frame; what follows then is the tag of the frame behind it, which would be a second one.
	beside := program{}
	beside.load(unix.BPF_W|unix.BPF_ABS, vlanTag)
	beside.member(vlans)
	beside.load(unix.BPF_H|unix.BPF_ABS, 12)
	beside.dropIfTag()
	beside.ret(Pass)

	p.load(unix.BPF_W|unix.BPF_ABS, vlanTagPresent)
	if len(vlans.Ranges) == 0 {
		p.dropUnless(unix.BPF_JEQ, 0)
		p.load(unix.BPF_H|unix.BPF_ABS, 12)
		p.dropIfTag()
		p.ret(Pass)
		return p
	}
	p.op(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, uint8(len(beside)), 0, 0)
	p = append(p, beside...)

	// The tag in the frame.
	p.load(unix.BPF_H|unix.BPF_ABS, 12)
	p.op(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 4, 0, 0x8100)
	p.op(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 3, 0, 0x88a8)
	p.dropIf(unix.BPF_JEQ, 0x9100)
	p.ret(Pass)
	p.load(unix.BPF_W|unix.BPF_LEN, 0)
	p.dropUnless(unix.BPF_JGE, 18)
	p.load(unix.BPF_H|unix.BPF_ABS, 14)
	p.member(vlans)
	p.load(unix.BPF_H|unix.BPF_ABS, 16)
	p.dropIfTag()
	p.ret(Pass)
	return p
}

type program []unix.SockFilter

func (p *program) op(code uint16, jt, jf uint8, k uint32) {
	*p = append(*p, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
}

func (p *program) load(mode uint16, k uint32) { p.op(unix.BPF_LD|mode, 0, 0, k) }
func (p *program) ret(verdict uint32)         { p.op(unix.BPF_RET|unix.BPF_K, 0, 0, verdict) }

func (p *program) dropIf(cond uint16, k uint32) {
	p.op(unix.BPF_JMP|cond|unix.BPF_K, 0, 1, k)
	p.ret(Drop)
}

func (p *program) dropUnless(cond uint16, k uint32) {
	p.op(unix.BPF_JMP|cond|unix.BPF_K, 1, 0, k)
	p.ret(Drop)
}

// dropIfTag takes the value loaded for a TPID.
func (p *program) dropIfTag() {
	for _, tpid := range [...]uint32{0x8100, 0x88a8, 0x9100} {
		p.dropIf(unix.BPF_JEQ, tpid)
	}
}

// member takes the value loaded for a tag's TCI, and goes on only if its VLAN ID is one of vlans.
func (p *program) member(vlans policy.VLANSet) {
	p.op(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0, 0, 0xfff)
	n := len(vlans.Ranges)
	for i, r := range vlans.Ranges {
		// Two instructions per range and a drop at the end.
		p.op(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, 0, 1, uint32(r.First))
		p.op(unix.BPF_JMP|unix.BPF_JGT|unix.BPF_K, 0, uint8(2*(n-1-i)+1), uint32(r.Last))
	}
	p.ret(Drop)
}
