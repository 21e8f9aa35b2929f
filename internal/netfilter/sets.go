package netfilter

import (
	"errors"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// set is a set of nf_tables, or a map.
type set struct {
	elements []element
	// ranges: its elements begin and end ranges.
	ranges bool
}

type element struct {
	key []byte
	// other: it is for what no other element is for.
	other bool
	rule  rule // its verdict, of a map of verdicts
}

// setReader reads a set of a table.
type setReader func(family Family, table, name string) (set, error)

// NFTA_SET_ELEM_KEY_END and NFT_SET_ELEM_CATCHALL of include/uapi/linux/netfilter/nf_tables.h.
const (
	nftaSetElemKeyEnd  = 10
	nftSetElemCatchall = 2
)

// elements is the setReader of this network namespace.
func elements(family Family, table, name string) (all set, err error) {
	found, err := dumpOf(family, unix.NFT_MSG_GETSETELEM,
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(table)), nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(name)))
	for _, b := range found {
		if err == nil {
			err = all.parse(b)
		}
	}
	return all, err
}

// parse adds the elements of a message.
func (s *set) parse(b []byte) error {
	_, err := attrs(b, func(typ uint16, v []byte) error {
		if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return each(v, func(_ uint16, v []byte) error {
			e := element{}
			err := each(v, func(typ uint16, v []byte) error {
				switch typ {
				case unix.NFTA_SET_ELEM_KEY:
					return each(v, func(_ uint16, v []byte) error {
						e.key = v
						return nil
					})
				case nftaSetElemKeyEnd:
					s.ranges = true
				case unix.NFTA_SET_ELEM_DATA:
					return e.rule.setVerdict(v)
				case unix.NFTA_SET_ELEM_FLAGS:
					flags, err := number(v)
					s.ranges = s.ranges || flags&unix.NFT_SET_ELEM_INTERVAL_END != 0
					e.other = flags&nftSetElemCatchall != 0
					return err
				}
				return nil
			})
			s.elements = append(s.elements, e)
			return err
		})
	})
	return err
}

// lookup reads where a rule looks something up in a set, or its verdict in a map.
func (p *ruleParser) lookup(b []byte) error {
	var name string
	var reg, to, flags uint32
	isMap := false
	err := each(b, func(typ uint16, v []byte) (err error) {
		switch typ {
		case unix.NFTA_LOOKUP_SET:
			name = cstring(v)
		case unix.NFTA_LOOKUP_SREG:
			reg, err = number(v)
		case unix.NFTA_LOOKUP_DREG:
			isMap = true
			to, err = number(v)
		case unix.NFTA_LOOKUP_FLAGS:
			flags, err = number(v)
		}
		return err
	})
	if err != nil {
		return err
	}
	of, known := p.loads[reg]
	if isMap && to != unix.NFT_REG_VERDICT {
		p.unknown = true
		clear(p.loads)
		return nil
	}
	if !isMap && !known { // what it has does not matter
		p.unknown = true
		return nil
	}
	s, err := p.set(name)
	if errors.Is(err, unix.ENOENT) { // it has gone since
		s, err, known = set{}, nil, false
	}
	if err != nil {
		return err
	}
	known = known && !s.ranges && !slices.ContainsFunc(s.elements, func(e element) bool { return !e.other && len(e.key) != of.width() })
	var names []deviceName
	for _, e := range s.elements {
		if known && !e.other {
			names = append(names, deviceName{name: of.name(e.key).name})
		}
	}
	if !isMap {
		p.unknown = p.unknown || !known
		if known {
			p.when = append(p.when, condition{of.field, names, flags&unix.NFT_LOOKUP_F_INV != 0})
		}
		return nil
	}
	for _, e := range s.elements {
		r := e.rule
		if same := func(q rule) bool { return q.verdict == r.verdict && q.chain == r.chain }; !known && slices.ContainsFunc(p.fromMap, same) {
			continue // an address more, of a long list
		}
		r.when, r.unknown = slices.Clone(p.when), p.unknown || !known
		switch {
		case !known:
		case e.other:
			r.when = append(r.when, condition{of.field, names, true})
		default:
			r.when = append(r.when, condition{of.field, []deviceName{{name: of.name(e.key).name}}, false})
		}
		p.fromMap = append(p.fromMap, r)
	}
	return nil
}

// object reads where a rule uses a named object: a counter does nothing to a frame.
func (p *ruleParser) object(b []byte) error {
	return each(b, func(typ uint16, v []byte) error {
		if typ == unix.NFTA_OBJREF_IMM_TYPE {
			kind, err := number(v)
			p.unknown = p.unknown || kind != unix.NFT_OBJECT_COUNTER
			return err
		}
		p.unknown = p.unknown || typ != unix.NFTA_OBJREF_IMM_NAME // by a map
		return nil
	})
}
