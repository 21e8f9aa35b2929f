package antispoof

import (
	"encoding/binary"
	"fmt"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// frame is what a program sees: the octets, and the tag that the kernel keeps beside them.
type frame struct {
	octets []byte
	tagged bool
	tci    uint16
}

func (f frame) String() string {
	if f.tagged {
		return fmt.Sprintf("%x, tag %04x beside", f.octets, f.tci)
	}
	return fmt.Sprintf("%x", f.octets)
}

// execute runs a program as the kernel does (bpf(4), net/core/filter.c), but reports a load beyond the end.
func execute(p []unix.SockFilter, f frame) (verdict uint32, err error) {
	var a, x uint32
	var cells [16]uint32
	written := [16]bool{}
	for pc := 0; pc < len(p); pc++ {
		op := p[pc]
		k := op.K
		switch op.Code & 7 {
		case unix.BPF_RET:
			return k, nil
		case unix.BPF_LDX:
			x = k
			if op.Code != unix.BPF_LDX|unix.BPF_W|unix.BPF_IMM {
				return 0, fmt.Errorf("%d: code %x", pc, op.Code)
			}
		case unix.BPF_ST:
			cells[k], written[k] = a, true
		case unix.BPF_ALU:
			switch op.Code {
			case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
				a &= k
			case unix.BPF_ALU | unix.BPF_OR | unix.BPF_K:
				a |= k
			case unix.BPF_ALU | unix.BPF_SUB | unix.BPF_X:
				a -= x
			default:
				return 0, fmt.Errorf("%d: code %x", pc, op.Code)
			}
		case unix.BPF_LD:
			size := map[uint16]int{unix.BPF_W: 4, unix.BPF_H: 2, unix.BPF_B: 1}[op.Code&0x18]
			at := int(k)
			switch op.Code & 0xe0 {
			case unix.BPF_IMM:
				a = k
				continue
			case unix.BPF_LEN:
				a = uint32(len(f.octets))
				continue
			case unix.BPF_MEM:
				if !written[k] {
					return 0, fmt.Errorf("%d: cell %d was not written", pc, k)
				}
				a = cells[k]
				continue
			case unix.BPF_IND:
				at += int(x)
			case unix.BPF_ABS:
				if k == vlanTag {
					a = uint32(f.tci)
					continue
				}
				if k == vlanTagPresent {
					a = 0
					if f.tagged {
						a = 1
					}
					continue
				}
			}
			if at+size > len(f.octets) {
				return 0, fmt.Errorf("%d: loads octet %d of %d", pc, at+size, len(f.octets))
			}
			var word [4]byte
			copy(word[4-size:], f.octets[at:])
			a = binary.BigEndian.Uint32(word[:])
		case unix.BPF_JMP:
			var yes bool
			switch op.Code & 0xf8 {
			case unix.BPF_JMP&0xf8 | unix.BPF_JA:
				pc += int(k)
				continue
			case unix.BPF_JEQ:
				yes = a == k
			case unix.BPF_JGT:
				yes = a > k
			case unix.BPF_JGE:
				yes = a >= k
			case unix.BPF_JSET:
				yes = a&k != 0
			}
			if yes {
				pc += int(op.Jt)
			} else {
				pc += int(op.Jf)
			}
		default:
			return 0, fmt.Errorf("%d: code %x", pc, op.Code)
		}
	}
	return 0, fmt.Errorf("ran off the end")
}

// requireLoads gives the program to the kernel, which refuses one whose jumps leave it, whose end is open, or that reads
// a cell before it is written.
func requireLoads(t testing.TB, p []unix.SockFilter) {
	t.Helper()
	require.Less(t, len(p), 4096) // BPF_MAXINSNS
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(p)), Filter: (*unix.SockFilter)(unsafe.Pointer(&p[0]))}))
}
