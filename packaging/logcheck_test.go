package packaging

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Of an ordinary day logcheck mails nothing; of trouble it does.
func TestLogcheck(t *testing.T) {
	const traditional, precise = "Nov 21 03:04:05 host ", "2026-11-21T03:04:05.123456+00:00 host "
	for _, c := range []struct {
		pkg, line string
		quiet     bool
	}{
		{"libvirt-direct", `libvirt-direct[4242]: prepare "web 1": made eth0.100; made macvtap ldt0123456789 on eth0.100 (vepa)`, true},
		{"libvirt-direct", `libvirt-direct[4242]: release "g": removed eth0.200`, true},
		{"libvirt-direct", `libvirt-direct[4242]: prepare: NIC 52:54:00:00:00:01: look up eth7: no such network device`, false},
		{"libvirt-direct", `libvirt-direct[4242]: domain g goes on, but: the guest's device is lost, restart the guest`, false},
		{"libvirt-direct", `systemd[1]: Starting libvirt-direct-gc.service - Undo what guests that have gone left behind...`, true},
		{"libvirt-direct", `systemd[1]: libvirt-direct-gc.service: Deactivated successfully.`, true},
		{"libvirt-direct", `systemd[1]: libvirt-direct-gc.service: Failed with result 'exit-code'.`, false},
		{"libvirt-direct-helper", `qemu-direct-helper[7]: granted uid=1000 pid=4242 exe="/usr/bin/qemu-system-x86_64" profile="lan" kind="macvtap"`, true},
		{"libvirt-direct-helper", `qemu-direct-helper[7]: denied uid=1001 pid=4243 exe="/usr/sbin/libvirtd" profile="lan" reason="the profile is not for you"`, false},
		{"libvirt-direct-vdpd", `vdpd[99]: time=2026-11-21T03:04:05.123Z level=INFO msg=established uplink=eth0 vid=100`, true},
		{"libvirt-direct-vdpd", `vdpd[99]: time=2026-11-21T03:04:05.123Z level=WARN msg="EVB TLV of the switch lost" uplink=eth0`, false},
	} {
		for _, stamp := range []string{traditional, precise} {
			cmd := exec.Command("grep", "-E", "-f", "debian/"+c.pkg+".logcheck.ignore.server")
			cmd.Stdin = strings.NewReader(stamp + c.line + "\n")
			require.Equal(t, c.quiet, cmd.Run() == nil, stamp+c.line)
		}
	}
}
