package hosttest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/poll"
)

// A Fixture is a libvirt host together with the test that it is for and the time that the
// test may take. Where the Host's methods take a context and return an error, the
// Fixture's, whose names begin with Must, use Ctx and end the test T. A package embeds it
// and adds what only its own tests do with a host.
type Fixture struct {
	*host.Host
	T   testing.TB
	Ctx context.Context
}

// NewFixture is [New] as a Fixture: libvirtd does not run yet, and there is no hook.
func NewFixture(ctx context.Context, tb testing.TB, opts host.Options) *Fixture {
	tb.Helper()
	return &Fixture{New(ctx, tb, opts), tb, ctx}
}

// In returns the same host for a subtest, which is then the one that fails, and at whose
// end the domains go that it has defined.
func (f *Fixture) In(tb testing.TB) *Fixture { return &Fixture{f.Host, tb, f.Ctx} }

// MustRun runs a program inside and returns its standard output.
func (f *Fixture) MustRun(name string, args ...string) string {
	f.T.Helper()
	out, err := f.Run(f.Ctx, name, args...)
	require.NoError(f.T, err)
	return out
}

// MustPipe is MustRun for a program that reads its standard input.
func (f *Fixture) MustPipe(stdin, name string, args ...string) string {
	f.T.Helper()
	cmd := f.Command(f.Ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(f.T, err, "%s %q: %s", name, args, stderr.String())
	return string(out)
}

// MustStart starts a daemon inside, which ends by stop or with the test. The test's log
// has what it prints.
func (f *Fixture) MustStart(name string, args ...string) (stop func()) {
	f.T.Helper()
	cmd := f.Command(context.WithoutCancel(f.Ctx), name, args...)
	cmd.Stdout, cmd.Stderr = f.T.Output(), f.T.Output()
	require.NoError(f.T, cmd.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	stop = func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	}
	f.T.Cleanup(stop)
	return stop
}

// MustWrite replaces a file inside, making its folders.
func (f *Fixture) MustWrite(path string, mode os.FileMode, text string) {
	f.T.Helper()
	require.NoError(f.T, f.WriteFile(f.Ctx, path, mode, []byte(text)))
}

// Configure replaces libvirt-direct's configuration.
func (f *Fixture) Configure(conf string) {
	f.T.Helper()
	f.MustWrite(config.Path, 0o644, conf)
}

// MustStartLibvirtd returns when libvirtd serves.
func (f *Fixture) MustStartLibvirtd() {
	f.T.Helper()
	require.NoError(f.T, f.StartLibvirtd(f.Ctx))
}

// MustVirsh runs virsh and returns its standard output.
func (f *Fixture) MustVirsh(args ...string) string {
	f.T.Helper()
	out, err := f.Virsh(f.Ctx, args...)
	require.NoError(f.T, err)
	return out
}

// MustDefine defines a domain until the end of the test.
func (f *Fixture) MustDefine(d host.Domain) {
	f.T.Helper()
	f.MustDefineXML(d.Name, d.XML())
}

// MustDefineXML is MustDefine for a domain of that name whose XML has been edited.
func (f *Fixture) MustDefineXML(name, xml string) {
	f.T.Helper()
	require.NoError(f.T, f.Define(f.Ctx, xml))
	f.T.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(f.Ctx), 30*time.Second)
		defer cancel()
		f.Virsh(ctx, "destroy", "--domain", name) // it may not run
		f.Virsh(ctx, "undefine", "--domain", name)
	})
}

// MustSnapshot is what the host's network looks like now.
func (f *Fixture) MustSnapshot() host.Snapshot {
	f.T.Helper()
	shot, err := f.Snapshot(f.Ctx)
	require.NoError(f.T, err)
	return shot
}

// RequireUnchanged checks that links, addresses and nodes are as before, and that no
// domain has a journal.
func (f *Fixture) RequireUnchanged(before host.Snapshot) {
	f.T.Helper()
	require.Empty(f.T, before.Diff(f.MustSnapshot()))
	require.Empty(f.T, f.Journals())
}

// Journals lists the files of the domains that have a journal.
func (f *Fixture) Journals() []string {
	f.T.Helper()
	files, err := filepath.Glob(f.Path("/run/libvirt-direct/domains/*.json"))
	require.NoError(f.T, err)
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

// MustTakeCard moves a network card of the machine into the host, and sets it up there.
func (f *Fixture) MustTakeCard(card, name string) {
	f.T.Helper()
	TakeCard(f.Ctx, f.T, f.Peer, card, name)
}

// TakeCard moves a network card of the machine into a Peer, and sets it up there.
func TakeCard(ctx context.Context, tb testing.TB, p *host.Peer, card, name string) {
	tb.Helper()
	// The kernel gives a card back some time after the host that had it has ended, by the name that it had there.
	Eventually(tb, time.Minute, card, func() bool {
		if _, err := net.InterfaceByName(card); err == nil {
			return true
		}
		return exec.CommandContext(ctx, "ip", "link", "set", name, "name", card).Run() == nil
	})
	pid := strings.Split(p.Path("/"), "/")[2]
	out, err := exec.CommandContext(ctx, "ip", "link", "set", card, "netns", pid).CombinedOutput()
	require.NoError(tb, err, "%s", out)
	_, err = p.Run(ctx, "ip", "link", "set", card, "name", name, "up")
	require.NoError(tb, err)
}

// Deadline is a context that ends with the test or after d, which is far more than the
// test takes on an idle machine.
func Deadline(tb testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	tb.Cleanup(cancel)
	return ctx
}

// Build builds programs of this module, by name and package, into a folder: without cgo, as
// they are shipped, and with the tag that those for tests alone have.
func Build(dir string, programs map[string]string) error {
	for name, pkg := range programs {
		build := exec.Command("go", "build", "-tags", "integration", "-o", filepath.Join(dir, name), "libvirt-direct/"+pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return nil
}

// Eventually waits until f holds, and ends the test if that takes longer than d.
func Eventually(tb testing.TB, d time.Duration, what string, f func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	defer cancel()
	if err := poll.Until(ctx, 20*time.Millisecond, func() (bool, error) { return f(), nil }); err != nil {
		tb.Fatalf("no %s within %v: %v", what, d, err)
	}
}
