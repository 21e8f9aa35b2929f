package daemon

import (
	"libvirt-direct/internal/link"
	"libvirt-direct/vdp/control"
)

// bondActiveBackup is the mode in which a bond uses one slave at a time (BOND_MODE_ACTIVEBACKUP
// of include/uapi/linux/if_bonding.h).
const bondActiveBackup = 1

// Attributes of IFLA_INFO_DATA of a bond, of include/uapi/linux/if_link.h.
const (
	attrBondMode        = 1
	attrBondActiveSlave = 2
)

// bondInfo is what matters of a bond.
type bondInfo struct {
	mode   uint8
	active int // the slave in use, 0 for none; in bondActiveBackup only
}

func parseBond(data []byte) (b bondInfo, err error) {
	err = link.EachAttr(data, func(typ uint16, v []byte) error {
		switch {
		case typ == attrBondMode && len(v) > 0:
			b.mode = v[0]
		case typ == attrBondActiveSlave:
			b.active = int(number(v))
		}
		return nil
	})
	return b, err
}

// unfit says why no station can run on an interface, nil if one can. Behind the slaves of a bond
// there may be several switches. 802.1Qbg is between one port and one other: each slave would
// need a station of its own.
func (l *linkInfo) unfit() error {
	if l.kind == "bond" && l.bond.mode != bondActiveBackup {
		return control.ErrBond
	}
	return nil
}
