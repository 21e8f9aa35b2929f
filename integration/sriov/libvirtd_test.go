//go:build integration

package sriov

import (
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

// A daemon is libvirtd, spoken to without virsh: emulated, each run of that takes
// seconds.
type daemon struct{ *libvirt.Libvirt }

var startLibvirtd = sync.OnceValues(func() (daemon, error) {
	// Without the filter libvirt asks each new QEMU for every property of its CPU, one by one,
	// which is two thirds of the time that a start takes when it is emulated.
	conf := `user = "root"
group = "root"
security_driver = "none"
capability_filters = ["cpu-unavailable-features"]
`
	if err := os.WriteFile("/etc/libvirt/qemu.conf", []byte(conf), 0o600); err != nil {
		return daemon{}, err
	}
	out, err := tryShell("modprobe -a vfio-pci macvtap && virtlogd -d && libvirtd -d")
	if err != nil {
		return daemon{}, fmt.Errorf("libvirtd: %w: %s", err, out)
	}
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.Dial("unix", "/run/libvirt/libvirt-sock")
		if err == nil {
			l := libvirt.NewWithDialer(dialers.NewAlreadyConnected(conn))
			return daemon{l}, l.ConnectToURI(libvirt.QEMUSystem)
		}
		if time.Since(begin) > time.Minute {
			return daemon{}, err
		}
	}
})

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
