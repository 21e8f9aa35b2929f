package rtnl

import "golang.org/x/sys/unix"

// Hook is the side of a device on which a filter sits (TC_H_MIN_INGRESS, TC_H_MIN_EGRESS).
type Hook uint32

// Hooks of the clsact queueing discipline.
const (
	Ingress Hook = 0xfff2 // frames the device receives: those a TAP's holder writes
	Egress  Hook = 0xfff3 // frames the device sends: those a macvtap's holder writes
)

const (
	tcaBPFOpsLen = 4 // TCA_BPF_OPS_LEN
	tcaBPFOps    = 5 // TCA_BPF_OPS
	tcaBPFFlags  = 8 // TCA_BPF_FLAGS
	actDirect    = 1 // TCA_BPF_FLAG_ACT_DIRECT: the program's result is the verdict
)

// AddFilter gives the device a clsact queueing discipline and a classic BPF program on one hook. The program returns
// TC_ACT_OK (0) or TC_ACT_SHOT (2).
func (m *Batch) AddFilter(index int, hook Hook, program []unix.SockFilter) {
	m.begin(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.traffic(index, clsactHandle, clsact, 0)
	m.attrString(unix.TCA_KIND, "clsact")
	m.end()

	const priority = 1
	protocolAll := uint32(0x0300) // htons(ETH_P_ALL)
	if bigEndian() {
		protocolAll = unix.ETH_P_ALL
	}
	m.begin(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.traffic(index, 0, clsact&0xffff0000|uint32(hook), priority<<16|protocolAll)
	m.attrString(unix.TCA_KIND, "bpf")
	m.nest(unix.TCA_OPTIONS, func() {
		m.attr16(tcaBPFOpsLen, uint16(len(program)))
		ops := make([]byte, 0, 8*len(program))
		for _, op := range program {
			b := Batch{b: ops}
			b.u16(op.Code)
			b.b = append(b.b, op.Jt, op.Jf)
			b.u32(op.K)
			ops = b.b
		}
		m.attr(tcaBPFOps, ops)
		m.attr32(tcaBPFFlags, actDirect)
	})
	m.end()
}

func bigEndian() bool { return get16([]byte{0, 1}) == 1 }
