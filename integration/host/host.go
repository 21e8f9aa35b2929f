package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"libvirt-direct/internal/poll"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"golang.org/x/sys/unix"
)

const (
	libvirtSocket = "/run/libvirt/libvirt-sock"
	libvirtLog    = "libvirtd.log"
)

// A Host is a Peer that can run libvirtd. Its own methods, unlike the Peer's,
// must not start and stop the daemon concurrently.
type Host struct {
	*Peer
	libvirtd *process // nil when it does not run
}

// New makes a Host, with an empty libvirt configuration but for what running
// in namespaces asks for: QEMU as root and without security driver, cgroups or
// namespaces of its own. libvirtd does not run yet.
func New(ctx context.Context, opts Options) (*Host, error) {
	p, err := NewPeer(ctx, opts)
	if err != nil {
		return nil, err
	}
	h := &Host{Peer: p}
	if err := h.configure(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return h, nil
}

func (h *Host) configure(ctx context.Context) error {
	// Two hosts on one machine would both take its UUID from SMBIOS.
	uuid, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	daemon := fmt.Sprintf(`host_uuid = "%s"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
listen_tls = 0
listen_tcp = %d
auth_tcp = "none"
listen_addr = "0.0.0.0"
log_outputs = "3:file:/var/log/libvirt/%s"
`, strings.TrimSpace(string(uuid)), map[bool]int{true: 1}[h.opts.ListenTCP], libvirtLog)
	if err := h.WriteFile(ctx, "/etc/libvirt/libvirtd.conf", 0o644, []byte(daemon)); err != nil {
		return err
	}
	// stdio_handler "file": no virtlogd.
	const qemu = `user = "root"
group = "root"
security_driver = "none"
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
`
	return h.WriteFile(ctx, "/etc/libvirt/qemu.conf", 0o644, []byte(qemu))
}

// Close ends libvirtd, the guests and every other process inside, and waits
// until they are gone.
func (h *Host) Close() error {
	err := h.Peer.Close()
	if h.libvirtd != nil {
		<-h.libvirtd.done
		h.libvirtd = nil
	}
	return err
}

// LogFile is libvirtd's log, with warnings and errors only. QEMU's own logs are
// in the folder qemu beside it. All of them stay after Close.
func (h *Host) LogFile() string { return filepath.Join(h.opts.Dir, logDir, libvirtLog) }

// StartLibvirtd starts libvirtd and returns when it serves requests. Guests of
// an earlier libvirtd are found again, as after a restart.
func (h *Host) StartLibvirtd(ctx context.Context) error {
	if h.libvirtd != nil {
		select {
		case <-h.libvirtd.done:
		default:
			return fmt.Errorf("%s: libvirtd runs already", h.opts.Name)
		}
	}
	var args []string
	if h.opts.ListenTCP {
		args = append(args, "--listen")
	}
	cmd := h.Command(context.WithoutCancel(ctx), "libvirtd", args...)
	cmd.Stderr = h.log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	var err error
	if h.libvirtd, err = startProcess(cmd, func(r io.Reader) { io.Copy(h.log, r) }); err != nil {
		h.libvirtd = nil
		return fmt.Errorf("%s: start libvirtd: %w", h.opts.Name, err)
	}
	if err := h.awaitLibvirtd(ctx); err != nil {
		h.libvirtd.Close()
		h.libvirtd = nil
		return fmt.Errorf("%s: libvirtd did not come up (see %s): %w", h.opts.Name, h.LogFile(), err)
	}
	return nil
}

// awaitLibvirtd waits for libvirtd to listen, then for its answer, which it
// gives only when all drivers are initialised.
func (h *Host) awaitLibvirtd(ctx context.Context) error {
	ctx, cancel := h.libvirtd.lifetime(ctx, "libvirtd")
	defer cancel()
	return poll.Until(ctx, 5*time.Millisecond, func() (bool, error) {
		l, err := h.Connect(ctx)
		switch {
		case err == nil:
			return true, l.Disconnect()
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED): // as a killed libvirtd's socket does
			return false, nil
		}
		return false, errors.Join(context.Cause(ctx), err)
	})
}

// KillLibvirtd sends a signal to libvirtd and waits for its end. Guests go on.
func (h *Host) KillLibvirtd(ctx context.Context, sig unix.Signal) error {
	if h.libvirtd == nil {
		return fmt.Errorf("%s: libvirtd does not run", h.opts.Name)
	}
	if err := h.libvirtd.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: signal libvirtd: %w", h.opts.Name, err)
	}
	select {
	case <-h.libvirtd.done:
		h.libvirtd = nil
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: libvirtd did not end: %w", h.opts.Name, context.Cause(ctx))
	}
}

// Connect opens a connection to libvirtd at qemu:///system. It ends with the
// context or by its Disconnect.
func (h *Host) Connect(ctx context.Context) (*libvirt.Libvirt, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", h.Path(libvirtSocket))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.opts.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l := libvirt.NewWithDialer(dialers.NewAlreadyConnected(conn))
	if err := l.ConnectToURI(libvirt.QEMUSystem); err != nil {
		stop()
		conn.Close()
		return nil, fmt.Errorf("%s: connect to libvirtd: %w", h.opts.Name, err)
	}
	return l, nil
}

// InstallHook copies an executable to /etc/libvirt/hooks/qemu. libvirtd looks
// for the first hook when it starts; a later one it finds at once.
func (h *Host) InstallHook(ctx context.Context, path string) error {
	return h.CopyFile(ctx, "/etc/libvirt/hooks/qemu", 0o755, path)
}

// Virsh runs virsh inside and returns its standard output.
func (h *Host) Virsh(ctx context.Context, args ...string) (string, error) {
	return h.Run(ctx, "virsh", append([]string{"--connect", "qemu:///system", "--quiet"}, args...)...)
}

// Define defines a persistent domain, after checking the XML against libvirt's
// schema, for libvirt drops what it does not know.
func (h *Host) Define(ctx context.Context, xml string) error {
	cmd := h.Command(ctx, "virsh", "--connect", "qemu:///system", "define", "--validate", "/dev/stdin")
	cmd.Stdin = strings.NewReader(xml)
	_, err := h.run(cmd, "virsh define")
	return err
}

// Migrate moves a running domain to the Host that has the address addr, made
// with ListenTCP and reached from h by a [Wire]. More arguments are virsh's.
func (h *Host) Migrate(ctx context.Context, domain, addr string, args ...string) error {
	_, err := h.Virsh(ctx, append([]string{"migrate", "--live", domain, "qemu+tcp://" + addr + "/system", "tcp://" + addr}, args...)...)
	return err
}
