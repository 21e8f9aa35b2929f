package link

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var gold = Port{
	VF: 1, Profile: "gold", MAC: "52:54:00:01:02:03",
	Instance: [16]byte{0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x12, 0x34, 0x12, 0x34, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc},
	Host:     [16]byte{0xde, 0xad, 0xbe, 0xef, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1},
}

func TestPortMessagesGolden(t *testing.T) {
	self := gold
	self.VF = SelfPort
	text := ""
	for _, c := range []struct {
		what    string
		request PortRequest
		port    Port
	}{
		{"associate VF 1", PortAssociate, gold},
		{"pre-associate VF 1", PortPreassociateRR, gold},
		{"disassociate VF 1", PortDisassociate, Port{VF: 1}},
		{"associate the device's own port", PortAssociate, self},
		{"disassociate the device's own port", PortDisassociate, Port{VF: SelfPort}},
	} {
		req, err := portMessage(3, c.request, c.port)
		require.NoError(t, err)
		text += c.what + "\n" + dump(req)
	}
	golden(t, "port.golden", text)
}

func TestPortProfileNames(t *testing.T) {
	for _, bad := range []string{"", "a\x00b", "0123456789012345678901234567890123456789"} {
		_, err := portAttr(PortAssociate, Port{Profile: bad})
		require.Error(t, err, "%q", bad)
	}
	_, err := portAttr(PortAssociate, Port{Profile: "012345678901234567890123456789012345678"})
	require.NoError(t, err)
}

// portReply is what the kernel says of a port: the request is two octets by then.
func portReply(vf int, response PortResponse) []byte {
	u16 := func(v uint16) []byte { return binary.NativeEndian.AppendUint16(nil, v) }
	ports := nl.NewRtAttr(unix.IFLA_VF_PORTS|unix.NLA_F_NESTED, nil)
	p := ports.AddRtAttr(unix.IFLA_VF_PORT|unix.NLA_F_NESTED, nil)
	p.AddRtAttr(unix.IFLA_PORT_VF, nl.Uint32Attr(uint32(vf)))
	p.AddRtAttr(unix.IFLA_PORT_REQUEST, u16(uint16(PortAssociate)))
	p.AddRtAttr(unix.IFLA_PORT_RESPONSE, u16(uint16(response)))
	p.AddRtAttr(unix.IFLA_PORT_PROFILE, append([]byte("gold"), make([]byte, 36)...))
	p.AddRtAttr(unix.IFLA_PORT_INSTANCE_UUID, gold.Instance[:])
	p.AddRtAttr(unix.IFLA_PORT_HOST_UUID, gold.Host[:])
	self := nl.NewRtAttr(unix.IFLA_PORT_SELF|unix.NLA_F_NESTED, nil)
	self.AddRtAttr(unix.IFLA_PORT_REQUEST, []byte{byte(PortDisassociate)})
	return reply(ports, self)
}

func TestParsePorts(t *testing.T) {
	ports, err := parsePorts(portReply(1, PortInProgress))
	require.NoError(t, err)
	require.Equal(t, []PortStatus{
		{VF: 1, Profile: "gold", Instance: gold.Instance, Request: PortAssociate, Response: PortInProgress, Answered: true},
		{VF: SelfPort, Request: PortDisassociate},
	}, ports)
	for name, attr := range map[string]*nl.RtAttr{
		"UUID":     nl.NewRtAttr(unix.IFLA_PORT_INSTANCE_UUID, make([]byte, 15)),
		"request":  nl.NewRtAttr(unix.IFLA_PORT_REQUEST, nil),
		"response": nl.NewRtAttr(unix.IFLA_PORT_RESPONSE, []byte{1}),
		"VF":       nl.NewRtAttr(unix.IFLA_PORT_VF, []byte{1}),
	} {
		self := nl.NewRtAttr(unix.IFLA_PORT_SELF, nil)
		self.AddChild(attr)
		_, err := parsePorts(reply(self))
		require.ErrorIs(t, err, ErrMalformed, name)
	}
}

func TestPortResponsesHaveWords(t *testing.T) {
	seen := map[string]PortResponse{}
	for _, r := range []PortResponse{0, 1, 2, 3, 4, 5, 6, 0x101, 0x102, 0x103, 0x104, 0x105, 0x199} {
		if first, twice := seen[r.String()]; twice {
			require.Equal(t, []PortResponse{2, 0x104}, []PortResponse{first, r}, "both mean a lack of resources")
		}
		seen[r.String()] = r
	}
	require.Equal(t, "response 0x199", PortResponse(0x199).String())
	err := error(&PortError{Device: "eth0", VF: 1, Driver: "enic", Request: PortAssociate, Profile: "gold", Err: mapPortErrno(unix.EINVAL)})
	require.Equal(t, `VF 1 of eth0 (driver enic) associate with port profile "gold": port profile refused by the driver: invalid argument`, err.Error())
	require.True(t, errors.Is(err, ErrPortRefused) && errors.Is(err, unix.EINVAL))
}

func TestHostUUID(t *testing.T) {
	want := [16]byte{0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x12, 0x34, 0x12, 0x34, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc}
	s := tree(t, "class/dmi/id/product_uuid=12345678-1234-1234-1234-123456789ABC", "machine-id=123456781234123412341234567890ff")
	require.Equal(t, want, s.hostUUID(string(s)+"/machine-id"))
	s = tree(t, "class/dmi/id/product_uuid=Not Settable", "machine-id=12345678123412341234123456789abc")
	require.Equal(t, want, s.hostUUID(string(s)+"/machine-id"))
	require.Zero(t, tree(t).hostUUID("/none"))
}

func FuzzParsePorts(f *testing.F) {
	f.Add(portReply(1, PortSuccess))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parsePorts(b); err != nil {
			require.ErrorIs(t, err, ErrMalformed)
		}
	})
}
