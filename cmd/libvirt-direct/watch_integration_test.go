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
	h      *fixture
	cmd    *host.Cmd
	ended  chan struct{}
	stderr string // a file
}

// says waits until it has said something.
func (w *watch) says(text string) {
	w.h.T.Helper()
	_, err := w.h.WaitLine(w.h.Ctx, w.stderr, func(line string) bool { return strings.Contains(line, text) })
	require.NoError(w.h.T, err, text)
}

func (h *fixture) watch() *watch {
	h.T.Helper()
	w := &watch{h: h, ended: make(chan struct{}), stderr: filepath.Join(h.T.TempDir(), "stderr")}
	stderr, err := os.Create(w.stderr)
	require.NoError(h.T, err)
	defer stderr.Close()
	w.cmd = h.Command(h.Ctx, filepath.Join(h.bin, "libvirt-direct"), "watch")
	w.cmd.Stderr = stderr
	require.NoError(h.T, w.cmd.Start())
	go func() {
		defer close(w.ended)
		_ = w.cmd.Wait() // stop looks at the exit status
	}()
	h.T.Cleanup(func() {
		_ = w.cmd.Process.Kill() // it may have ended
		<-w.ended
	})
	return w
}

// stop ends it as systemd does.
func (w *watch) stop() {
	w.h.T.Helper()
	require.NoError(w.h.T, w.cmd.Process.Signal(unix.SIGTERM))
	select {
	case <-w.ended:
	case <-w.h.Ctx.Done():
		w.h.T.Fatal("it did not end")
	}
	require.Zero(w.h.T, w.cmd.ProcessState.ExitCode())
}

// A count is how often each domain has been defined since counting began.
type count struct {
	h      *fixture
	events <-chan libvirt.DomainEventLifecycleMsg
	of     map[string]int
}

func (h *fixture) count() *count {
	h.T.Helper()
	conn, err := h.Connect(h.Ctx)
	require.NoError(h.T, err)
	events, err := conn.LifecycleEvents(h.Ctx)
	require.NoError(h.T, err)
	return &count{h, events, map[string]int{}}
}

// await waits until a domain has been defined n times.
func (c *count) await(name string, n int) {
	c.h.T.Helper()
	for c.of[name] < n {
		select {
		case e, ok := <-c.events:
			require.True(c.h.T, ok, "the connection is lost")
			if libvirt.DomainEventType(e.Event) == libvirt.DomainEventDefined {
				c.of[e.Dom.Name]++
			}
		case <-c.h.Ctx.Done():
			c.h.T.Fatalf("%s was defined %d times, not %d", name, c.of[name], n)
		}
	}
}

const (
	asks    = "rewrite='yes'"
	refuses = "rewrite='no'"
)

func TestWatch(t *testing.T) {
	h := newFixture(t, uplinkConfig+"[watch]\ndomains = [\"web*\"]\n")
	h.up()
	guest := func(name, attrs string) host.Domain {
		d := vlanGuest(name, "")
		if attrs != "" {
			d.Metadata = words(attrs)
		}
		return d
	}
	rewritten := func(name string, want bool) {
		t.Helper()
		require.Equal(t, want, strings.Contains(h.inactive(name), "nica.100"), name)
	}

	// Defined while it is away.
	for _, d := range []host.Domain{guest("web1", ""), guest("asks", asks), guest("other", ""), guest("web-not", refuses)} {
		h.MustDefine(d)
	}
	c := h.count()
	w := h.watch()
	c.await("web1", 1)
	c.await("asks", 1)

	// Defined while it runs. They are handled in order, so that the last one's
	// rewriting tells that the others', and what follows from it, is over.
	for _, d := range []host.Domain{guest("web2", ""), guest("other2", ""), guest("web2-not", refuses), guest("asks2", asks), guest("last", asks)} {
		h.MustDefine(d)
	}
	c.await("last", 2)
	h.MustDefine(guest("really last", asks))
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
	h.ok("rewrite", "--undo", "--domain", "web2")
	c.await("web2", 3)
	h.MustDefine(guest("marker", asks))
	c.await("marker", 2)
	require.Equal(t, 3, c.of["web2"])
	rewritten("web2", false)
	require.Contains(t, h.inactive("web2"), `rewrite="no"`)

	// One that cannot be rewritten is told of once.
	impossible := host.Domain{Name: "impossible", Metadata: words(asks), Interfaces: []string{host.DirectNIC(mac1, "eth7", "bridge", vlan100)}}
	for range 2 {
		impossible.UUID = "aaaaaaaa-0000-4000-8000-000000000009"
		h.MustDefine(impossible)
	}
	h.MustDefine(guest("marker2", asks))
	c.await("marker2", 2)
	said, err := os.ReadFile(w.stderr)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(said), `domain "impossible" was not rewritten: domain "impossible", NIC `+mac1+`: no such device on this host`), "%s", said)

	// The pattern is read anew, and a broken configuration is no end.
	h.Configure("[[\n")
	h.MustDefine(guest("db1", ""))
	w.says(`domain "db1" was not rewritten: ` + config.Path + `:1: `)
	h.Configure(uplinkConfig + "[watch]\ndomains = [\"db?\"]\n")
	h.MustDefine(guest("db2", ""))
	c.await("db2", 2)
	h.MustDefine(guest("web3", ""))
	h.MustDefine(guest("marker3", asks))
	c.await("marker3", 2)
	require.Equal(t, 1, c.of["web3"])

	// libvirtd restarts, and with it the agent's connection.
	require.NoError(t, h.KillLibvirtd(h.Ctx, unix.SIGTERM))
	h.MustStartLibvirtd()
	c = h.count()
	h.MustDefine(guest("again", asks))
	c.await("again", 2)
	rewritten("again", true)
	w.says("libvirt has gone; trying again")
	w.stop()
}

func TestStartBeforeWatchHasRewritten(t *testing.T) {
	h := newFixture(t, uplinkConfig)
	h.up()
	before := h.MustSnapshot()
	h.MustDefine(ownedGuest("early", asks))
	_, err := h.Virsh(h.Ctx, "start", "early")
	require.Error(t, err)
	require.Equal(t, 1, strings.Count(err.Error(), "must be rewritten first"), "once: %v", err)
	require.Contains(t, err.Error(), `libvirt-direct: prepare: domain "early", NIC `+mac2+`: must be rewritten first: it asks to be hook-owned; run: libvirt-direct rewrite --domain early`)
	require.Empty(t, before.Diff(h.MustSnapshot()))

	c := h.count()
	w := h.watch()
	c.await("early", 1)
	h.MustVirsh("start", "early")
	w.stop()
	h.MustVirsh("destroy", "early")
	require.Empty(t, before.Diff(h.MustSnapshot()))
}

// It waits for a daemon that is not there yet, and can be stopped while it does.
func TestWatchWithoutDaemon(t *testing.T) {
	h := newFixture(t, uplinkConfig)
	w := h.watch()
	h.up()
	c := h.count()
	h.MustDefine(vlanGuest("v", words(asks)))
	c.await("v", 2)
	require.NoError(t, h.KillLibvirtd(h.Ctx, unix.SIGKILL))
	w.stop()
}
