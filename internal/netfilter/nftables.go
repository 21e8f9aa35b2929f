package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
)

// ErrMalformed: a message of nf_tables that cannot be read.
var ErrMalformed = errors.New("malformed message of nf_tables")

// Tables reads the chains and rules of nf_tables in this network namespace, iptables-nft's and
// ebtables-nft's among them; none where the kernel has no nf_tables.
func Tables() (Rules, error) {
	chains, err := dump(unix.NFT_MSG_GETCHAIN)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	var all Rules
	for _, b := range chains {
		c, err := parseChain(b)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if err != nil || len(all) == 0 {
		return nil, err
	}
	rules, err := dump(unix.NFT_MSG_GETRULE)
	if err != nil {
		return nil, err
	}
	for _, b := range rules {
		of, r, err := parseRule(b, elements)
		if err != nil {
			return nil, err
		}
		for i := range all {
			if all[i].Beside(of) && all[i].Name == of.Name {
				all[i].rules = append(all[i].rules, r...)
			}
		}
	}
	return all, nil
}

// The verdicts of include/uapi/linux/netfilter.h.
const (
	nfDrop   = 0
	nfAccept = 1
)

func dump(message int) ([][]byte, error) { return dumpOf(unix.AF_UNSPEC, message) }

func dumpOf(family Family, message int, attrs ...*nl.RtAttr) (found [][]byte, err error) {
	for range 5 { // a host with containers changes its rules at any time
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|message, unix.NLM_F_DUMP)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family), Version: nl.NFNETLINK_V0})
		for _, a := range attrs {
			req.AddData(a)
		}
		found, err = req.Execute(unix.NETLINK_NETFILTER, 0)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read nf_tables: %w", err)
	}
	return found, nil
}

// attrs calls f for each attribute after a message's struct nfgenmsg.
func attrs(b []byte, f func(typ uint16, v []byte) error) (Family, error) {
	if len(b) < nl.SizeofNfgenmsg {
		return 0, fmt.Errorf("%w: %d octets", ErrMalformed, len(b))
	}
	return Family(b[0]), each(b[nl.SizeofNfgenmsg:], f)
}

func each(b []byte, f func(typ uint16, v []byte) error) error {
	err := link.EachAttr(b, f)
	if errors.Is(err, link.ErrMalformed) {
		err = fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return err
}

func number(b []byte) (uint32, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("%w: a number of %d octets", ErrMalformed, len(b))
	}
	return binary.BigEndian.Uint32(b), nil
}

func parseChain(b []byte) (c Chain, err error) {
	c.Family, err = attrs(b, func(typ uint16, v []byte) error {
		switch typ {
		case unix.NFTA_CHAIN_TABLE:
			c.Table = cstring(v)
		case unix.NFTA_CHAIN_NAME:
			c.Name = cstring(v)
		case unix.NFTA_CHAIN_POLICY:
			n, err := number(v)
			c.Drops = n == nfDrop
			return err
		case unix.NFTA_CHAIN_HOOK:
			c.Base = true
			return each(v, c.hook)
		}
		return nil
	})
	return c, err
}

// NFTA_HOOK_DEVS of include/uapi/linux/netfilter/nf_tables.h.
const nftaHookDevs = 4

func (c *Chain) hook(typ uint16, v []byte) error {
	switch typ {
	case unix.NFTA_HOOK_HOOKNUM:
		n, err := number(v)
		c.Hook = int(n)
		return err
	case unix.NFTA_HOOK_DEV:
		c.Devices = []string{cstring(v)}
	case nftaHookDevs:
		c.Devices = nil
		return each(v, func(_ uint16, name []byte) error {
			c.Devices = append(c.Devices, cstring(name))
			return nil
		})
	}
	return nil
}

// parseRule reads a rule: several where it takes its verdict from a map. sets reads those.
func parseRule(b []byte, sets setReader) (of Chain, all []rule, err error) {
	p := ruleParser{loads: map[uint32]load{}}
	var expressions [][]byte
	of.Family, err = attrs(b, func(typ uint16, v []byte) error {
		switch typ {
		case unix.NFTA_RULE_TABLE:
			of.Table = cstring(v)
		case unix.NFTA_RULE_CHAIN:
			of.Name = cstring(v)
		case unix.NFTA_RULE_EXPRESSIONS:
			return each(v, func(_ uint16, v []byte) error {
				expressions = append(expressions, v)
				return nil
			})
		}
		return nil
	})
	p.set = func(name string) (set, error) { return sets(of.Family, of.Table, name) }
	for _, e := range expressions {
		if err == nil {
			err = p.expression(e)
		}
	}
	return of, append(p.fromMap, p.rule), err
}

// ruleParser reads a rule's expressions in their order.
type ruleParser struct {
	rule
	loads   map[uint32]load // which device a register has
	set     func(name string) (set, error)
	fromMap []rule // what comes before the rule itself: a map's verdicts
}

// load is a device's name in a register, or its index.
type load struct {
	field field
	index bool
}

// width is how long it is in a set; what is longer has more behind it.
func (l load) width() int {
	if l.index {
		return 4
	}
	return unix.IFNAMSIZ
}

// name reads what a register with a load is compared with.
func (l load) name(value []byte) deviceName {
	if l.index {
		if len(value) == 4 {
			if dev, err := net.InterfaceByIndex(int(binary.NativeEndian.Uint32(value))); err == nil {
				return deviceName{name: dev.Name}
			}
		}
		return deviceName{name: "/"} // it is gone: no device's name
	}
	// A name that ends with "*" is compared without its NUL.
	name := cstring(value)
	return deviceName{name, len(name) == len(value)}
}

func (p *ruleParser) expression(b []byte) error {
	var name string
	data := []byte{}
	err := each(b, func(typ uint16, v []byte) error {
		switch typ {
		case unix.NFTA_EXPR_NAME:
			name = cstring(v)
		case unix.NFTA_EXPR_DATA:
			data = v
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch name {
	case "counter", "log", "notrack":
		return nil
	case "objref":
		return p.object(data)
	case "lookup":
		return p.lookup(data)
	case "meta":
		return p.meta(data)
	case "cmp":
		return p.compare(data)
	case "immediate":
		return p.immediate(data)
	case "reject":
		p.verdict = drop
		return nil
	case "match":
		return p.match(data)
	case "target":
		return p.target(data)
	default: // it matches what is not known here, or loads it into some register
		p.unknown = true
		clear(p.loads)
	}
	return nil
}

func (p *ruleParser) meta(b []byte) error {
	var reg, key uint32
	loads := false
	err := each(b, func(typ uint16, v []byte) (err error) {
		switch typ {
		case unix.NFTA_META_DREG:
			loads = true
			reg, err = number(v)
		case unix.NFTA_META_KEY:
			key, err = number(v)
		}
		return err
	})
	if err != nil || !loads {
		return err // it sets a mark, a priority
	}
	delete(p.loads, reg)
	switch key {
	case unix.NFT_META_IIFNAME:
		p.loads[reg] = load{field: in}
	case unix.NFT_META_OIFNAME:
		p.loads[reg] = load{field: out}
	case unix.NFT_META_IIF:
		p.loads[reg] = load{field: in, index: true}
	case unix.NFT_META_OIF:
		p.loads[reg] = load{field: out, index: true}
	case unix.NFT_META_BRI_IIFNAME:
		p.loads[reg] = load{field: inBridge}
	case unix.NFT_META_BRI_OIFNAME:
		p.loads[reg] = load{field: outBridge}
	}
	return nil
}

func (p *ruleParser) compare(b []byte) error {
	var reg, op uint32
	var value []byte
	err := each(b, func(typ uint16, v []byte) (err error) {
		switch typ {
		case unix.NFTA_CMP_SREG:
			reg, err = number(v)
		case unix.NFTA_CMP_OP:
			op, err = number(v)
		case unix.NFTA_CMP_DATA:
			err = each(v, func(typ uint16, v []byte) error {
				if typ == unix.NFTA_DATA_VALUE {
					value = v
				}
				return nil
			})
		}
		return err
	})
	f, known := p.loads[reg]
	if err != nil || !known || op > unix.NFT_CMP_NEQ {
		p.unknown = true
		return err
	}
	p.when = append(p.when, condition{field: f.field, names: []deviceName{f.name(value)}, not: op == unix.NFT_CMP_NEQ})
	return nil
}

func (p *ruleParser) immediate(b []byte) error {
	return each(b, func(typ uint16, v []byte) error {
		if typ != unix.NFTA_IMMEDIATE_DATA {
			return nil
		}
		return p.setVerdict(v)
	})
}

// setVerdict reads the verdict among an expression's or an element's data, if it is one.
func (r *rule) setVerdict(b []byte) error {
	return each(b, func(typ uint16, v []byte) error {
		if typ != unix.NFTA_DATA_VERDICT {
			return nil
		}
		return each(v, func(typ uint16, v []byte) error {
			switch typ {
			case unix.NFTA_VERDICT_CODE:
				code, err := number(v)
				r.verdict = map[int32]verdict{
					nfDrop: drop, nfAccept: accept, unix.NFT_JUMP: jumpTo, unix.NFT_GOTO: goTo, unix.NFT_RETURN: comeBack,
				}[int32(code)]
				return err
			case unix.NFTA_VERDICT_CHAIN:
				r.chain = cstring(v)
			}
			return nil
		})
	})
}

// extension reads a match or a target of iptables or ebtables: both begin with a name, and
// NFTA_MATCH_INFO is NFTA_TARGET_INFO.
func extension(b []byte) (name string, info []byte, err error) {
	err = each(b, func(typ uint16, v []byte) error {
		switch typ {
		case unix.NFTA_MATCH_NAME:
			name = cstring(v)
		case unix.NFTA_MATCH_INFO:
			info = v
		}
		return nil
	})
	return name, info, err
}

// physdevBridged is XT_PHYSDEV_OP_BRIDGED, and the others the offsets of invert and bitmask
// in struct xt_physdev_info (include/uapi/linux/netfilter/xt_physdev.h).
const (
	physdevBridged = 4
	physdevInvert  = 64
	physdevBitmask = 65
)

func (p *ruleParser) match(b []byte) error {
	name, info, err := extension(b)
	switch {
	case err != nil || name == "comment":
	case name == "physdev" && len(info) > physdevBitmask && info[physdevBitmask] == physdevBridged:
		p.when = append(p.when, condition{field: bridged, not: info[physdevInvert] != 0})
	default:
		p.unknown = true
	}
	return err
}

// standard is struct ebt_standard_target's verdict, EBT_* of
// include/uapi/linux/netfilter_bridge/ebtables.h.
func standard(info []byte) verdict {
	if len(info) < 4 {
		return carryOn
	}
	switch int32(binary.NativeEndian.Uint32(info)) {
	case -1:
		return accept
	case -2:
		return drop
	case -4:
		return comeBack
	}
	return carryOn
}

func (p *ruleParser) target(b []byte) error {
	name, info, err := extension(b)
	switch {
	case err != nil:
	case name == "DROP" || name == "REJECT":
		p.verdict = drop
	case name == "standard":
		p.verdict = standard(info)
	}
	return err
}
