//go:build integration

package fault

import (
	"bytes"
	"debug/elf"
	"debug/gosym"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A call is a system call that a traced program is about to make.
type call struct {
	Name string
	// Site is the place in our code that makes it: the functions and lines of ours on the
	// stack, innermost first.
	//
	// Only the stack tells one site from another. The instruction is the same for all of
	// a Go program's calls, and strace's when= counts for each thread apart, between which
	// the Go runtime moves a goroutine as it likes. A descriptor or path would tell many
	// sites apart, but not, for instance, the many requests on one netlink socket. Go
	// programs keep frame pointers and, stripped as they may be, the table that names a
	// line for an address, so that reading the stack costs microseconds.
	Site string
	// Runtime is the function of the Go runtime that makes the call for itself, "" where
	// our code asks for it.
	Runtime string
	Args    [6]uint64 `json:"-"`
	// Touch says what it does to which file; see touched.
	Touch string `json:"-"`
	// Nth counts the calls of that name at that site, from 1.
	Nth int
}

// key tells sites apart.
func (c call) key() string { return c.Name + " " + c.Site }

// A verdict is what becomes of a call.
type verdict struct {
	errno unix.Errno
	// done: the kernel does what is asked all the same, and then says errno, as it does
	// with close(2).
	done bool
	kill bool
	last bool // no call after this one is of interest: they are not stopped at, which costs time
}

// outcome is how a traced program has ended.
type outcome struct {
	exit   int // -1 where a signal ended it
	signal unix.Signal
	hung   bool // it had to be killed after its time
	stderr string
}

// program is an executable with its table of lines.
type program struct {
	path  string
	table *gosym.Table
}

func openProgram(name string) (*program, error) {
	f, err := elf.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tab := f.Section(".gopclntab")
	if tab == nil {
		return nil, fmt.Errorf("%s has no .gopclntab", name)
	}
	data, err := tab.Data()
	if err != nil {
		return nil, err
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, f.Section(".text").Addr))
	return &program{name, table}, err
}

// trace runs a program and asks decide about each system call. It must be called on a
// locked thread, while the process has no other children.
func (p *program) trace(args []string, stdin string, patience time.Duration, decide func(call) verdict) (outcome, error) {
	cmd := &exec.Cmd{Path: p.path, Args: args, SysProcAttr: &unix.SysProcAttr{Ptrace: true, Pdeathsig: unix.SIGKILL}}
	end, err := connect(cmd, stdin)
	if err != nil {
		return outcome{}, err
	}
	if err := cmd.Start(); err != nil {
		end()
		return outcome{}, err
	}
	t := tracee{program: p, pid: cmd.Process.Pid, threads: map[int]*thread{}, count: map[string]int{}, decide: decide}
	var late atomic.Bool
	timer := time.AfterFunc(patience, func() {
		late.Store(true)
		unix.Kill(t.pid, unix.SIGKILL) // it is not waited for yet, so that the number is still its own
	})
	o, err := t.run()
	timer.Stop()
	o.hung = late.Load()
	o.stderr = end()
	return o, err
}

// connect gives a command the pipes that libvirt gives a hook. The returned function ends
// them and returns what was written to standard error. All of it fits into a pipe.
func connect(cmd *exec.Cmd, stdin string) (end func() string, err error) {
	var files []*os.File
	pipe := func() (r, w *os.File) {
		if err == nil {
			if r, w, err = os.Pipe(); err == nil {
				files = append(files, r, w)
			}
		}
		return r, w
	}
	inR, inW := pipe()
	outR, outW := pipe()
	errR, errW := pipe()
	if err == nil {
		_, err = inW.WriteString(stdin)
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, err
	}
	inW.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, errW
	return func() string {
		inR.Close()
		outW.Close()
		outR.Close()
		errW.Close()
		var b bytes.Buffer
		b.ReadFrom(errR)
		errR.Close()
		return b.String()
	}, nil
}

type tracee struct {
	*program
	pid     int
	threads map[int]*thread
	count   map[string]int
	decide  func(call) verdict
	last    bool // decide has said so
}

type thread struct {
	inside bool // a system call
	then   verdict
}

// run follows all threads to the program's end.
func (t *tracee) run() (o outcome, err error) {
	began := false
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return o, fmt.Errorf("wait: %w", err)
		}
		if ws.Exited() || ws.Signaled() {
			if tid != t.pid {
				delete(t.threads, tid)
				continue
			}
			o.exit = -1
			if ws.Exited() {
				o.exit = ws.ExitStatus()
			} else {
				o.signal = ws.Signal()
			}
			return o, nil
		}
		deliver := 0
		th := t.threads[tid]
		sig := ws.StopSignal()
		switch {
		case th == nil: // a thread's first stop
			t.threads[tid] = &thread{}
			if !began {
				began = true
				err = unix.PtraceSetOptions(tid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL)
			}
		case sig == unix.SIGTRAP|0x80:
			err = t.atCall(tid, th)
		case uint32(ws)>>16 != 0: // that a thread was made
		default:
			deliver = int(sig)
		}
		resume := unix.PtraceSyscall
		if t.last && (th == nil || th.then.errno == 0) {
			resume = unix.PtraceCont
		}
		if err == nil {
			err = resume(tid, deliver)
		}
		if err != nil && err != unix.ESRCH { // ESRCH: it has been killed
			unix.Kill(t.pid, unix.SIGKILL)
			return o, fmt.Errorf("trace: %w", err)
		}
	}
}

// atCall is called where a thread stops before and after a system call.
func (t *tracee) atCall(tid int, th *thread) error {
	var regs registers
	if err := unix.PtraceGetRegs(tid, (*unix.PtraceRegs)(&regs)); err != nil {
		return err
	}
	th.inside = !th.inside
	if !th.inside {
		if th.then.errno != 0 {
			regs.fail(th.then.errno)
			th.then = verdict{}
			return unix.PtraceSetRegs(tid, (*unix.PtraceRegs)(&regs))
		}
		return nil
	}
	nr, args := regs.call()
	c := call{Name: callName(nr), Args: args}
	c.Site, c.Runtime = t.site(regs.stack())
	c.Touch = t.touched(c)
	t.count[c.key()]++
	c.Nth = t.count[c.key()]
	th.then = t.decide(c)
	t.last = t.last || th.then.last
	switch {
	case th.then.kill:
		return unix.Kill(t.pid, unix.SIGKILL)
	case th.then.errno != 0 && !th.then.done:
		regs.drop()
		return unix.PtraceSetRegs(tid, (*unix.PtraceRegs)(&regs))
	}
	return nil
}

// site reads the stack.
func (t *tracee) site(ip, sp, frame uint64) (site, runtime string) {
	pcs := []uint64{ip}
	// The function with the instruction has no frame: where it returns to lies on top.
	if ret, ok := t.words(sp, 1); ok {
		pcs = append(pcs, ret[0])
	}
	for len(pcs) < 100 {
		w, ok := t.words(frame, 2) // the caller's frame, and where to return to
		if !ok || w[0] <= frame && w[0] != 0 {
			break
		}
		pcs = append(pcs, w[1])
		frame = w[0]
	}
	var ours []string
	innermost := ""
	for _, pc := range pcs {
		file, line, fn := t.table.PCToLine(pc - 1)
		if fn == nil {
			continue
		}
		switch name := fn.Name; {
		case strings.HasPrefix(name, "libvirt-direct/"), strings.HasPrefix(name, "main."):
			ours = append(ours, fmt.Sprintf("%s (%s:%d)", path.Base(name), path.Base(file), line))
		case innermost == "" && len(ours) == 0 && !strings.Contains(fn.PackageName(), "runtime/syscall") && !strings.HasPrefix(name, "syscall."):
			innermost = name
		}
	}
	asked := innermost == "runtime.netpollopen" || innermost == "runtime.netpollclose"
	if strings.HasPrefix(innermost, "runtime.") && !asked || len(ours) == 0 {
		runtime = innermost
		if runtime == "" {
			runtime = "unknown"
		}
	}
	return strings.Join(ours, " < "), runtime
}

// words reads n words of the program's memory.
func (t *tracee) words(at uint64, n int) ([]uint64, bool) {
	b := make([]byte, 8*n)
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	got, err := unix.ProcessVMReadv(t.pid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	if err != nil || got != len(b) {
		return nil, false
	}
	w := make([]uint64, n)
	for i := range w {
		w[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	return w, true
}
