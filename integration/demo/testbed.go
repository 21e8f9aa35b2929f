package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"libvirt-direct/integration/host"
)

const (
	lanNIC     = "enp1s0" // the host's NIC that its configuration calls lan
	storageNIC = "enp2s0" // … and storage
	peerNIC    = "eth0"
	lanPort    = "port1" // the switch's port to lanNIC
)

var peerAddr = netip.MustParsePrefix("10.77.0.1/24")

const config = `[uplink.lan]
device = "` + lanNIC + `"

[uplink.storage]
device = "` + storageNIC + `"
`

// A testbed is the demo's host, its switch and the peer, and the screen that shows them.
type testbed struct {
	*screen
	dir    string // has bin and the XML files; the same path inside
	host   *host.Host
	sw     *host.Peer
	peer   *host.Peer
	log    *journal
	vlans  bool // the kernel can make VLAN devices
	before host.Snapshot
}

// newTestbed makes it, with the programs of a folder installed.
func newTestbed(ctx context.Context, out *screen, dir, programs string) (*testbed, error) {
	b := &testbed{screen: out, dir: filepath.Join(dir, "host")}
	if err := b.make(ctx, dir, programs); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *testbed) make(ctx context.Context, dir, programs string) error {
	b.say("The host demo has the NICs %s and %s: veths, whose other ends are ports of the host switch, a bridge "+
		"that reflects frames, as 802.1Qbg asks of one. Behind it is the host peer, %s.", lanNIC, storageNIC, peerAddr.Addr())
	network := make(chan error, 1)
	go func() { network <- b.addPeers(ctx, dir) }()
	err := b.addHost(ctx, programs)
	if err = errors.Join(err, <-network); err != nil {
		return err
	}
	if err := b.connect(ctx); err != nil {
		return err
	}
	if b.vlans, err = b.addVLAN(ctx); err != nil {
		return err
	}
	b.before, err = b.host.Snapshot(ctx)
	return err
}

// addPeers makes the hosts without libvirt.
func (b *testbed) addPeers(ctx context.Context, dir string) (err error) {
	if b.sw, err = host.NewPeer(ctx, host.Options{Name: "switch", Dir: filepath.Join(dir, "switch")}); err != nil {
		return err
	}
	b.peer, err = host.NewPeer(ctx, host.Options{Name: "peer", Dir: filepath.Join(dir, "peer")})
	return err
}

// connect wires all hosts to the switch.
func (b *testbed) connect(ctx context.Context) error {
	for _, wire := range []struct {
		p         *host.Peer
		nic, port string
	}{{b.host.Peer, lanNIC, lanPort}, {b.host.Peer, storageNIC, "port2"}, {b.peer, peerNIC, "port3"}} {
		if err := host.Wire(ctx, wire.p, wire.nic, b.sw, wire.port); err != nil {
			return err
		}
	}
	err := b.sw.Bridge(ctx, "br0", host.Port{Name: lanPort, Hairpin: true}, host.Port{Name: "port2"}, host.Port{Name: "port3"})
	if err != nil {
		return err
	}
	return b.peer.SetAddress(ctx, peerNIC, peerAddr.String())
}

// addVLAN makes the peer's end of a VLAN, and tells whether this kernel can.
func (b *testbed) addVLAN(ctx context.Context) (bool, error) {
	_, err := b.peer.Run(ctx, "ip", "link", "add", "link", peerNIC, "name", peerDev, "type", "vlan", "id", fmt.Sprint(vlanID))
	if err != nil && (strings.Contains(err.Error(), "not supported") || strings.Contains(err.Error(), "Unknown device type")) {
		return false, nil
	}
	if err == nil {
		_, err = b.peer.Run(ctx, "ip", "link", "set", peerDev, "up")
	}
	return err == nil, err
}

// addHost makes the libvirt host with our hook.
func (b *testbed) addHost(ctx context.Context, programs string) (err error) {
	if b.host, err = host.New(ctx, host.Options{Name: "demo", Dir: b.dir}); err != nil {
		return err
	}
	// libvirtd does not start without the user and the group that Debian's QEMU guests
	// run as, made by a package that would also set up a libvirtd for the machine.
	_, err = b.host.Run(ctx, "sh", "-c", `
		getent passwd libvirt-qemu || echo libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin >>/etc/passwd
		getent group libvirt-qemu || echo libvirt-qemu:x:64055: >>/etc/group`)
	if err != nil {
		return err
	}
	if b.log, err = newJournal(b.host.Peer); err != nil {
		return err
	}
	if err := b.host.InstallHook(ctx, filepath.Join(programs, "qemu-hook")); err != nil {
		return err
	}
	if err := b.host.CopyFile(ctx, filepath.Join(b.dir, "bin/libvirt-direct"), 0o755, filepath.Join(programs, "libvirt-direct")); err != nil {
		return err
	}
	b.say("Our hook is installed as /etc/libvirt/hooks/qemu, and /etc/libvirt-direct/config.toml says what this host's networks are:")
	b.output(config)
	if err := b.host.WriteFile(ctx, "/etc/libvirt-direct/config.toml", 0o644, []byte(config)); err != nil {
		return err
	}
	if err := b.host.StartLibvirtd(ctx); err != nil {
		log, _ := os.ReadFile(b.host.LogFile()) // it goes with the host
		return fmt.Errorf("%w; the log ends with:\n%s", err, log[max(0, len(log)-2000):])
	}
	b.ok("libvirtd runs in the host demo")
	return nil
}

// close ends all hosts. What is closed already stays so.
func (b *testbed) close() error {
	var errs []error
	if b.host != nil {
		errs = append(errs, b.host.Close())
	}
	for _, p := range []*host.Peer{b.sw, b.peer} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	if b.log != nil {
		b.log.close()
	}
	*b = testbed{screen: b.screen}
	return errors.Join(errs...)
}

// shell runs a line of shell in the host, where its XML files are, and returns what
// it printed.
func (b *testbed) shell(ctx context.Context, line string) (string, error) {
	cmd := b.host.Command(ctx, "sh", "-c", `cd "$0" && PATH=$0/bin:$PATH && `+line, b.dir)
	cmd.Env = append(cmd.Env, "LIBVIRT_DEFAULT_URI=qemu:///system")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// typed shows a line of shell, runs it in the host, and shows what it and the hook
// have to say.
func (b *testbed) typed(ctx context.Context, line string) error {
	b.screen.typed("demo", line)
	text, err := b.shell(ctx, line)
	b.output(text)
	if err != nil {
		return err
	}
	lines, err := b.log.lines()
	for _, l := range lines {
		b.hook(l)
	}
	return err
}

// excerpt shows a command and, of its output, a line for each of words. All of them
// must be there. What is behind the word is left out of a long line.
func (b *testbed) excerpt(ctx context.Context, line string, words ...string) error {
	b.screen.typed("demo", line)
	text, err := b.shell(ctx, line)
	if err != nil {
		return err
	}
	for _, word := range words {
		before, after, ok := strings.Cut(text, word)
		if !ok {
			return fmt.Errorf("%q is not in the output of %s:\n%s", word, line, text)
		}
		rest, _, _ := strings.Cut(after, "\n")
		shown := before[strings.LastIndexByte(before, '\n')+1:] + word
		if len(shown+rest) <= columns-6 {
			shown += rest
		} else {
			shown += " …"
		}
		b.output(shown)
	}
	return nil
}

// file writes a domain for virsh and shows the parts of it that matter.
func (b *testbed) file(d host.Domain, show ...string) error {
	b.say("%s.xml has, beside what every domain has:", d.Name)
	for _, text := range show {
		b.quote(text)
	}
	return os.WriteFile(filepath.Join(b.dir, d.Name+".xml"), []byte(d.XML()), 0o644)
}

// expect checks attributes of a link of the host.
func (b *testbed) expect(ctx context.Context, link string, want host.Link) error {
	now, err := b.host.Snapshot(ctx)
	if err != nil {
		return err
	}
	have, ok := now[link]
	if !ok {
		return fmt.Errorf("the host has no link %s", link)
	}
	for k, v := range want {
		if have[k] != v {
			return fmt.Errorf("%s has %s %q, not %q", link, k, have[k], v)
		}
	}
	return nil
}

// destroyed ends domains and checks that nothing is left of them.
func (b *testbed) destroyed(ctx context.Context, domains ...string) error {
	for _, d := range domains {
		if err := b.typed(ctx, "virsh destroy "+d); err != nil {
			return err
		}
		if err := b.host.WaitState(ctx, d, libvirt.DomainShutoff); err != nil {
			return err
		}
	}
	after, err := b.host.Snapshot(ctx)
	if err != nil {
		return err
	}
	if diff := b.before.Diff(after); diff != "" {
		return fmt.Errorf("something is left of the guests; the host's links before and after differ:\n%s", diff)
	}
	held, err := filepath.Glob(b.host.Path("/run/libvirt-direct/domains/*"))
	if err != nil {
		return err
	}
	if len(held) > 0 {
		return fmt.Errorf("the hook still holds something: %s", held)
	}
	b.ok("nothing is left: links, addresses, MACs, names and /dev/tap nodes of the host are as before")
	return nil
}
