package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned for anything asked of a Peer that no longer runs.
var ErrClosed = errors.New("host is closed")

// logDir is the folder of Options.Dir that is /var/log/libvirt inside.
const logDir = "log"

// Options say what a [Peer] or a [Host] is like.
type Options struct {
	// Name is the host name. It need not be unique on the machine, but
	// libvirt refuses to migrate between two hosts of one name.
	Name string
	// Dir is an absolute path, made if absent and visible at the same path
	// inside. Logs stay in its folder "log" after Close; the caller removes it.
	Dir string
	// Log gets the standard error of what runs in the background; nil means
	// nowhere.
	Log io.Writer
	// ListenTCP makes libvirtd accept qemu+tcp connections, without any
	// authentication, on every address of the namespace. Only for a Host.
	ListenTCP bool
}

// A Peer is a machine without libvirt: a set of namespaces and the process that
// holds them. Its methods may be called concurrently.
type Peer struct {
	opts  Options
	log   io.Writer
	pid   int
	init  *os.Process // PID 1 inside
	stdin io.Closer   // its end of file is the end of PID 1
	done  chan struct{}
	slot  io.Closer
}

// NewPeer makes a Peer. Without [MaybeInit] in the program it fails. The
// context bounds the making only.
func NewPeer(ctx context.Context, opts Options) (*Peer, error) {
	if isInit() {
		return nil, errors.New("host: call host.MaybeInit first in main or TestMain")
	}
	if opts.Name == "" || !filepath.IsAbs(opts.Dir) {
		return nil, fmt.Errorf("host: Options need a Name (%q) and an absolute Dir (%q)", opts.Name, opts.Dir)
	}
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("host %s: %w", opts.Name, err)
	}
	p := &Peer{opts: opts, log: &lockedWriter{w: opts.Log}, done: make(chan struct{})}
	if err := p.start(ctx); err != nil {
		return nil, fmt.Errorf("host %s: %w", opts.Name, err)
	}
	if err := p.spreadIndexes(ctx); err != nil {
		p.Close()
		return nil, fmt.Errorf("host %s: %w", opts.Name, err)
	}
	return p, nil
}

// start executes this program again as PID 1 of new namespaces and waits until
// it has set them up.
func (p *Peer) start(ctx context.Context) error {
	stdin, lifeline, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	status, stdout, err := os.Pipe()
	if err != nil {
		lifeline.Close()
		return err
	}
	defer status.Close()

	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{initArg}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=1"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, p.log
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL,
		Setsid:     true, // Ctrl-C is for the creator, who then cleans up
	}
	started := make(chan error, 1)
	go func() {
		// The parent death signal comes when this thread ends, not this process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		stdout.Close()
		started <- err
		if err == nil {
			cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		lifeline.Close()
		return fmt.Errorf("make namespaces (root is needed): %w", err)
	}
	p.pid, p.init, p.stdin = cmd.Process.Pid, cmd.Process, lifeline

	stop := context.AfterFunc(ctx, func() { lifeline.Close(); cmd.Process.Kill() })
	defer stop()
	err = json.NewEncoder(lifeline).Encode(initConfig{Name: p.opts.Name, Dir: p.opts.Dir})
	var answer []byte
	if err == nil {
		answer, err = readAnswer(status)
	}
	if err == nil && string(answer) == initReady {
		return nil
	}
	p.Close()
	if why, ok := strings.CutPrefix(string(answer), initFailed); ok {
		return fmt.Errorf("set up namespaces: %s", why)
	}
	return fmt.Errorf("set up namespaces: %w", errors.Join(context.Cause(ctx), err,
		fmt.Errorf("PID 1 says %q; host.MaybeInit must come first in main or TestMain", answer)))
}

// readAnswer reads PID 1's standard output up to the first line break, or to
// its end after an error.
func readAnswer(r io.Reader) ([]byte, error) {
	answer := make([]byte, len(initReady), 1<<10)
	if n, err := io.ReadFull(r, answer); err != nil || string(answer) == initReady {
		return answer[:n], err
	}
	rest, err := io.ReadAll(io.LimitReader(r, 1<<10))
	return append(answer, rest...), err
}

// closeTimeout is far more than the kernel needs to end a namespace.
const closeTimeout = 10 * time.Second

// Close kills every process inside and waits until they are gone. It fails if
// one of them is a [Cmd] that was started and is not being waited for.
func (p *Peer) Close() error {
	p.stdin.Close()
	p.init.Kill() // an error means that it has ended
	select {
	case <-p.done:
	case <-time.After(closeTimeout):
		return fmt.Errorf("host %s: a process inside is not gone %v after its kill; wait for every Cmd", p.opts.Name, closeTimeout)
	}
	if p.slot != nil {
		p.slot.Close()
	}
	return nil
}

// Name is the host name.
func (p *Peer) Name() string { return p.opts.Name }

// Path is where a file inside is seen from outside. It ends with the Peer.
// Absolute symbolic links in it lead to the wrong place: write /run, not
// /var/run.
func (p *Peer) Path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(p.pid), "root", name)
}

// Run runs a program inside and returns its standard output. The error carries
// its standard error and wraps [*exec.ExitError].
func (p *Peer) Run(ctx context.Context, name string, args ...string) (string, error) {
	return p.run(p.Command(ctx, name, args...), strings.Join(append([]string{name}, args...), " "))
}

// run runs c, called what in errors.
func (p *Peer) run(c *Cmd, what string) (string, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %s: %w: %s", p.opts.Name, what, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// WriteFile replaces a file inside, making its folders. The writing is another
// process's, so that a program just written can be executed at once: a
// concurrent fork of this one cannot hold it open (ETXTBSY).
func (p *Peer) WriteFile(ctx context.Context, name string, mode os.FileMode, data []byte) error {
	cmd := p.Command(ctx, "install", "-D", "-m", fmt.Sprintf("%04o", mode.Perm()), "/dev/stdin", name)
	cmd.Stdin = bytes.NewReader(data)
	_, err := p.run(cmd, "write "+name)
	return err
}

// CopyFile copies a file of the machine to a path inside.
func (p *Peer) CopyFile(ctx context.Context, name string, mode os.FileMode, source string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	return p.WriteFile(ctx, name, mode, data)
}

const (
	indexSpan = 128     // interfaces that a namespace may count before it meets the next one's
	indexMax  = 1 << 16 // indexes from here on were chosen, not counted
)

// spreadIndexes makes the namespace's next interface index differ from that of
// every other Peer and of the machine itself, because of /dev/tap<ifindex>. The
// kernel counts from the last index that it gave; one given by hand does not
// count (net/core/dev.c, dev_index_reserve), so that there is only using up.
func (p *Peer) spreadIndexes(ctx context.Context) error {
	first, err := p.reserveIndexes()
	if err != nil {
		return err
	}
	var batch strings.Builder
	for i := 2; i < first; i += 2 {
		fmt.Fprintf(&batch, "link add spread%d group 7 type veth peer name spread%d group 7\n", i, i+1)
	}
	batch.WriteString("link del group 7\n")
	return p.ip(ctx, batch.String())
}

// reserveIndexes finds a range of indexes that is above the machine's and
// nobody else's. An abstract socket holds it: the kernel drops it in any event.
func (p *Peer) reserveIndexes() (first int, err error) {
	above := 0
	links, err := net.Interfaces()
	if err != nil {
		return 0, err
	}
	for _, l := range links {
		if l.Index < indexMax {
			above = max(above, l.Index)
		}
	}
	taps, err := filepath.Glob("/dev/tap*")
	if err != nil {
		return 0, err
	}
	for _, t := range taps {
		if n, err := strconv.Atoi(strings.TrimPrefix(t, "/dev/tap")); err == nil && n < indexMax {
			above = max(above, n)
		}
	}
	for first = (above/indexSpan + 1) * indexSpan; first < indexMax; first += indexSpan {
		slot, err := net.Listen("unix", fmt.Sprintf("@libvirt-direct/host/ifindex/%d", first))
		if err == nil {
			p.slot = slot
			return first, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return 0, err
		}
	}
	return 0, errors.New("no range of interface indexes is free; close other hosts")
}

// lockedWriter lets several processes write to one Writer, which may be nil.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	if l.w == nil {
		return len(b), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
