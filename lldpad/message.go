package lldpad

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// The control socket's messages: openlldp's lldptool_cmds.c:render_cmd builds
// them, lldp_mand_cmds.c:mand_clif_cmd and qbg/vdp22_cmds.c read them.
const (
	maxMessage = 4096 // MAX_CLIF_MSGBUF; a request must leave room for a NUL

	moduleAll   = 0x00000001 // asks all modules
	moduleVDP22 = 0x000080c4

	tlvChassis  = 1
	tlvEVB      = 0x0080c20d // the 2012 edition's
	tlvEVBDraft = 0x001b3f00
	tlvVDPDraft = 0x001b4002

	groupNCB = "02" // nearest customer bridge: every 802.1Qbg setting is in this group
)

type verb uint8

const (
	verbGetTLV  verb = 1
	verbSetTLV  verb = 2
	verbGetLLDP verb = 3
)

// Bits of the operation field.
const (
	opLocal    = 0x01
	opNeighbor = 0x02
	opArg      = 0x04
	opArgValue = 0x08
	opConfig   = 0x10

	opFiltersShift = 8 // number of filter arguments
)

// An arg is a named argument; in requests that only ask, the value is absent.
type arg struct{ name, value string }

type command struct {
	module uint32
	verb   verb
	op     uint32
	port   string
	tlv    uint32 // or the VDP mode; not sent with verbGetLLDP
	args   []arg
}

// echo is what lldpad repeats of a command.
func (c command) echo() string {
	return fmt.Sprintf("C3%02x%08x%02x%s", uint8(c.verb), c.op, len(c.port), c.port)
}

func (c command) marshal() ([]byte, error) {
	if len(c.port) == 0 || len(c.port) > 0xff {
		return nil, ErrNoPort
	}
	var b strings.Builder
	fmt.Fprintf(&b, "M%08x%s%s", c.module, c.echo(), groupNCB)
	if c.verb != verbGetLLDP {
		fmt.Fprintf(&b, "%08x", c.tlv)
	}
	for _, a := range c.args {
		fmt.Fprintf(&b, "%02x%s", len(a.name), a.name)
		if c.op&opArgValue != 0 {
			fmt.Fprintf(&b, "%04x%s", len(a.value), a.value)
		}
	}
	if b.Len() >= maxMessage {
		return nil, fmt.Errorf("%w: it is longer than %d octets: fewer filters", ErrRejected, maxMessage-1)
	}
	return []byte(b.String()), nil
}

// parseReply splits a reply into its status and what follows the echo of the
// command. A failed command may be echoed in part or not at all.
func parseReply(b []byte, echo string) (status uint8, body string, err error) {
	s := string(b)
	if len(s) < 3 || s[0] != 'R' {
		return 0, "", fmt.Errorf("%w: reply %.40q", ErrMalformed, s)
	}
	n, err := strconv.ParseUint(s[1:3], 16, 8)
	if err != nil {
		return 0, "", fmt.Errorf("%w: status of reply %.40q", ErrMalformed, s)
	}
	body, ok := strings.CutPrefix(s[3:], echo)
	if !ok && n == statusOK {
		return 0, "", fmt.Errorf("%w: reply %.40q is to another request", ErrMalformed, s)
	}
	return uint8(n), body, nil
}

// cutCounted takes a text off s whose length comes before it in digits
// hexadecimal digits.
func cutCounted(s string, digits int) (text, rest string, err error) {
	if len(s) < digits {
		return "", "", fmt.Errorf("%w: length in %.40q", ErrMalformed, s)
	}
	n, err := strconv.ParseUint(s[:digits], 16, 16)
	if err != nil || int(n) > len(s)-digits {
		return "", "", fmt.Errorf("%w: length in %.40q", ErrMalformed, s)
	}
	return s[digits:][:n], s[digits:][n:], nil
}

// parseArgs reads a sequence of arguments with values.
func parseArgs(s string) ([]arg, error) {
	var args []arg
	for s != "" {
		var (
			a   arg
			err error
		)
		if a.name, s, err = cutCounted(s, 2); err != nil {
			return nil, err
		}
		if a.value, s, err = cutCounted(s, 4); err != nil {
			return nil, err
		}
		args = append(args, a)
	}
	return args, nil
}

// parseTLVArgs reads the body of a reply to a request for a TLV's
// configuration: the TLV id and its arguments.
func parseTLVArgs(body string) (map[string]string, error) {
	if len(body) < 8 {
		return nil, fmt.Errorf("%w: TLV id in %.40q", ErrMalformed, body)
	}
	args, err := parseArgs(body[8:])
	if err != nil {
		return nil, err
	}
	m := make(map[string]string, len(args))
	for _, a := range args {
		m[a.name] = a.value
	}
	return m, nil
}

// parseTLV reads the body of a reply to a request for a TLV as it is on the
// wire: the TLV id and, if there is one, the TLV in hexadecimal. It returns the
// TLV's value without its header, nil if there is none.
func parseTLV(body string) ([]byte, error) {
	if len(body) < 8 {
		return nil, fmt.Errorf("%w: TLV id in %.40q", ErrMalformed, body)
	}
	b, err := hex.DecodeString(body[8:])
	if err != nil {
		return nil, fmt.Errorf("%w: TLV %.40q", ErrMalformed, body)
	}
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) < 2 || len(b)-2 < int(b[0]&1)<<8|int(b[1]) {
		return nil, fmt.Errorf("%w: TLV %.40q", ErrMalformed, body)
	}
	return b[2:][:int(b[0]&1)<<8|int(b[1])], nil
}
