// Package ovsdb attaches TAP devices to Open vSwitch: it writes three fixed requests to the socket of its database (RFC
// 7047) and reads the answers strictly.
//
// A port outlives its device, which goes with the last descriptor. Whose they are therefore stands in the port's
// external_ids, and each call removes those whose device is gone.
package ovsdb

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"libvirt-direct/helper/internal/ether"
	"libvirt-direct/helper/internal/policy"
)

// Socket is where ovsdb-server listens, and varSocket where /var/run is a folder of its own. OVS_RUNDIR is the caller's,
// and does not count.
const (
	Socket    = "/run/openvswitch/db.sock"
	varSocket = "/var/run/openvswitch/db.sock"
)

// owner is the value of external_ids:libvirt-direct in the helper's ports.
const owner = "helper"

// waitTime is how long ovs-vswitchd may take to make a port, in milliseconds.
const waitTime = "2500"

// silence is how long the database may say nothing, in seconds.
const silence = 3

// Errors matched with errors.Is.
var (
	ErrUnreachable = errors.New("the database of Open vSwitch cannot be reached")
	ErrNoBridge    = errors.New("no such Open vSwitch bridge")
	ErrNotMade     = errors.New("ovs-vswitchd has not made the port: is it running?")
)

// Port is a port to be made. Its names are checked by package policy: none needs quoting in JSON.
type Port struct {
	Bridge  string
	Name    string // of the TAP device
	UID     uint32 // whose it is, for people
	MAC     *ether.MAC
	VLAN    uint16 // tag, 0 for none
	Trunks  policy.VLANSet
	Ingress int // kbit/s that the guest may send, 0 for any
}

// Row is a port of the helper's.
type Row struct{ UUID, Name string }

// Conn is a connection to the database.
type Conn struct {
	fd   int
	rest []byte // what was read beyond the last reply
}

// Dial connects to a socket, "" for where packages have it, without waiting for a server that is busy.
func Dial(socket string) (*Conn, error) {
	if socket != "" {
		return dial(socket)
	}
	c, err := dial(Socket)
	if errors.Is(err, unix.ENOENT) {
		if other, err := dial(varSocket); err == nil {
			return other, nil
		}
	}
	return c, err
}

// unreachable is ErrUnreachable with the socket. It matches the kernel's error.
type unreachable struct {
	socket string
	errno  error
}

func (e *unreachable) Error() string {
	return ErrUnreachable.Error() + " at " + e.socket + ": " + e.errno.Error() + "; ovs-socket in " + policy.Path + " says where it is"
}

func (e *unreachable) Unwrap() error { return e.errno }

func (e *unreachable) Is(target error) bool { return target == ErrUnreachable }

func dial(socket string) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		unix.Close(fd)
		return nil, &unreachable{socket, err}
	}
	for _, option := range [...]int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &unix.Timeval{Sec: silence}); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	return &Conn{fd: fd}, unix.SetNonblock(fd, false)
}

// Close ends the connection.
func (c *Conn) Close() { unix.Close(c.fd) }

// transact sends operations and returns a result for each. One that is refused makes an error of its text.
func (c *Conn) transact(ops ...string) ([]value, error) {
	request := []byte(`{"method":"transact","id":1,"params":["Open_vSwitch",` + strings.Join(ops, ",") + `]}`)
	for len(request) > 0 {
		n, err := unix.SendmsgN(c.fd, request, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, errors.New(ErrUnreachable.Error() + ": " + err.Error())
		}
		request = request[n:]
	}
	for {
		reply, err := c.read()
		if err != nil {
			return nil, err
		}
		if reply.member("method").kind == '"' { // the server asks whether we live; it can wait
			continue
		}
		return results(reply, len(ops))
	}
}

// results checks a reply to a transaction of n operations.
func results(reply value, n int) ([]value, error) {
	list := reply.member("result")
	if id := reply.member("id"); id.kind != 0 || id.text != "1" || list.kind != '[' {
		return nil, errReply
	}
	for _, r := range list.list {
		if e := r.member("error"); e.kind == '"' {
			return nil, &refusal{e.text, r.member("details").text}
		}
		if r.kind != '{' {
			return nil, errReply
		}
	}
	if len(list.list) != n {
		return nil, errReply
	}
	return list.list, nil
}

// refusal is an operation that the database refuses.
type refusal struct{ text, details string }

func (r *refusal) Error() string {
	return "Open vSwitch's database refuses: " + printable(r.text) + ": " + printable(r.details)
}

// timedOut reports whether a wait operation has given up.
func timedOut(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.text == "timed out"
}

// printable is the text as far as a line of a log can take it.
func printable(s string) string {
	b := []byte(s[:min(len(s), 200)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

// read returns the next message.
func (c *Conn) read() (value, error) {
	for {
		if n := complete(c.rest); n > 0 {
			v, err := parse(c.rest[:n])
			c.rest = c.rest[n:]
			return v, err
		}
		if len(c.rest) > maxReply {
			return value{}, errReply
		}
		b := make([]byte, 64<<10)
		n, err := unix.Read(c.fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return value{}, ErrUnreachable
		}
		c.rest = append(c.rest, b[:n]...)
	}
}

// uuid reads ["uuid", "…"], and lets nothing pass that is none.
func uuid(v value) (string, error) {
	if v.kind != '[' || len(v.list) != 2 || v.list[0].kind != '"' || v.list[0].text != "uuid" || v.list[1].kind != '"' {
		return "", errReply
	}
	s := v.list[1].text
	if len(s) != 36 {
		return "", errReply
	}
	for i := 0; i < len(s); i++ {
		hex := '0' <= s[i] && s[i] <= '9' || 'a' <= s[i] && s[i] <= 'f'
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (s[i] == '-') || !dash && !hex {
			return "", errReply
		}
	}
	return s, nil
}

// Rows lists the helper's ports.
func (c *Conn) Rows() ([]Row, error) {
	res, err := c.transact(`{"op":"select","table":"Port","columns":["_uuid","name"],"where":[["external_ids","includes",["map",[["libvirt-direct","` + owner + `"]]]]]}`)
	if err != nil {
		return nil, err
	}
	return readRows(res[0])
}

func readRows(result value) ([]Row, error) {
	var rows []Row
	for _, r := range result.member("rows").list {
		id, err := uuid(r.member("_uuid"))
		name := r.member("name")
		if err != nil || name.kind != '"' {
			return nil, errReply
		}
		rows = append(rows, Row{id, name.text})
	}
	return rows, nil
}

// Remove removes a port.
func (c *Conn) Remove(r Row) error {
	_, err := c.transact(`{"op":"mutate","table":"Bridge","where":[["ports","includes",["uuid","`+r.UUID+`"]]],"mutations":[["ports","delete",["uuid","`+r.UUID+`"]]]}`, nextConfig)
	return err
}

const nextConfig = `{"op":"mutate","table":"Open_vSwitch","where":[],"mutations":[["next_cfg","+=",1]]}`

// insertion are the operations that make a port, in the columns that libvirt sets and the owner's key.
func insertion(p Port) []string {
	ids := `["iface-status","active"]`
	if p.MAC != nil {
		ids = `["attached-mac","` + p.MAC.String() + `"],` + ids
	}
	iface := `"name":"` + p.Name + `","external_ids":["map",[` + ids + `]]`
	if p.Ingress > 0 {
		iface += `,"ingress_policing_rate":` + strconv.Itoa(p.Ingress)
	}
	port := `"name":"` + p.Name + `","interfaces":["named-uuid","i"],"other_config":["map",[["transient","true"]]],` +
		`"external_ids":["map",[["libvirt-direct","` + owner + `"],["libvirt-direct-uid","` + strconv.FormatUint(uint64(p.UID), 10) + `"]]]`
	if p.VLAN != 0 {
		port += `,"tag":` + strconv.Itoa(int(p.VLAN))
	}
	var trunks []string
	for _, r := range p.Trunks.Ranges {
		for id := int(r.First); id <= int(r.Last); id++ {
			trunks = append(trunks, strconv.Itoa(id))
		}
	}
	if trunks != nil {
		port += `,"trunks":["set",[` + strings.Join(trunks, ",") + `]]`
		if p.VLAN != 0 { // without a mode it would be an access port all the same
			port += `,"vlan_mode":"native-untagged"`
		}
	}
	bridge := `"table":"Bridge","where":[["name","==","` + p.Bridge + `"]]`
	return []string{
		`{"op":"wait",` + bridge + `,"columns":["_uuid"],"until":"!=","rows":[],"timeout":0}`,
		`{"op":"insert","table":"Interface","uuid-name":"i","row":{` + iface + `}}`,
		`{"op":"insert","table":"Port","uuid-name":"p","row":{` + port + `}}`,
		`{"op":"mutate",` + bridge + `,"mutations":[["ports","insert",["named-uuid","p"]]]}`,
		nextConfig,
		`{"op":"select","table":"Open_vSwitch","where":[],"columns":["next_cfg"]}`,
	}
}

// Insert makes a port in one transaction and waits until ovs-vswitchd has made it too. On an error nothing is left, unless
// the database went away; then the next call removes it.
func (c *Conn) Insert(p Port) error {
	res, err := c.transact(insertion(p)...)
	if timedOut(err) {
		return ErrNoBridge
	}
	if err != nil {
		return err
	}
	id, err := uuid(res[2].member("uuid"))
	if err != nil {
		return err
	}
	if err := c.made(p.Name, res[5]); err != nil {
		if e := c.Remove(Row{id, p.Name}); e != nil {
			err = errors.New(err.Error() + "; and " + e.Error())
		}
		return err
	}
	return nil
}

// made waits until ovs-vswitchd has taken up the configuration of that number.
func (c *Conn) made(name string, config value) error {
	rows := config.member("rows").list
	if len(rows) != 1 {
		return errReply
	}
	next, err := strconv.ParseInt(rows[0].member("next_cfg").text, 10, 64)
	if err != nil {
		return errReply
	}
	res, err := c.transact(
		`{"op":"wait","table":"Open_vSwitch","where":[["cur_cfg",">=",`+strconv.FormatInt(next, 10)+`]],"columns":["_uuid"],"until":"!=","rows":[],"timeout":`+waitTime+`}`,
		`{"op":"select","table":"Interface","where":[["name","==","`+name+`"]],"columns":["error"]}`)
	if timedOut(err) {
		return ErrNotMade
	}
	if err != nil {
		return err
	}
	if rows = res[1].member("rows").list; len(rows) != 1 {
		return errReply
	}
	if why := rows[0].member("error"); why.kind == '"' {
		return errors.New("ovs-vswitchd: " + printable(why.text))
	} else if why.kind != '[' {
		return errReply
	}
	return nil
}
