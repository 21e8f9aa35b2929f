package main

import (
	"errors"
	"strconv"
)

// vlanFlag is a VLAN identifier on the command line, in decimal digits, as libvirt reads
// the id of <tag>. Package pflag would take 0100 for 64.
type vlanFlag uint16

func (v *vlanFlag) String() string { return strconv.Itoa(int(*v)) }

func (v *vlanFlag) Type() string { return "VID" }

func (v *vlanFlag) Set(s string) error {
	n, err := decimal(s, 4095)
	if err != nil {
		return err
	}
	*v = vlanFlag(n)
	return nil
}

// decimal reads a number without sign, prefix or blank, at most limit.
func decimal(s string, limit int) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || int(n) > limit {
		return 0, errors.New("want decimal digits, 0 to " + strconv.Itoa(limit))
	}
	return int(n), nil
}
