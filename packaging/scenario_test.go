//go:build integration

package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

const (
	hookMain   = "/etc/libvirt/hooks/qemu"
	hookBeside = "/etc/libvirt/hooks/qemu.d/50-libvirt-direct"

	networkHook   = "/etc/libvirt/hooks/network"
	networkBeside = "/etc/libvirt/hooks/network.d/50-libvirt-direct"
)

// A manager is how packages come and go.
type manager struct {
	install func(m *machine, files []string) string // or upgrade
	remove  func(m *machine) string
	purge   func(m *machine) string // what remove leaves; nil where it leaves nothing
	look    func(m *machine)        // at what is installed
	keeps   string                  // what a changed configuration file is called when its package is gone
}

// systemd stands in for the one that does not run here: libvirtd and vdpd are active, its reload
// is a SIGHUP, and what else is asked is only written down. apt has a PATH of its own.
func (m *machine) systemd() {
	m.write("/usr/bin/systemctl", 0o755, `#!/bin/sh
echo "$*" >>/tmp/systemctl
case "$*" in
"-q is-active libvirtd.service" | *"is-active vdpd.service"*) exit 0 ;;
*is-active*|*is-enabled*) exit 3 ;;
"reload libvirtd.service") kill -HUP $(cat /run/libvirtd.pid) ;;
esac
exit 0
`)
	m.sh("mkdir -p /run/systemd/system")
}

// guest defines a guest whose NIC names the uplink that only our hook knows.
func (m *machine) guest() {
	m.tb.Helper()
	d := host.Domain{Name: "g", UUID: "0d3f6c8e-0b3a-4a6e-9d0e-1f2a3b4c5d6e", OnReboot: "restart",
		Interfaces: []string{host.DirectNIC("52:54:00:01:02:03", "storage", "bridge")}}
	require.NoError(m.tb, m.Define(m.ctx, d.XML()))
}

func (m *machine) start() (pid string) {
	m.tb.Helper()
	_, err := m.Virsh(m.ctx, "start", "g")
	require.NoError(m.tb, err)
	require.Contains(m.tb, m.outside("ip", "-d", "link", "show", "nic0"), "altname storage", "our hook has not run")
	return m.pid()
}

func (m *machine) pid() string {
	m.tb.Helper()
	state, err := m.Virsh(m.ctx, "domstate", "g")
	require.NoError(m.tb, err)
	require.Equal(m.tb, "running", strings.TrimSpace(state))
	return strings.TrimSpace(m.read("/run/libvirt/qemu/g.pid"))
}

func (m *machine) stop() {
	m.tb.Helper()
	_, err := m.Virsh(m.ctx, "destroy", "g")
	require.NoError(m.tb, err)
	require.NoError(m.tb, m.WaitState(m.ctx, "g", libvirt.DomainShutoff))
}

// well asks the program that is to know whether all is well.
func (m *machine) well() {
	m.tb.Helper()
	out := m.sh("libvirt-direct check")
	require.NotContains(m.tb, out, "FAULT")
}

const uplinks = "\n[uplink.storage]\ndevice = \"nic0\"\n"

// life takes the packages from their first installation to their last trace.
func life(t *testing.T, m *machine, pm manager, old, current set) {
	m.systemd()
	m.startLibvirtd()
	m.guest()
	filesBefore := m.files()
	linksBefore, err := m.Snapshot(m.ctx)
	require.NoError(t, err)

	m.install(pm, old)
	require.FileExists(t, m.path(hookMain))
	require.NoFileExists(t, m.path(hookBeside))
	require.FileExists(t, m.path(networkHook))
	asked := m.read("/tmp/systemctl")
	require.Contains(t, asked, "reload libvirtd.service", "libvirt's first hook")
	m.well()
	config := m.read("/etc/libvirt-direct/config.toml") + uplinks
	m.write("/etc/libvirt-direct/config.toml", 0o644, config)
	m.well()
	helper, err := os.Stat(m.path("/usr/libexec/qemu-direct-helper"))
	require.NoError(t, err)
	require.Equal(t, "4750", strings.TrimSpace(m.sh("stat -c %a /usr/libexec/qemu-direct-helper")), helper.Mode())
	require.Equal(t, "root kvm", strings.TrimSpace(m.sh("stat -c '%U %G' /usr/libexec/qemu-direct-helper")))
	require.Contains(t, m.sh("libvirt-direct --version"), previous)
	if pm.look != nil {
		pm.look(m)
	}

	pid := m.start()
	m.install(pm, current)
	require.NotContains(t, m.sh("libvirt-direct --version"), previous)
	require.Contains(t, m.sh(hookMain+" --version 2>&1"), strings.TrimPrefix(strings.TrimSpace(m.sh("libvirt-direct --version")), "libvirt-direct "))
	require.Equal(t, config, m.read("/etc/libvirt-direct/config.toml"))
	require.Equal(t, pid, m.pid(), "the guest runs on")
	m.well()
	require.Contains(t, m.sh("libvirt-direct status"), "storage")
	m.stop()
	after, err := m.Snapshot(m.ctx)
	require.NoError(t, err)
	require.Empty(t, linksBefore.Diff(after))
	asked = m.read("/tmp/systemctl")
	require.Equal(t, 1, strings.Count(asked, "reload libvirtd"), "once there is a hook, libvirt finds the next by itself")
	require.NotRegexp(t, `(?m)(restart|stop|start) .*(libvirtd|virtqemud)`, asked)
	require.Contains(t, asked, "try-restart vdpd.service")
	require.NotRegexp(t, `(?m)(stop|disable) .*vdpd`, asked)

	pm.remove(m)
	require.NoFileExists(t, m.path(hookMain))
	require.NoFileExists(t, m.path(networkHook))
	require.Equal(t, config, m.read("/etc/libvirt-direct/"+pm.keeps))
	if pm.purge != nil {
		pm.purge(m)
	} else {
		m.sh("rm -r /etc/libvirt-direct")
	}
	require.Regexp(t, `(?m)(stop|disable --now) vdpd\.service`, m.read("/tmp/systemctl"))
	m.sh("rm /tmp/systemctl")
	require.Empty(t, difference(filesBefore, m.files()))
	after, err = m.Snapshot(m.ctx)
	require.NoError(t, err)
	require.Empty(t, linksBefore.Diff(after))
}

func (m *machine) install(pm manager, s set) {
	m.tb.Helper()
	out := pm.install(m, s.files())
	require.NotRegexp(m.tb, regexp.MustCompile(`(?i)\b(error|warning|cannot)\b`), out)
}

// adminsHook is one that nobody may touch; it says that it has run.
const adminsHook = "#!/bin/sh\necho \"$2\" >>/tmp/admins-hook\ncat >/dev/null\n"

// neighbours is about an administrator's own hook.
func neighbours(t *testing.T, m *machine, pm manager, current set) {
	m.startLibvirtd()
	m.guest()
	bothRun := func() {
		t.Helper()
		m.sh("rm -f /tmp/admins-hook")
		m.start()
		m.stop()
		require.Equal(t, "prepare\nstart\nstarted\nstopped\nrelease\n", m.read("/tmp/admins-hook"))
		require.Equal(t, adminsHook, m.read(hookMain))
	}
	configure := func() {
		m.write("/etc/libvirt-direct/config.toml", 0o644, m.read("/etc/libvirt-direct/config.toml")+uplinks)
	}
	gone := func() {
		t.Helper()
		pm.remove(m)
		if pm.purge != nil {
			pm.purge(m)
		} else {
			m.sh("rm -r /etc/libvirt-direct")
		}
		require.Equal(t, adminsHook, m.read(hookMain))
		require.NoFileExists(t, m.path(hookBeside))
		require.NoDirExists(t, m.path(filepath.Dir(hookBeside)))
	}

	// His first, for networks too.
	m.write(hookMain, 0o755, adminsHook)
	m.write(networkHook, 0o755, adminsHook)
	m.sh("kill -HUP $(cat /run/libvirtd.pid)")
	m.install(pm, current)
	configure()
	require.FileExists(t, m.path(hookBeside))
	require.FileExists(t, m.path(networkBeside))
	m.well()
	bothRun()
	gone()
	require.Equal(t, adminsHook, m.read(networkHook))
	require.NoDirExists(t, m.path(filepath.Dir(networkBeside)))
	m.sh("rm " + networkHook)

	// Ours first; then he puts his in our place, which systemd's path unit notices.
	m.sh("rm " + hookMain)
	m.install(pm, current)
	configure()
	require.NoFileExists(t, m.path(hookBeside))
	m.write(hookMain, 0o755, adminsHook)
	m.pathUnit()
	bothRun()
	// He takes his away, and later it is ours again only if ours is nowhere else.
	m.sh("rm " + hookMain)
	m.pathUnit()
	require.NoFileExists(t, m.path(hookMain))
	m.start()
	m.stop()
	m.sh("rm " + hookBeside)
	m.pathUnit()
	require.FileExists(t, m.path(hookMain))
	require.NoFileExists(t, m.path(hookBeside))
	m.write(hookMain, 0o755, adminsHook)
	m.pathUnit()
	gone()
}

// interrupted is a removal with a guest running, and second thoughts.
func interrupted(t *testing.T, m *machine, pm manager, current set) {
	m.startLibvirtd()
	m.guest()
	before, err := m.Snapshot(m.ctx)
	require.NoError(t, err)
	m.systemd()
	m.install(pm, current)
	config := m.read("/etc/libvirt-direct/config.toml")
	m.write("/etc/libvirt-direct/config.toml", 0o644, config+uplinks)
	pid := m.start()
	said := pm.remove(m)
	require.Contains(t, said, "guests that run keep what was made for them")
	require.Contains(t, said, "storage")
	require.Equal(t, pid, m.pid(), "the guest runs on")
	m.stop()
	require.Contains(t, m.outside("ip", "link", "show", "nic0"), "altname storage", "there is no hook to undo it")

	m.install(pm, current)
	require.Contains(t, m.sh("libvirt-direct gc"), "storage")
	after, err := m.Snapshot(m.ctx)
	require.NoError(t, err)
	require.Empty(t, before.Diff(after))
}

// pathUnit does what systemd does when /etc/libvirt/hooks changes.
func (m *machine) pathUnit() {
	m.tb.Helper()
	find := func(file, key string) string {
		text := m.sh("cat /usr/lib/systemd/system/libvirt-direct-hook." + file)
		found := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(text)
		require.NotNil(m.tb, found, text)
		return found[1]
	}
	require.Equal(m.tb, filepath.Dir(hookMain), find("path", "PathChanged"))
	m.sh(find("service", "ExecStart"))
}
