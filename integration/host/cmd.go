package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A Cmd is an [exec.Cmd] for a program inside a Peer. The process is a child of
// the caller, so that signals, exit status and [exec.Cmd.Wait] are as usual.
type Cmd struct {
	*exec.Cmd
	peer *Peer
	err  error // what Cmd.Err was: that field now guards against Cmd.Cmd.Start
}

// Command is like [exec.CommandContext] for a program inside: it runs in all
// namespaces of p, as root in the folder /. It dies with the Peer, and when the
// context ends; processes that it leaves behind stay until Close.
func (p *Peer) Command(ctx context.Context, name string, args ...string) *Cmd {
	// The PID namespace is entered by Start: nsenter(1) would have to fork, and
	// the child of a killed nsenter is orphaned to the machine's PID 1, on
	// whose reaping the end of the namespace would then depend.
	inner := p.nsenter(ctx, []string{"--mount", "--uts", "--ipc", "--net"}, append([]string{name}, args...)...)
	c := &Cmd{Cmd: inner, peer: p, err: inner.Err}
	inner.Err = errors.New("started by exec.Cmd's method, not by host.Cmd's")
	return c
}

// nsenter runs argv in some namespaces of p, without a process in between.
func (p *Peer) nsenter(ctx context.Context, namespaces []string, argv ...string) *exec.Cmd {
	args := append([]string{"--target", strconv.Itoa(p.pid)}, namespaces...)
	args = append(append(args, "--"), argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.WaitDelay = 2 * time.Second // for what inherited the output and lives on
	select {
	case <-p.done:
		cmd.Err = ErrClosed // the process ID may be another's by now
	default:
	}
	return cmd
}

// Start is as [exec.Cmd.Start].
func (c *Cmd) Start() error {
	c.Cmd.Err = c.err
	if c.err != nil {
		return c.Cmd.Start()
	}
	own, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	defer own.Close()
	inside, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", c.peer.pid))
	if err != nil {
		return errors.Join(ErrClosed, err)
	}
	defer inside.Close()
	started := make(chan error, 1)
	go func() {
		// setns(2): the caller's own PID namespace stays, its children's changes.
		runtime.LockOSThread()
		if err := unix.Setns(int(inside.Fd()), unix.CLONE_NEWPID); err != nil {
			runtime.UnlockOSThread()
			started <- fmt.Errorf("enter PID namespace: %w", err)
			return
		}
		err := c.Cmd.Start()
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWPID) == nil {
			runtime.UnlockOSThread() // otherwise the thread ends with the goroutine
		}
		started <- err
	}()
	return <-started
}

// Run is as [exec.Cmd.Run].
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is as [exec.Cmd.Output], but never keeps standard error.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("host: Stdout already set")
	}
	var b bytes.Buffer
	c.Stdout = &b
	err := c.Run()
	return b.Bytes(), err
}

// CombinedOutput is as [exec.Cmd.CombinedOutput].
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("host: Stdout or Stderr already set")
	}
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	return b.Bytes(), err
}
