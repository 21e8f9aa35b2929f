// Package libvirtd asks a running libvirt daemon, over its RPC protocol, for what the
// command line needs: domains' XML, whether one is running, and to be told of new
// definitions. It must never be used from a hook: libvirt holds the domain's lock
// then, and waits for us (libvirt's docs/hooks.rst).
package libvirtd

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// DefaultURI is the system daemon's QEMU driver.
const DefaultURI = "qemu:///system"

// Errors that callers tell apart with errors.Is.
var (
	// ErrUnreachable: no daemon answers at the URI.
	ErrUnreachable = errors.New("libvirt is not reachable")
	// ErrNoDomain: it knows no such domain.
	ErrNoDomain = errors.New("no such domain")
)

// Conn is a connection to a daemon.
type Conn struct{ l *libvirt.Libvirt }

// Dial connects to a libvirt URI, such as qemu:///system.
func Dial(ctx context.Context, uri string) (*Conn, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme == "" {
		return nil, fmt.Errorf("libvirt URI %q: want something such as %s", uri, DefaultURI)
	}
	if u.Host == "" && !strings.Contains(u.Scheme, "+") && !u.Query().Has("socket") {
		socket, err := localSocket(u.Path)
		if err != nil {
			return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, uri, err)
		}
		q := u.Query()
		q.Set("socket", socket)
		u.RawQuery = q.Encode()
	}
	l, err := await(ctx, func() (*libvirt.Libvirt, error) {
		l, err := libvirt.ConnectToURI(u)
		if err == nil && ctx.Err() != nil { // nobody waits for it any more
			return nil, errors.Join(ctx.Err(), l.Disconnect())
		}
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, uri, err)
	}
	return &Conn{l}, nil
}

// localSocket returns the first of the sockets at which a local daemon can listen
// that exists: the monolithic daemon's, then the modular one's. When there is none
// the error matches fs.ErrNotExist.
func localSocket(path string) (string, error) {
	dir := "/run/libvirt"
	if path == "/session" {
		dir = filepath.Join(cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", os.Getuid())), "libvirt")
	}
	for _, name := range []string{"libvirt-sock", "virtqemud-sock"} {
		socket := filepath.Join(dir, name)
		if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
			return socket, nil
		}
	}
	return "", noSocket(dir)
}

// noSocket is the folder in which no daemon has a socket.
type noSocket string

func (e noSocket) Error() string {
	return fmt.Sprintf("no daemon has a socket in %s; is libvirtd or virtqemud running?", string(e))
}

func (noSocket) Is(target error) bool { return target == fs.ErrNotExist }

// await runs a call that knows no context and stops waiting for it when ctx ends.
func await[T any](ctx context.Context, call func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := call()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// closeTime bounds the leave-taking from a daemon that may hang.
const closeTime = 2 * time.Second

// Close ends the connection.
func (c *Conn) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	// An error leaves nothing to be done.
	_, _ = await(ctx, func() (struct{}, error) { return struct{}{}, c.l.Disconnect() })
}

// Lost is closed when the daemon is gone.
func (c *Conn) Lost() <-chan struct{} { return c.l.Disconnected() }

// Domain is a domain that the daemon knows.
type Domain struct {
	Name string
	UUID string
	d    libvirt.Domain
}

func domainOf(d libvirt.Domain) Domain {
	h := hex.EncodeToString(d.UUID[:])
	return Domain{Name: d.Name, UUID: strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-"), d: d}
}

// Version returns libvirt's version, as 1000000·major + 1000·minor + release.
func (c *Conn) Version(ctx context.Context) (uint64, error) {
	return await(ctx, c.l.ConnectGetLibVersion)
}

// Lookup finds a domain by name.
func (c *Conn) Lookup(ctx context.Context, name string) (Domain, error) {
	d, err := await(ctx, func() (libvirt.Domain, error) { return c.l.DomainLookupByName(name) })
	if err != nil {
		return Domain{}, noDomain(err, name)
	}
	return domainOf(d), nil
}

func noDomain(err error, what string) error {
	if libvirt.IsNotFound(err) {
		return fmt.Errorf("%w: %q", ErrNoDomain, what)
	}
	return fmt.Errorf("domain %q: %w", what, err)
}

// Domains lists the persistent domains.
func (c *Conn) Domains(ctx context.Context) ([]Domain, error) {
	return c.list(ctx, libvirt.ConnectListDomainsPersistent)
}

// Running lists the domains that run.
func (c *Conn) Running(ctx context.Context) ([]Domain, error) {
	return c.list(ctx, libvirt.ConnectListDomainsActive)
}

func (c *Conn) list(ctx context.Context, which libvirt.ConnectListAllDomainsFlags) ([]Domain, error) {
	all, err := await(ctx, func() ([]libvirt.Domain, error) {
		d, _, err := c.l.ConnectListAllDomains(1, which)
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	out := make([]Domain, len(all))
	for i, d := range all {
		out[i] = domainOf(d)
	}
	return out, nil
}

// XML returns a domain's persistent definition as it is defined, secrets included, so
// that it can be defined again.
func (c *Conn) XML(ctx context.Context, d Domain) (string, error) {
	return c.xml(ctx, d, libvirt.DomainXMLInactive|libvirt.DomainXMLSecure)
}

// LiveXML returns a running domain's XML as it runs, with the names of its devices
// and without secrets.
func (c *Conn) LiveXML(ctx context.Context, d Domain) (string, error) { return c.xml(ctx, d, 0) }

func (c *Conn) xml(ctx context.Context, d Domain, flags libvirt.DomainXMLFlags) (string, error) {
	x, err := await(ctx, func() (string, error) { return c.l.DomainGetXMLDesc(d.d, flags) })
	if err != nil {
		return "", noDomain(err, d.Name)
	}
	return x, nil
}

// Persistent reports whether a domain has a definition that outlives it.
func (c *Conn) Persistent(ctx context.Context, d Domain) (bool, error) {
	p, err := await(ctx, func() (int32, error) { return c.l.DomainIsPersistent(d.d) })
	if err != nil {
		return false, noDomain(err, d.Name)
	}
	return p != 0, nil
}

// Define defines a domain anew.
func (c *Conn) Define(ctx context.Context, xml string) error {
	_, err := await(ctx, func() (libvirt.Domain, error) { return c.l.DomainDefineXMLFlags(xml, 0) })
	return err
}

// Active reports whether a domain is running or being started. A domain that the
// daemon does not know is not. While the daemon runs the domain's hook it does not
// answer.
func (c *Conn) Active(ctx context.Context, uuid string) (bool, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(raw) != libvirt.UUIDBuflen {
		return false, fmt.Errorf("%q is no UUID", uuid)
	}
	return await(ctx, func() (bool, error) {
		d, err := c.l.DomainLookupByUUID(libvirt.UUID(raw))
		if libvirt.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		active, err := c.l.DomainIsActive(d)
		if libvirt.IsNotFound(err) { // a transient one that ended just now
			return false, nil
		}
		return active != 0, err
	})
}

// Defined tells of every domain that is defined, or defined anew, until ctx ends or
// the daemon is gone; then the channel is closed.
func (c *Conn) Defined(ctx context.Context) (<-chan Domain, error) {
	events, err := c.l.LifecycleEvents(ctx)
	if err != nil {
		return nil, fmt.Errorf("domain events: %w", err)
	}
	out := make(chan Domain)
	go func() {
		defer close(out)
		for e := range events {
			if libvirt.DomainEventType(e.Event) != libvirt.DomainEventDefined {
				continue
			}
			select {
			case out <- domainOf(e.Dom):
			case <-ctx.Done():
			}
		}
	}()
	return out, nil
}
