//go:build integration || vm

package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest"
	"libvirt-direct/integration/guest/kernel"
	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/internal/config"
)

// uuid is a domain's where a test must know it.
const uuid = "11111111-2222-4333-8444-555555555555"

const hookPath = "/etc/libvirt/hooks/qemu"

// deadline bounds a test. It is far more than any takes on an idle machine.
func deadline(tb testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	tb.Cleanup(cancel)
	return ctx
}

// A site is a libvirt host with the hook installed.
type site struct {
	*host.Host
	t   *testing.T
	ctx context.Context
}

// newSite makes a host whose libvirtd does not run yet. conf is its config.toml,
// none where empty.
func newSite(ctx context.Context, t *testing.T, name, conf string) *site {
	t.Helper()
	s := &site{hosttest.New(ctx, t, host.Options{Name: name, ListenTCP: true}), t, ctx}
	require.NoError(t, s.InstallHook(ctx, program(t, "qemu-hook")))
	if conf != "" {
		s.configure(conf)
	}
	return s
}

// in is the same site for a subtest.
func (s *site) in(t *testing.T) *site { return &site{s.Host, t, s.ctx} }

func (s *site) configure(conf string) {
	s.t.Helper()
	require.NoError(s.t, s.WriteFile(s.ctx, config.Path, 0o644, []byte(conf)))
}

func (s *site) up() {
	s.t.Helper()
	require.NoError(s.t, s.StartLibvirtd(s.ctx))
}

func (s *site) start(name string) {
	s.t.Helper()
	s.virsh("start", "--domain", name)
}

func (s *site) virsh(args ...string) string {
	s.t.Helper()
	out, err := s.Virsh(s.ctx, args...)
	require.NoError(s.t, err)
	return out
}

// define defines a domain for the time of the test.
func (s *site) define(d host.Domain) {
	s.t.Helper()
	s.defineXML(d.Name, d.XML())
}

// rewrite defines a domain after `libvirt-direct rewrite`.
func (s *site) rewrite(d host.Domain) {
	s.t.Helper()
	s.defineXML(d.Name, s.run(d.XML(), program(s.t, "libvirt-direct"), "rewrite"))
}

func (s *site) defineXML(name, xml string) {
	s.t.Helper()
	require.NoError(s.t, s.Define(s.ctx, xml))
	s.t.Cleanup(func() {
		ctx := context.WithoutCancel(s.ctx)
		s.Virsh(ctx, "destroy", "--domain", name) // if the test has failed
		s.Virsh(ctx, "undefine", "--domain", name)
	})
}

// gc runs `libvirt-direct gc`.
func (s *site) gc() string {
	s.t.Helper()
	return s.run("", program(s.t, "libvirt-direct"), "gc")
}

// run runs a program inside, and returns its standard output.
func (s *site) run(stdin, name string, args ...string) string {
	s.t.Helper()
	cmd := s.Command(s.ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(s.t, err, "%s %q: %s", name, args, stderr.String())
	return string(out)
}

// stop destroys a domain and waits until its release hook has run.
func (s *site) stop(name string) {
	s.t.Helper()
	s.virsh("destroy", "--domain", name)
	require.NoError(s.t, s.WaitState(s.ctx, name, libvirt.DomainShutoff))
}

func (s *site) snapshot() host.Snapshot {
	s.t.Helper()
	shot, err := s.Snapshot(s.ctx)
	require.NoError(s.t, err)
	return shot
}

// unchanged checks that links, addresses and nodes are as before, and that nothing
// is held.
func (s *site) unchanged(before host.Snapshot) {
	s.t.Helper()
	require.Empty(s.t, before.Diff(s.snapshot()))
	require.Empty(s.t, s.journals())
}

// journals lists the domains that have a journal.
func (s *site) journals() []string {
	s.t.Helper()
	files, err := filepath.Glob(s.Path("/run/libvirt-direct/domains/*.json"))
	require.NoError(s.t, err)
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

// macvtaps are the links of that kind.
func (s *site) macvtaps() map[string]host.Link {
	found := map[string]host.Link{}
	for name, l := range s.snapshot() {
		if l["kind"] == "macvtap" {
			found[name] = l
		}
	}
	return found
}

// qemu is the process ID of a running domain, inside.
func (s *site) qemu(name string) string {
	s.t.Helper()
	pid, err := os.ReadFile(s.Path("/run/libvirt/qemu/" + name + ".pid"))
	require.NoError(s.t, err)
	return strings.TrimSpace(string(pid))
}

// kill kills processes and waits until they are gone.
func (s *site) kill(pids ...string) {
	s.t.Helper()
	_, err := s.Run(s.ctx, "kill", append([]string{"-KILL"}, pids...)...)
	require.NoError(s.t, err)
	for _, pid := range pids {
		require.Eventually(s.t, func() bool {
			_, err := os.Stat(s.Path("/proc/" + pid))
			return os.IsNotExist(err)
		}, 10*time.Second, 5*time.Millisecond)
	}
}

// tap is the device that libvirt has made for a running domain's first NIC.
func (s *site) tap(domain string) string {
	s.t.Helper()
	return strings.Fields(s.virsh("domiflist", domain))[0]
}

const (
	peerAddr  = "10.55.0.1"
	peerAddr6 = "fd55::1"
)

// A plug is a host's NIC to be connected to a peer.
type plug struct {
	s   *site
	nic string
}

// A lan is what is at the other end of the hosts' NICs: a switch that reflects, as
// VEPA wants it, and in it the peer that the guests talk to.
type lan struct {
	*host.Peer
	t   *testing.T
	ctx context.Context
}

func newLAN(ctx context.Context, t *testing.T, plugs ...plug) *lan {
	t.Helper()
	hosttest.Require(t, "busybox")
	l := &lan{hosttest.NewPeer(ctx, t, host.Options{Name: "peer"}), t, ctx}
	var ports []host.Port
	for i, p := range plugs {
		port := host.Port{Name: fmt.Sprintf("p%d", i), Hairpin: true}
		require.NoError(t, host.Wire(ctx, p.s.Peer, p.nic, l.Peer, port.Name))
		ports = append(ports, port)
	}
	require.NoError(t, l.Bridge(ctx, "br0", ports...))
	require.NoError(t, l.SetAddress(ctx, "br0", peerAddr+"/24"))
	_, err := l.Run(ctx, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/br0/disable_ipv6; ip addr add "+peerAddr6+"/64 dev br0 nodad")
	require.NoError(t, err)
	return l
}

// in is the same lan for a subtest.
func (l *lan) in(t *testing.T) *lan { return &lan{l.Peer, t, l.ctx} }

// ping pings an address of a family, "-4" or "-6", once and with a second's patience.
func (l *lan) ping(family, to string) error {
	_, err := l.Run(l.ctx, "busybox", "ping", family, "-c", "1", "-W", "1", to)
	return err
}

var image = sync.OnceValues(func() (*guest.Image, error) {
	cache, err := kernel.CacheDir()
	if err != nil {
		return nil, err
	}
	return guest.Prepare(context.Background(), cache, os.Stderr)
})

// A linux is a guest that talks, number n on the lan.
type linux struct {
	host.Domain
	n       int
	console *guest.Console
}

func mac(n int) string   { return fmt.Sprintf("52:54:00:55:00:%02x", n) }
func addr(n int) string  { return fmt.Sprintf("10.55.0.%d", 10+n) }
func addr6(n int) string { return fmt.Sprintf("fd55::%d", 10+n) }

// newLinux describes a guest with one NIC, which has the MAC mac(n) and pings the
// peer and whoever else is named. words are our metadata's for the NIC.
func newLinux(t *testing.T, name string, n int, nic, words string, pings ...string) *linux {
	t.Helper()
	img, err := image()
	require.NoError(t, err)
	hw, err := net.ParseMAC(mac(n))
	require.NoError(t, err)
	cmdline := guest.Cmdline{NICs: []guest.NIC{{
		MAC: hw, Addr: netip.MustParsePrefix(addr(n) + "/24"), Peer: netip.MustParseAddr(peerAddr),
		Addr6: netip.MustParsePrefix(addr6(n) + "/64"),
	}}}
	for _, p := range pings {
		cmdline.NICs = append(cmdline.NICs, guest.NIC{MAC: hw, Peer: netip.MustParseAddr(p)})
	}
	g := &linux{
		Domain: host.Domain{
			Name: name, MemoryMiB: 128, Kernel: img.KernelPath, Initrd: img.InitrdPath, Cmdline: cmdline.String(),
			SerialLog: filepath.Join(t.TempDir(), "console"), Interfaces: []string{nic}, Metadata: metadata(n, words),
		},
		n: n,
	}
	g.console = &guest.Console{Path: g.SerialLog}
	return g
}

// metadata is our element with one <nic>, or nothing when there are no words.
func metadata(n int, words string) string {
	if words == "" {
		return ""
	}
	return fmt.Sprintf("<ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='%s' %s/></ld:nics>", mac(n), words)
}

// talks waits until the guest reaches the peer, from now on, and the peer the guest.
func (g *linux) talks(l *lan) {
	l.t.Helper()
	g.reports(l, "ping "+peerAddr+" ok")
	require.NoError(l.t, l.ping("-4", addr(g.n)))
}

// reports waits for a line of the guest's report, from now on.
func (g *linux) reports(l *lan, text string) {
	l.t.Helper()
	require.NoError(l.t, g.console.Skip())
	_, err := g.console.Wait(l.ctx, text)
	require.NoError(l.t, err)
}

// tiny is a guest that runs no more than its firmware.
func tiny(name string, nics ...string) host.Domain {
	return host.Domain{Name: name, MemoryMiB: 32, Interfaces: nics}
}

// direct is an <interface type='direct'> without network boot.
func direct(n int, dev, mode string, more ...string) string {
	return host.DirectNIC(mac(n), dev, mode, append(more, "<rom enabled='no'/>")...)
}

func replaceOnce(t *testing.T, s, old, new string) string {
	t.Helper()
	require.Equal(t, 1, strings.Count(s, old), "%s in %s", old, s)
	return strings.Replace(s, old, new, 1)
}
