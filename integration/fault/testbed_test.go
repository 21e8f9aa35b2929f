//go:build integration

package fault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// workerVariable makes this program a worker; it holds the folder of the programs.
const workerVariable = "LIBVIRT_DIRECT_FAULT_WORKER"

// An operation is what a fault is in, with what has come before it.
type operation struct {
	name   string
	before []string
	// op is the hook's; "" is `libvirt-direct gc`.
	op string
}

var operations = []operation{
	{"prepare", nil, "prepare"},
	{"start", []string{"prepare"}, "start"},
	{"stopped", []string{"prepare", "start"}, "stopped"},
	{"release", []string{"prepare", "start", "stopped"}, "release"},
	// A start that finds all that another has left, which was killed at its end.
	{"prepare again", []string{"prepare"}, "prepare"},
	{"gc", []string{"prepare"}, ""},
}

func operationOf(name string) operation {
	return operations[slices.IndexFunc(operations, func(o operation) bool { return o.name == name })]
}

// A request is one life of the domain, with a fault in one operation.
type request struct {
	Op    string
	Fault *fault // nil: the operation's calls are to be listed
	// Then is what comes after libvirt has done what it does: "gc", or "next start".
	Then string
	// Guest is one of guests: what is touched for it is to be listed, and nothing else.
	Guest string
}

func (r request) String() string { return fmt.Sprintf("%s: %v, then %s", r.Op, *r.Fault, r.Then) }

type answer struct {
	Calls  []call // without a fault
	Result string
	// Again: libvirt's own operations had not left the host as it was.
	Again    bool
	Stderr   string
	Problems []string
	Touched  map[string][]string // by operation
}

const (
	uuid = "11111111-2222-4333-8444-555555555555"
	// patience is far above the ten seconds that an operation may take by default.
	patience = 30 * time.Second
	conf     = `[uplink.lan]
device = "v0"
[uplink.storage]
device = "w0"
[uplink.whole]
device = "x0"
[profile.tenant]
isolated = true
learning = false
`
	domain = `<domain type='kvm'><name>g</name><uuid>` + uuid + `</uuid><metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'>
<ld:nic mac='52:54:00:77:00:01' own='hook' allmulticast='yes'/>
<ld:nic mac='52:54:00:77:00:02' allmulticast='yes'/>
<ld:nic mac='52:54:00:77:00:03' own='hook'/>
<ld:nic mac='52:54:00:77:00:04' profile='tenant'/>
</ld:nics></metadata><devices>
<interface type='direct'><mac address='52:54:00:77:00:01'/><source dev='v0' mode='vepa'/></interface>
<interface type='direct'><mac address='52:54:00:77:00:02'/><source dev='w0' mode='bridge'/></interface>
<interface type='direct'><mac address='52:54:00:77:00:03'/><source dev='x0' mode='passthrough'/></interface>
<interface type='bridge'><mac address='52:54:00:77:00:04'/><source bridge='br0'/></interface>
</devices></domain>`
)

// A testbed is the worker's host.
type testbed struct {
	hook, direct *program
	index        int // of the devices that libvirt would make
	xml, live    string
	base         map[string]device
	problems     []string
}

// work answers requests until there are no more.
func work(r io.Reader, w io.Writer) error {
	runtime.LockOSThread() // ptrace(2) knows a tracer by its thread
	host, err := newTestbed(os.Getenv(workerVariable))
	if err != nil {
		return err
	}
	in, out := json.NewDecoder(r), json.NewEncoder(w)
	for {
		var req request
		if err := in.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		do := host.answer
		if req.Guest != "" {
			do = func(r request) (answer, error) { return host.touch(r.Guest) }
		}
		a, err := do(req)
		if err == nil {
			err = out.Encode(a)
		}
		if err != nil {
			return err
		}
	}
}

func newTestbed(bin string) (*testbed, error) {
	b := &testbed{}
	var err error
	if b.hook, err = openProgram(filepath.Join(bin, "qemu")); err != nil {
		return nil, err
	}
	if b.direct, err = openProgram(filepath.Join(bin, "libvirt-direct")); err != nil {
		return nil, err
	}
	if err := os.WriteFile("/etc/libvirt-direct/config.toml", []byte(conf), 0o600); err != nil {
		return nil, err
	}
	if err := os.MkdirAll("/run/libvirt/network", 0o700); err != nil {
		return nil, err
	}
	if err := drain("/run/systemd/journal/socket"); err != nil {
		return nil, err
	}
	for _, n := range []string{"v", "w", "x"} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n + "0"
		if err := up(&netlink.Veth{LinkAttrs: attrs, PeerName: n + "1"}, n+"1"); err != nil {
			return nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "br0", net.HardwareAddr{0x52, 0x54, 0, 0x77, 1, 1}
	if err := up(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, err
	}
	v0, err := netlink.LinkByName("v0")
	if err != nil {
		return nil, err
	}
	b.index = v0.Attrs().Index + 50 // of those that are this host's
	rewrite := exec.Command(b.direct.path, "rewrite")
	rewrite.Stdin = strings.NewReader(domain)
	xml, err := rewrite.Output()
	if err != nil {
		return nil, fmt.Errorf("rewrite: %w", err)
	}
	b.xml = string(xml)
	for _, edit := range [][2]string{ // by a name that the device gets from the hook
		{"<source dev='w0' mode='bridge'/></interface>", "<source dev='storage' mode='bridge'/></interface>"},
	} {
		if b.xml, err = replaceOnce(b.xml, edit[0], edit[1]); err != nil {
			return nil, err
		}
	}
	b.live = b.xml
	for _, edit := range [][2]string{
		{"<source dev='storage' mode='bridge'/></interface>", "<source dev='storage' mode='bridge'/><target dev='macvtap0'/></interface>"},
		{"<source bridge='br0'/></interface>", "<source bridge='br0'/><target dev='vnet0'/></interface>"},
	} {
		if b.live, err = replaceOnce(b.live, edit[0], edit[1]); err != nil {
			return nil, err
		}
	}
	b.base, err = snapshot()
	return b, err
}

func replaceOnce(s, old, new string) (string, error) {
	if strings.Count(s, old) != 1 {
		return "", fmt.Errorf("not once %q in %s", old, s)
	}
	return strings.Replace(s, old, new, 1), nil
}

func up(l netlink.Link, more ...string) error {
	if err := netlink.LinkAdd(l); err != nil {
		return err
	}
	for _, name := range append(more, l.Attrs().Name) {
		have, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(have); err != nil {
			return err
		}
	}
	return nil
}

// drain is a log that takes everything. Without one the hook's notes are on its standard
// error.
func drain(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 1<<16)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	}()
	return nil
}

// device is what must be the same after as before.
type device struct {
	Index, MTU, Parent, Master, Promisc, AllMulti int
	Kind, MAC, Alias, IPv6                        string
	Flags                                         net.Flags
	Names, Addresses                              []string
}

func snapshot() (map[string]device, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	shot := map[string]device{}
	for _, l := range links {
		a := l.Attrs()
		d := device{
			Index: a.Index, MTU: a.MTU, Parent: a.ParentIndex, Master: a.MasterIndex, Promisc: a.Promisc, AllMulti: a.Allmulti,
			Kind: l.Type(), MAC: a.HardwareAddr.String(), Alias: a.Alias, Flags: a.Flags &^ net.FlagRunning, Names: slices.Sorted(slices.Values(a.AltNames)),
		}
		ipv6, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + a.Name + "/disable_ipv6")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		d.IPv6 = string(ipv6)
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			d.Addresses = append(d.Addresses, addr.IPNet.String())
		}
		slices.Sort(d.Addresses)
		shot[a.Name] = d
	}
	return shot, nil
}

// different says how the host differs from how it was at the beginning.
func (b *testbed) different() ([]string, error) {
	now, err := snapshot()
	if err != nil {
		return nil, err
	}
	var diff []string
	for name, d := range now {
		was, had := b.base[name]
		if !had {
			diff = append(diff, fmt.Sprintf("left: %s %+v", name, d))
		} else if !reflect.DeepEqual(was, d) {
			diff = append(diff, fmt.Sprintf("changed: %s from %+v to %+v", name, was, d))
		}
	}
	for name := range b.base {
		if _, has := now[name]; !has {
			diff = append(diff, "gone: "+name)
		}
	}
	const dir = "/run/libvirt-direct"
	err = filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		switch rel, _ := filepath.Rel(dir, file); rel {
		case ".", "lock", "domains", "claims", "claims/.indexed":
		case "domains/" + uuid + ".json.new", "claims/.indexed.new":
			// Of a write that was cut off, one for a file: the next write replaces it.
		default:
			diff = append(diff, "left: "+file)
		}
		return nil
	})
	slices.Sort(diff)
	return diff, err
}

// clean forces the host back to how it was.
func (b *testbed) clean() error {
	if err := os.RemoveAll("/run/libvirt-direct"); err != nil {
		return err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		a := l.Attrs()
		if _, had := b.base[a.Name]; !had {
			if err := netlink.LinkDel(l); err != nil {
				return err
			}
			continue
		}
		for _, n := range a.AltNames {
			if err := netlink.LinkDelAltName(l, n); err != nil {
				return err
			}
		}
	}
	diff, err := b.different()
	if err == nil && diff != nil {
		err = fmt.Errorf("this host cannot be put back: %v", diff)
	}
	return err
}

// canFail: a file system that is full does not keep anybody from closing a file.
func canFail(c call, e unix.Errno) bool {
	can, err := errnos(c)
	return err == nil && slices.Contains(can, e)
}

// mute: the fault is in the writing of what would be said.
func mute(f *fault) bool {
	return f != nil && f.Call.Name == "write" && (f.Stays || strings.HasPrefix(f.Call.Site, "main."))
}

func (b *testbed) problem(format string, args ...any) {
	b.problems = append(b.problems, fmt.Sprintf(format, args...))
}

// libvirt makes what it makes between prepare and start, or removes it after stopped.
func (b *testbed) libvirt(there bool) error {
	if !there {
		for _, name := range []string{"macvtap0", "vnet0"} {
			l, err := netlink.LinkByName(name)
			if errors.As(err, new(netlink.LinkNotFoundError)) {
				continue
			}
			if err == nil {
				err = netlink.LinkDel(l)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	w0, err := netlink.LinkByName("w0")
	if err != nil {
		return err
	}
	br0, err := netlink.LinkByName("br0")
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index, attrs.ParentIndex = "macvtap0", b.index, w0.Attrs().Index
	attrs.HardwareAddr = net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, 2}
	if err := up(&netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}}); err != nil {
		return err
	}
	attrs = netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = "vnet0", br0.Attrs().Index
	return up(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Queues: 1})
}

// input is what libvirt gives an operation to read. Before start it has made its devices.
func (b *testbed) input(op string) (string, error) {
	switch op {
	case "start":
		return b.live, b.libvirt(true)
	case "stopped":
		return b.live, nil
	}
	return b.xml, nil
}

// run runs the hook without a fault. It must succeed.
func (b *testbed) run(op string) error {
	text, err := b.input(op)
	if err != nil {
		return err
	}
	cmd := exec.Command(b.hook.path, "g", op, "begin", "-")
	cmd.Stdin = strings.NewReader(text)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	if err := cmd.Run(); err != nil || out.Len() > 0 {
		b.problem("then %s: %v: %s", op, err, out.String())
	}
	if took := time.Since(begin); took > patience {
		b.problem("then %s: took %v", op, took)
	}
	if op == "stopped" {
		return b.libvirt(false)
	}
	return nil
}

func (b *testbed) runAll(ops ...string) error {
	for _, op := range ops {
		if err := b.run(op); err != nil {
			return err
		}
	}
	return nil
}

func (b *testbed) answer(r request) (a answer, err error) {
	b.problems = nil
	o := operationOf(r.Op)
	if err := b.runAll(o.before...); err != nil {
		return a, err
	}
	if len(b.problems) > 0 { // nothing is wrong yet
		return a, fmt.Errorf("before %s: %v", r, b.problems)
	}
	text, err := b.input(o.op)
	if err != nil {
		return a, err
	}
	prog, args := b.hook, []string{"qemu", "g", o.op, "begin", "-"}
	if o.op == "" {
		prog, args = b.direct, []string{"libvirt-direct", "gc"}
	}
	hit := false
	end, err := prog.trace(args, text, patience, func(c call) verdict {
		if r.Fault == nil {
			a.Calls = append(a.Calls, c)
			return verdict{}
		}
		f := r.Fault
		at := !hit && c.key() == f.Call.key() && c.Nth == f.Call.Nth
		hit = hit || at
		if at || hit && f.Stays && c.Name == f.Call.Name && c.Runtime == "" && canFail(c, f.Errno) {
			return verdict{errno: f.Errno, kill: f.Errno == 0, done: c.Name == "close", last: !f.Stays}
		}
		return verdict{}
	})
	if err != nil {
		return a, err
	}
	a.Stderr = strings.TrimSuffix(end.stderr, "\n")
	switch {
	case end.hung:
		b.problem("did not end in %v", patience)
	case r.Fault != nil && !hit:
		a.Result = "not reached"
	case end.signal == unix.SIGKILL && r.Fault != nil && r.Fault.Errno == 0:
		a.Result = "killed"
	default:
		a.Result = fmt.Sprint("exit ", end.exit)
		if end.exit != 0 && end.exit != 1 {
			b.problem("exit status %d, signal %v: %s", end.exit, end.signal, end.stderr)
		}
	}
	if strings.Contains(a.Stderr, "\n") {
		b.problem("more than one line: %q", end.stderr)
	}
	if end.exit == 1 && a.Stderr == "" && !mute(r.Fault) {
		b.problem("exit status 1 without a word")
	}
	if err := b.then(r, &a, end.exit == 0); err != nil {
		return a, err
	}
	a.Problems = b.problems
	if len(b.problems) == 0 {
		return a, os.RemoveAll("/run/libvirt-direct")
	}
	return a, b.clean()
}

// then plays what comes after an operation, and looks at what is left in the end.
func (b *testbed) then(r request, a *answer, succeeded bool) error {
	var err error
	switch op := operationOf(r.Op).op; {
	case op == "":
	case op == "prepare" && succeeded:
		err = b.runAll("start", "stopped", "release")
	case op == "prepare", op == "start":
		err = b.runAll("stopped", "release")
	case op == "stopped":
		if err = b.libvirt(false); err == nil && succeeded {
			err = b.run("release")
		}
	}
	if err != nil {
		return err
	}
	diff, err := b.different()
	if err != nil {
		return err
	}
	if diff == nil || r.Fault == nil {
		for _, d := range diff {
			b.problem("%s", d)
		}
		return nil
	}
	a.Again = true
	if r.Then == "gc" {
		cmd := exec.Command(b.direct.path, "gc")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.problem("gc: %v: %s", err, out)
		}
	} else if err := b.runAll("prepare", "start", "stopped", "release"); err != nil {
		return err
	}
	after, err := b.different()
	for _, d := range after {
		b.problem("after %s %s", r.Then, d)
	}
	return err
}
