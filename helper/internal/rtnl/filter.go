package rtnl

import "golang.org/x/sys/unix"

const (
	ingressHook = 0xfff2 // TC_H_MIN_INGRESS
	egressHook  = 0xfff3 // TC_H_MIN_EGRESS

	tcaBPFOpsLen = 4 // TCA_BPF_OPS_LEN
	tcaBPFOps    = 5 // TCA_BPF_OPS
	tcaBPFFlags  = 8 // TCA_BPF_FLAGS
	actDirect    = 1 // TCA_BPF_FLAG_ACT_DIRECT: the program's result is the verdict
)

// Filter gives the device classic BPF programs, which return TC_ACT_OK (0) or TC_ACT_SHOT (2), for the frames that it
// receives and those that it sends. An empty program is none.
func (m *Batch) Filter(index int, ingress, egress []unix.SockFilter) {
	if len(ingress) == 0 && len(egress) == 0 {
		return
	}
	m.begin(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.traffic(index, clsactHandle, clsact, 0)
	m.attrString(unix.TCA_KIND, "clsact")
	m.end()
	m.addFilter(index, ingressHook, ingress)
	m.addFilter(index, egressHook, egress)
}

func (m *Batch) addFilter(index int, hook uint32, program []unix.SockFilter) {
	if len(program) == 0 {
		return
	}
	const priority = 1
	protocolAll := uint32(0x0300) // htons(ETH_P_ALL)
	if bigEndian() {
		protocolAll = unix.ETH_P_ALL
	}
	m.begin(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.traffic(index, 0, clsact&0xffff0000|hook, priority<<16|protocolAll)
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
