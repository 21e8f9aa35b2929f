package host

import (
	"context"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// WaitState waits until a domain is in a state. One that is not defined counts
// as shut off: a transient domain is gone when it ends.
func (h *Host) WaitState(ctx context.Context, domain string, want libvirt.DomainState) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := h.Connect(ctx)
	if err != nil {
		return err
	}
	defer l.Disconnect()
	// Mostly it is so by now. libvirtd 9.0 has been seen to crash on many subscriptions that come and go at once.
	if state, err := domainState(l, domain); err == nil && state == want {
		return nil
	}
	// Subscribed before the next look, so that no change is missed.
	events, err := l.LifecycleEvents(ctx)
	if err != nil {
		return fmt.Errorf("%s: subscribe to lifecycle events: %w", h.opts.Name, err)
	}
	defer func() {
		cancel()
		for range events { // its sender heeds no context while it sends
		}
	}()
	// Of a QEMU that died while no libvirtd was there libvirt 9.0 tells nobody: there is
	// no event when it finds out.
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		state, err := domainState(l, domain)
		if err == nil && state == want {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: state of %s: %w", h.opts.Name, domain, err)
		}
		select {
		case _, ok := <-events:
			if !ok && ctx.Err() == nil {
				return fmt.Errorf("%s: libvirtd went away while %s was awaited", h.opts.Name, domain)
			}
		case <-again.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %s is in state %d, not %d: %w", h.opts.Name, domain, state, want, context.Cause(ctx))
		}
	}
}

func domainState(l *libvirt.Libvirt, domain string) (libvirt.DomainState, error) {
	d, err := l.DomainLookupByName(domain)
	if libvirt.IsNotFound(err) {
		return libvirt.DomainShutoff, nil
	}
	if err != nil {
		return 0, err
	}
	state, _, err := l.DomainGetState(d, 0)
	return libvirt.DomainState(state), err
}

// WaitLine waits until a file inside, such as a guest's serial log, has a line
// that match accepts, and returns it without its line break. The file need not
// exist yet.
func (p *Peer) WaitLine(ctx context.Context, path string, match func(line string) bool) (string, error) {
	lines := newStream[string]()
	tail, err := startProcess(p.Command(ctx, "tail", "-n", "+1", "-F", "-s", "0.02", path), readLines(lines))
	if err != nil {
		return "", fmt.Errorf("%s: follow %s: %w", p.opts.Name, path, err)
	}
	defer tail.Close()
	line, err := lines.wait(ctx, match)
	if err != nil {
		return "", fmt.Errorf("%s: wait for a line of %s: %w", p.opts.Name, path, err)
	}
	return line, nil
}
