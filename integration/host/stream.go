package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// errEnded is why a wait fails whose source is gone.
var errEnded = errors.New("its source ended")

// stream keeps values as they arrive, so that a waiter also sees those that
// came before it asked.
type stream[T any] struct {
	mu      sync.Mutex
	items   []T
	changed chan struct{} // closed at the next change
	err     error         // set at the end
}

func newStream[T any]() *stream[T] { return &stream[T]{changed: make(chan struct{})} }

func (s *stream[T]) add(v T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items = append(s.items, v)
	s.change()
}

func (s *stream[T]) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errEnded
	if err != nil {
		s.err = fmt.Errorf("%w: %w", errEnded, err)
	}
	s.change()
}

func (s *stream[T]) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// all returns what came so far.
func (s *stream[T]) all() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.items[:len(s.items):len(s.items)]
}

// wait returns the first value that match accepts.
func (s *stream[T]) wait(ctx context.Context, match func(T) bool) (T, error) {
	for seen := 0; ; {
		s.mu.Lock()
		items, changed, err := s.items[seen:], s.changed, s.err
		s.mu.Unlock()
		for _, v := range items {
			if match(v) {
				return v, nil
			}
		}
		seen += len(items)
		var zero T
		if err != nil {
			return zero, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return zero, fmt.Errorf("%w after %d that did not match", context.Cause(ctx), seen)
		}
	}
}

// A process runs inside in the background and is read as a stream.
type process struct {
	cmd  *Cmd
	done chan struct{}
}

// startProcess starts cmd; read gets its standard output and ends with it.
func startProcess(cmd *Cmd, read func(io.Reader)) (*process, error) {
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		read(stdout)
		io.Copy(io.Discard, stdout)
		cmd.Wait()
	}()
	return p, nil
}

// lifetime returns a context that ends with the process, too, which its cause then says.
func (p *process) lifetime(ctx context.Context, name string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.done:
			cancel(fmt.Errorf("%s ended: %s", name, p.cmd.ProcessState))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// Close kills the process and waits for its end.
func (p *process) Close() error {
	p.cmd.Process.Kill()
	<-p.done
	return nil
}

// readLines adds each line of r to s, without its line break.
func readLines(s *stream[string]) func(io.Reader) {
	return func(r io.Reader) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			s.add(lines.Text())
		}
		s.end(lines.Err())
	}
}
