//go:build integration

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
	"libvirt-direct/internal/config"
)

// A watch is a running `libvirt-direct watch`.
type watch struct {
	s      *site
	cmd    *host.Cmd
	ended  chan struct{}
	stderr string // a file
}

// says waits until it has said something.
func (w *watch) says(text string) {
	w.s.t.Helper()
	_, err := w.s.WaitLine(w.s.ctx, w.stderr, func(line string) bool { return strings.Contains(line, text) })
	require.NoError(w.s.t, err, text)
}

func (s *site) watch() *watch {
	s.t.Helper()
	w := &watch{s: s, ended: make(chan struct{}), stderr: filepath.Join(s.t.TempDir(), "stderr")}
	stderr, err := os.Create(w.stderr)
	require.NoError(s.t, err)
	defer stderr.Close()
	w.cmd = s.Command(s.ctx, filepath.Join(s.bin, "libvirt-direct"), "watch")
	w.cmd.Stderr = stderr
	require.NoError(s.t, w.cmd.Start())
	go func() {
		defer close(w.ended)
		_ = w.cmd.Wait() // stop looks at the exit status
	}()
	s.t.Cleanup(func() {
		_ = w.cmd.Process.Kill() // it may have ended
		<-w.ended
	})
	return w
}

// stop ends it as systemd does.
func (w *watch) stop() {
	w.s.t.Helper()
	require.NoError(w.s.t, w.cmd.Process.Signal(unix.SIGTERM))
	select {
	case <-w.ended:
	case <-w.s.ctx.Done():
		w.s.t.Fatal("it did not end")
	}
	require.Zero(w.s.t, w.cmd.ProcessState.ExitCode())
}

// A count is how often each domain has been defined since counting began.
type count struct {
	s      *site
	events <-chan libvirt.DomainEventLifecycleMsg
	of     map[string]int
}

func (s *site) count() *count {
	s.t.Helper()
	conn, err := s.Connect(s.ctx)
	require.NoError(s.t, err)
	events, err := conn.LifecycleEvents(s.ctx)
	require.NoError(s.t, err)
	return &count{s, events, map[string]int{}}
}

// await waits until a domain has been defined n times.
func (c *count) await(name string, n int) {
	c.s.t.Helper()
	for c.of[name] < n {
		select {
		case e, ok := <-c.events:
			require.True(c.s.t, ok, "the connection is lost")
			if libvirt.DomainEventType(e.Event) == libvirt.DomainEventDefined {
				c.of[e.Dom.Name]++
			}
		case <-c.s.ctx.Done():
			c.s.t.Fatalf("%s was defined %d times, not %d", name, c.of[name], n)
		}
	}
}

const (
	asks    = "rewrite='yes'"
	refuses = "rewrite='no'"
)

func TestWatch(t *testing.T) {
	s := newSite(t, uplinkConfig+"[watch]\ndomains = [\"web*\"]\n")
	s.up()
	guest := func(name, attrs string) host.Domain {
		d := vlanGuest(name, "")
		if attrs != "" {
			d.Metadata = words(attrs)
		}
		return d
	}
	rewritten := func(name string, want bool) {
		t.Helper()
		require.Equal(t, want, strings.Contains(s.inactive(name), "nica.100"), name)
	}

	// Defined while it is away.
	for _, d := range []host.Domain{guest("web1", ""), guest("asks", asks), guest("other", ""), guest("web-not", refuses)} {
		s.define(d)
	}
	c := s.count()
	w := s.watch()
	c.await("web1", 1)
	c.await("asks", 1)

	// Defined while it runs. They are handled in order, so that the last one's
	// rewriting tells that the others', and what follows from it, is over.
	for _, d := range []host.Domain{guest("web2", ""), guest("other2", ""), guest("web2-not", refuses), guest("asks2", asks), guest("last", asks)} {
		s.define(d)
	}
	c.await("last", 2)
	s.define(guest("really last", asks))
	c.await("really last", 2)
	require.Equal(t, map[string]int{
		"web1": 1, "asks": 1,
		"web2": 2, "asks2": 2, "other2": 1, "web2-not": 1,
		"last": 2, "really last": 2,
	}, c.of)
	for name, want := range map[string]bool{
		"web1": true, "asks": true, "web2": true, "asks2": true, "last": true, "really last": true,
		"other": false, "other2": false, "web-not": false, "web2-not": false,
	} {
		rewritten(name, want)
	}

	// What was undone stays undone.
	s.ok("rewrite", "--undo", "--domain", "web2")
	c.await("web2", 3)
	s.define(guest("marker", asks))
	c.await("marker", 2)
	require.Equal(t, 3, c.of["web2"])
	rewritten("web2", false)
	require.Contains(t, s.inactive("web2"), `rewrite="no"`)

	// One that cannot be rewritten is told of once.
	impossible := host.Domain{Name: "impossible", Metadata: words(asks), Interfaces: []string{host.DirectNIC(mac1, "eth7", "bridge", vlan100)}}
	for range 2 {
		impossible.UUID = "aaaaaaaa-0000-4000-8000-000000000009"
		s.define(impossible)
	}
	s.define(guest("marker2", asks))
	c.await("marker2", 2)
	said, err := os.ReadFile(w.stderr)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(said), `domain "impossible" was not rewritten: domain "impossible", NIC `+mac1+`: no such device on this host`), "%s", said)

	// The pattern is read anew, and a broken configuration is no end.
	s.write(config.Path, 0o644, "[[\n")
	s.define(guest("db1", ""))
	w.says(`domain "db1" was not rewritten: ` + config.Path + `:1: `)
	s.write(config.Path, 0o644, uplinkConfig+"[watch]\ndomains = [\"db?\"]\n")
	s.define(guest("db2", ""))
	c.await("db2", 2)
	s.define(guest("web3", ""))
	s.define(guest("marker3", asks))
	c.await("marker3", 2)
	require.Equal(t, 1, c.of["web3"])

	// libvirtd restarts, and with it the agent's connection.
	require.NoError(t, s.KillLibvirtd(s.ctx, unix.SIGTERM))
	require.NoError(t, s.StartLibvirtd(s.ctx))
	c = s.count()
	s.define(guest("again", asks))
	c.await("again", 2)
	rewritten("again", true)
	w.says("libvirt has gone; trying again")
	w.stop()
}

func TestStartBeforeWatchHasRewritten(t *testing.T) {
	s := newSite(t, uplinkConfig)
	s.up()
	before := s.snapshot()
	s.define(ownedGuest("early", asks))
	_, err := s.Virsh(s.ctx, "start", "early")
	require.Error(t, err)
	require.Equal(t, 1, strings.Count(err.Error(), "must be rewritten first"), "once: %v", err)
	require.Contains(t, err.Error(), `libvirt-direct: prepare: domain "early", NIC `+mac2+`: must be rewritten first: it asks to be hook-owned; run: libvirt-direct rewrite --domain early`)
	require.Empty(t, before.Diff(s.snapshot()))

	c := s.count()
	w := s.watch()
	c.await("early", 1)
	s.virsh("start", "early")
	w.stop()
	s.virsh("destroy", "early")
	require.Empty(t, before.Diff(s.snapshot()))
}

// It waits for a daemon that is not there yet, and can be stopped while it does.
func TestWatchWithoutDaemon(t *testing.T) {
	s := newSite(t, uplinkConfig)
	w := s.watch()
	s.up()
	c := s.count()
	s.define(vlanGuest("v", words(asks)))
	c.await("v", 2)
	require.NoError(t, s.KillLibvirtd(s.ctx, unix.SIGKILL))
	w.stop()
}
