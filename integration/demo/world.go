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

// A world is the demo's host, its switch and the peer, and the screen that shows them.
type world struct {
	*screen
	dir    string // has bin and the XML files; the same path inside
	host   *host.Host
	sw     *host.Peer
	peer   *host.Peer
	log    *journal
	vlans  bool // the kernel can make VLAN devices
	before host.Snapshot
}

// newWorld makes it, with the programs of a folder installed.
func newWorld(ctx context.Context, out *screen, dir, programs string) (*world, error) {
	w := &world{screen: out, dir: filepath.Join(dir, "host")}
	if err := w.make(ctx, dir, programs); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) make(ctx context.Context, dir, programs string) error {
	w.say("The host demo has the NICs %s and %s: veths, whose other ends are ports of the host switch, a bridge "+
		"that reflects frames, as 802.1Qbg asks of one. Behind it is the host peer, %s.", lanNIC, storageNIC, peerAddr.Addr())
	network := make(chan error, 1)
	go func() { network <- w.addPeers(ctx, dir) }()
	err := w.addHost(ctx, programs)
	if err = errors.Join(err, <-network); err != nil {
		return err
	}
	if err := w.connect(ctx); err != nil {
		return err
	}
	if w.vlans, err = w.addVLAN(ctx); err != nil {
		return err
	}
	w.before, err = w.host.Snapshot(ctx)
	return err
}

// addPeers makes the hosts without libvirt.
func (w *world) addPeers(ctx context.Context, dir string) (err error) {
	if w.sw, err = host.NewPeer(ctx, host.Options{Name: "switch", Dir: filepath.Join(dir, "switch")}); err != nil {
		return err
	}
	w.peer, err = host.NewPeer(ctx, host.Options{Name: "peer", Dir: filepath.Join(dir, "peer")})
	return err
}

// connect wires all hosts to the switch.
func (w *world) connect(ctx context.Context) error {
	for _, wire := range []struct {
		p         *host.Peer
		nic, port string
	}{{w.host.Peer, lanNIC, lanPort}, {w.host.Peer, storageNIC, "port2"}, {w.peer, peerNIC, "port3"}} {
		if err := host.Wire(ctx, wire.p, wire.nic, w.sw, wire.port); err != nil {
			return err
		}
	}
	err := w.sw.Bridge(ctx, "br0", host.Port{Name: lanPort, Hairpin: true}, host.Port{Name: "port2"}, host.Port{Name: "port3"})
	if err != nil {
		return err
	}
	return w.peer.SetAddress(ctx, peerNIC, peerAddr.String())
}

// addVLAN makes the peer's end of a VLAN, and tells whether this kernel can.
func (w *world) addVLAN(ctx context.Context) (bool, error) {
	_, err := w.peer.Run(ctx, "ip", "link", "add", "link", peerNIC, "name", peerDev, "type", "vlan", "id", fmt.Sprint(vlanID))
	if err != nil && (strings.Contains(err.Error(), "not supported") || strings.Contains(err.Error(), "Unknown device type")) {
		return false, nil
	}
	if err == nil {
		_, err = w.peer.Run(ctx, "ip", "link", "set", peerDev, "up")
	}
	return err == nil, err
}

// addHost makes the libvirt host with our hook.
func (w *world) addHost(ctx context.Context, programs string) (err error) {
	if w.host, err = host.New(ctx, host.Options{Name: "demo", Dir: w.dir}); err != nil {
		return err
	}
	// libvirtd does not start without the user and the group that Debian's QEMU guests
	// run as, made by a package that would also set up a libvirtd for the machine.
	_, err = w.host.Run(ctx, "sh", "-c", `
		getent passwd libvirt-qemu || echo libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin >>/etc/passwd
		getent group libvirt-qemu || echo libvirt-qemu:x:64055: >>/etc/group`)
	if err != nil {
		return err
	}
	if w.log, err = newJournal(w.host.Peer); err != nil {
		return err
	}
	if err := w.host.InstallHook(ctx, filepath.Join(programs, "qemu-hook")); err != nil {
		return err
	}
	if err := w.host.CopyFile(ctx, filepath.Join(w.dir, "bin/libvirt-direct"), 0o755, filepath.Join(programs, "libvirt-direct")); err != nil {
		return err
	}
	w.say("Our hook is installed as /etc/libvirt/hooks/qemu, and /etc/libvirt-direct/config.toml says what this host's networks are:")
	w.output(config)
	if err := w.host.WriteFile(ctx, "/etc/libvirt-direct/config.toml", 0o644, []byte(config)); err != nil {
		return err
	}
	if err := w.host.StartLibvirtd(ctx); err != nil {
		log, _ := os.ReadFile(w.host.LogFile()) // it goes with the host
		return fmt.Errorf("%w; the log ends with:\n%s", err, log[max(0, len(log)-2000):])
	}
	w.ok("libvirtd runs in the host demo")
	return nil
}

// close ends all hosts. What is closed already stays so.
func (w *world) close() error {
	var errs []error
	if w.host != nil {
		errs = append(errs, w.host.Close())
	}
	for _, p := range []*host.Peer{w.sw, w.peer} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	if w.log != nil {
		w.log.close()
	}
	*w = world{screen: w.screen}
	return errors.Join(errs...)
}

// shell runs a line of shell in the host, where its XML files are, and returns what
// it printed.
func (w *world) shell(ctx context.Context, line string) (string, error) {
	cmd := w.host.Command(ctx, "sh", "-c", `cd "$0" && PATH=$0/bin:$PATH && `+line, w.dir)
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
func (w *world) typed(ctx context.Context, line string) error {
	w.screen.typed("demo", line)
	text, err := w.shell(ctx, line)
	w.output(text)
	if err != nil {
		return err
	}
	lines, err := w.log.lines()
	for _, l := range lines {
		w.hook(l)
	}
	return err
}

// excerpt shows a command and, of its output, a line for each of words. All of them
// must be there. What is behind the word is left out of a long line.
func (w *world) excerpt(ctx context.Context, line string, words ...string) error {
	w.screen.typed("demo", line)
	text, err := w.shell(ctx, line)
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
		w.output(shown)
	}
	return nil
}

// file writes a domain for virsh and shows the parts of it that matter.
func (w *world) file(d host.Domain, show ...string) error {
	w.say("%s.xml has, beside what every domain has:", d.Name)
	for _, text := range show {
		w.quote(text)
	}
	return os.WriteFile(filepath.Join(w.dir, d.Name+".xml"), []byte(d.XML()), 0o644)
}

// expect checks attributes of a link of the host.
func (w *world) expect(ctx context.Context, link string, want host.Link) error {
	now, err := w.host.Snapshot(ctx)
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
func (w *world) destroyed(ctx context.Context, domains ...string) error {
	for _, d := range domains {
		if err := w.typed(ctx, "virsh destroy "+d); err != nil {
			return err
		}
		if err := w.host.WaitState(ctx, d, libvirt.DomainShutoff); err != nil {
			return err
		}
	}
	after, err := w.host.Snapshot(ctx)
	if err != nil {
		return err
	}
	if diff := w.before.Diff(after); diff != "" {
		return fmt.Errorf("something is left of the guests; the host's links before and after differ:\n%s", diff)
	}
	held, err := filepath.Glob(w.host.Path("/run/libvirt-direct/domains/*"))
	if err != nil {
		return err
	}
	if len(held) > 0 {
		return fmt.Errorf("the hook still holds something: %s", held)
	}
	w.ok("nothing is left: links, addresses, MACs, names and /dev/tap nodes of the host are as before")
	return nil
}
