// Package cmdline reads the argument vector of the QEMU bridge helper contract.
package cmdline

import (
	"errors"
	"strconv"
	"strings"

	"libvirt-direct/helper/internal/ether"
)

// Usage is the one line printed for an argument vector that cannot be read.
const Usage = "usage: qemu-direct-helper [--use-vnet] --br=NAME[/MAC] --fd=N [--queues=N] | --list"

// Limits of what a caller may ask for.
const (
	MaxName   = 64 // octets of the value of --br, MAC included
	MaxQueues = 64 // descriptors in one SCM_RIGHTS message; the kernel's own limit is 253
)

var errUsage = errors.New(Usage)

// Request is what the caller asks for.
type Request struct {
	Name    string    // profile or bridge
	MAC     ether.MAC // valid if HasMAC
	HasMAC  bool
	FD      int  // the descriptor to answer on
	VNetHdr bool // --use-vnet: frames carry a struct virtio_net_hdr
	Queues  int  // at least 1
	List    bool // --list: print what the caller may use, hand out nothing
}

// Parse reads the arguments after the program's name: --use-vnet, --br=, --fd= and --queues= in any order, the last of
// each one winning, as in qemu-bridge-helper. Any other word is an error, and so is a NAME with an octet outside
// [A-Za-z0-9_.:/-] or longer than MaxName: what is compared later is then always what is acted on.
func Parse(args []string) (Request, error) {
	r := Request{FD: -1, Queues: 1}
	name := ""
	for _, a := range args {
		switch {
		case a == "--use-vnet":
			r.VNetHdr = true
		case a == "--list":
			r.List = true
		case strings.HasPrefix(a, "--br="):
			name = a[len("--br="):]
		case strings.HasPrefix(a, "--fd="):
			n, err := number(a[len("--fd="):], 1<<20)
			if err != nil {
				return Request{}, errors.New("--fd= takes the number of a socket, in decimal digits")
			}
			r.FD = n
		case strings.HasPrefix(a, "--queues="):
			n, err := number(a[len("--queues="):], MaxQueues)
			if err != nil || n < 1 {
				return Request{}, errors.New("--queues= takes a number from 1 to " + strconv.Itoa(MaxQueues))
			}
			r.Queues = n
		default:
			return Request{}, errUsage
		}
	}
	if r.List {
		if len(args) != 1 {
			return Request{}, errUsage
		}
		return r, nil
	}
	if r.FD < 0 || name == "" {
		return Request{}, errUsage
	}
	if r.FD < 3 {
		return Request{}, errors.New("--fd= must name a socket of its own, not standard input, output or error")
	}
	if err := r.setName(name); err != nil {
		return Request{}, err
	}
	return r, nil
}

func (r *Request) setName(s string) error {
	if len(s) > MaxName {
		return errors.New("the name after --br= is too long (at most " + strconv.Itoa(MaxName) + " characters)")
	}
	for i := 0; i < len(s); i++ {
		if !nameChar(s[i]) {
			return errors.New("the name after --br= may hold letters, digits and _ . : / - only")
		}
	}
	name, mac, found := strings.Cut(s, "/")
	if name == "" {
		return errUsage
	}
	r.Name = name
	if !found {
		return nil
	}
	m, err := ether.ParseMAC(mac)
	if err != nil {
		return errors.New("what follows the / in --br= is " + err.Error())
	}
	r.MAC, r.HasMAC = m, true
	return nil
}

func nameChar(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '_' || c == '.' || c == ':' || c == '/' || c == '-'
}

// number reads a decimal number without sign, blank or leading text, at most limit.
func number(s string, limit int) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, err
	}
	if int(n) > limit || s[0] == '+' {
		return 0, strconv.ErrRange
	}
	return int(n), nil
}
