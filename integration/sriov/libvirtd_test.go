//go:build integration

package sriov

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
	"libvirt-direct/internal/poll"
)

// A daemon is libvirtd, spoken to without virsh: emulated, each run of that takes
// seconds.
type daemon struct{ *libvirt.Libvirt }

var startLibvirtd = sync.OnceValues(func() (daemon, error) {
	d := daemon{libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket("/run/libvirt/libvirt-sock")))}
	// Without the filter libvirt asks each new QEMU for every property of its CPU, one by one,
	// which is two thirds of the time that a start takes when it is emulated.
	conf := `user = "root"
group = "root"
security_driver = "none"
capability_filters = ["cpu-unavailable-features"]
`
	if err := os.WriteFile("/etc/libvirt/qemu.conf", []byte(conf), 0o600); err != nil {
		return d, err
	}
	if out, err := tryShell("modprobe -a vfio-pci macvtap && virtlogd -d"); err != nil {
		return d, fmt.Errorf("virtlogd: %w: %s", err, out)
	}
	return d, d.run()
})

// run starts libvirtd and connects to it.
func (d daemon) run() error {
	if out, err := tryShell("libvirtd -d"); err != nil {
		return fmt.Errorf("libvirtd: %w: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var refused error
	err := poll.Until(ctx, 50*time.Millisecond, func() (bool, error) {
		refused = d.ConnectToURI(libvirt.QEMUSystem)
		return refused == nil, nil
	})
	return errors.Join(err, refused)
}

// restart stops the daemon and starts it again; guests go on running. There must be a hook, or
// the daemon never runs one for the tests that come later.
func (d daemon) restart(t *testing.T) {
	t.Helper()
	pid := sh(t, "cat /run/libvirtd.pid")
	require.NoError(t, d.Disconnect())
	sh(t, "kill %s", pid)
	require.Eventually(t, func() bool {
		_, err := os.Stat("/proc/" + pid)
		return errors.Is(err, fs.ErrNotExist)
	}, time.Minute, 20*time.Millisecond)
	require.NoError(t, d.run())
}

// libvirtd starts the daemon, once; it looks for its hooks when it starts.
func libvirtd(t *testing.T) daemon {
	t.Helper()
	d, err := startLibvirtd()
	require.NoError(t, err)
	return d
}

// define defines a domain and forgets it with the test.
func (d daemon) define(t *testing.T, domain host.Domain) libvirt.Domain {
	t.Helper()
	dom := d.defineXML(t, domain.XML())
	t.Cleanup(func() {
		d.DomainDestroy(dom) // it may have ended
		require.NoError(t, d.DomainUndefine(dom))
	})
	return dom
}

func (d daemon) defineXML(t *testing.T, xml string) libvirt.Domain {
	t.Helper()
	dom, err := d.DomainDefineXML(xml)
	require.NoError(t, err)
	return dom
}

func (d daemon) start(t testing.TB, dom libvirt.Domain) {
	t.Helper()
	require.NoError(t, d.DomainCreate(dom))
}

func (d daemon) destroy(t testing.TB, dom libvirt.Domain) {
	t.Helper()
	require.NoError(t, d.DomainDestroy(dom))
}

// rewrite defines a domain again, as libvirt-direct rewrite has it.
func (d daemon) rewrite(t *testing.T, dom libvirt.Domain) {
	t.Helper()
	xml, err := d.DomainGetXMLDesc(dom, libvirt.DomainXMLInactive)
	require.NoError(t, err)
	d.defineXML(t, rewritten(t, xml))
}
