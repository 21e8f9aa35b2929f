//go:build integration

package integration

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/integration/host"
	"libvirt-direct/integration/host/hosttest"
)

const ovsConf = `[uplink.fabric]
device = "ovsbr0"
vlans = ["100-199"]

[profile.tagged]
vlan = 100
[profile.shaped]
vlan = 100
[profile.shaped.ovs]
ingressrate = 20000
maxrate = 50
mtu = 1400
mirror = "ids"
`

const interfaceID = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"

// onOVS is an <interface> on the bridge ovsbr0.
func onOVS(n int, more ...string) string {
	return fmt.Sprintf(`<interface type='bridge'><mac address='%s'/><source bridge='ovsbr0'/>
		<virtualport type='openvswitch'><parameters interfaceid='%s'/></virtualport><model type='virtio'/><rom enabled='no'/>%s</interface>`,
		mac(n), interfaceID, strings.Join(more, ""))
}

// tagged is a <vlan> with these tags.
func tagged(ids ...int) string {
	text := "<vlan>"
	for _, id := range ids {
		text += fmt.Sprintf("<tag id='%d'/>", id)
	}
	return text + "</vlan>"
}

// An ovsFixture is a host with Open vSwitch and the bridge ovsbr0.
type ovsFixture struct {
	*fixture
	*host.OVS
}

func newOVSFixture(ctx context.Context, t *testing.T, name, conf string) *ovsFixture {
	t.Helper()
	hosttest.Require(t, "ovsdb-server", "ovs-vswitchd", "ovs-vsctl")
	h := &ovsFixture{fixture: newFixture(ctx, t, name, conf)}
	var err error
	h.OVS, err = h.StartOVS(ctx)
	require.NoError(t, err)
	require.NoError(t, h.AddBridge(ctx, "ovsbr0"))
	h.MustStartLibvirtd()
	return h
}

func (h *ovsFixture) vsctl(args ...string) string {
	h.T.Helper()
	out, err := h.Vsctl(h.Ctx, args...)
	require.NoError(h.T, err)
	return out
}

// ports lists the ports of ovsbr0.
func (h *ovsFixture) ports() []string { return strings.Fields(h.vsctl("list-ports", "ovsbr0")) }

// rows shows all that a port's and its interface's rows say, but for their names and
// what the switch itself writes there.
func (h *ovsFixture) rows(port string) string {
	h.T.Helper()
	own := regexp.MustCompile(`^(_uuid|name|interfaces|bond_active_slave|rstp_st.*|statistics|status|admin_state|duplex|ifindex|link_.*|mac_in_use|mtu|ofport|cfm_.*|lacp_current)\s`)
	lines := strings.Split(h.vsctl("list", "Port", port)+"\n"+h.vsctl("list", "Interface", port), "\n")
	return strings.Join(slices.DeleteFunc(lines, own.MatchString), "\n")
}

// What a hook-owned port's rows say is what libvirt's say, but for the owner's key; the
// assisted port's are libvirt's own.
func TestOVSPortIsAsLibvirtMakesIt(t *testing.T) {
	ctx := hosttest.Deadline(t, 3*time.Minute)
	h := newOVSFixture(ctx, t, "a", "")
	for name, vlan := range map[string]string{
		"plain": "", "access": tagged(5), "trunk": tagged(5, 6), "native": "<vlan trunk='yes'><tag id='5' nativeMode='untagged'/><tag id='6'/></vlan>",
	} {
		t.Run(name, func(t *testing.T) {
			h := &ovsFixture{h.in(t), h.OVS}
			before := h.MustSnapshot()
			d := tiny("g", onOVS(1, vlan))
			d.UUID = uuid
			key := `libvirt-direct="` + uuid + `"`

			_, err := h.Run(ctx, "mv", hookPath, hookPath+".off")
			require.NoError(t, err)
			h.MustDefine(d)
			h.start("g")
			require.Len(t, h.ports(), 1)
			libvirts := h.rows(h.ports()[0])
			require.Contains(t, libvirts, interfaceID)
			h.stop("g")

			_, err = h.Run(ctx, "mv", hookPath+".off", hookPath)
			require.NoError(t, err)
			h.start("g")
			require.Equal(t, libvirts, h.rows(h.ports()[0]), "a plain guest's port is libvirt's alone")
			h.stop("g")

			d.Metadata = metadata(1, "isolated='no'")
			h.MustDefine(d)
			h.start("g")
			assisted := h.rows(h.ports()[0])
			require.Contains(t, assisted, key)
			// libvirt 9.0 does not say it, later ones do.
			const transient = `{transient="true"}`
			require.Contains(t, assisted, transient)
			plain := strings.NewReplacer(key, "", transient, "{}")
			require.Equal(t, plain.Replace(libvirts), plain.Replace(assisted))
			h.stop("g")
			h.RequireUnchanged(before)
			require.Empty(t, h.ports())

			d.Metadata = metadata(1, "own='hook'")
			h.rewrite(d)
			h.start("g")
			require.Len(t, h.ports(), 1)
			require.Regexp(t, "^ldt", h.ports()[0])
			require.Equal(t, assisted, h.rows(h.ports()[0]))
			h.stop("g")
			h.RequireUnchanged(before)
			require.Empty(t, h.ports())
		})
	}
}

// What libvirt cannot set, and what the host forbids.
func TestOVSProfileAndPolicy(t *testing.T) {
	ctx := hosttest.Deadline(t, 3*time.Minute)
	h := newOVSFixture(ctx, t, "a", ovsConf)
	_, err := h.Run(ctx, "ip", "tuntap", "add", "ids", "mode", "tap")
	require.NoError(t, err)
	h.vsctl("add-port", "ovsbr0", "ids")
	before := h.MustSnapshot()

	d := tiny("g", onOVS(1))
	d.Metadata = metadata(1, "profile='shaped' ifaceid='lsp 1'")
	h.MustDefine(d)
	for range 2 {
		h.start("g")
		port := h.vsctl("--bare", "--columns=name", "find", "Interface", `external_ids:iface-id="lsp 1"`)
		require.Regexp(t, "^vnet", port)
		require.Equal(t, "100", h.vsctl("get", "Port", port, "tag"))
		require.Equal(t, "20000", h.vsctl("get", "Interface", port, "ingress_policing_rate"))
		require.Eventually(t, func() bool { return h.vsctl("get", "Interface", port, "mtu") == "1400" }, time.Minute, 20*time.Millisecond)
		require.Contains(t, h.vsctl("list", "Queue"), `max-rate="50000000"`)
		require.Contains(t, h.vsctl("list", "Mirror"), "libvirt-direct-"+port)
		h.stop("g")
		h.RequireUnchanged(before)
		for _, table := range []string{"QoS", "Queue", "Mirror"} {
			require.Empty(t, h.vsctl("--no-headings", "list", table))
		}
	}

	d = tiny("all", onOVS(2))
	h.MustDefine(d)
	_, err = h.Virsh(ctx, "start", "all")
	require.ErrorContains(t, err, `a port without <vlan>, which is a trunk of every VLAN, on uplink "fabric"`)
	d = tiny("other", onOVS(2, tagged(100, 200)))
	h.MustDefine(d)
	_, err = h.Virsh(ctx, "start", "other")
	require.ErrorContains(t, err, `VLAN 200 on uplink "fabric"`)

	// A portgroup of a libvirt network is known when libvirt has looked into it.
	h.MustPipe(`<network><name>fabric</name><forward mode='bridge'/><bridge name='ovsbr0'/><virtualport type='openvswitch'/>
		<portgroup name='good'><vlan><tag id='101'/></vlan></portgroup><portgroup name='bad'><vlan><tag id='300'/></vlan></portgroup></network>`,
		"virsh", "net-define", "/dev/stdin")
	h.MustVirsh("net-start", "fabric")
	for group, want := range map[string]string{"good": "", "bad": "VLAN 300 on uplink"} {
		g := tiny(group, fmt.Sprintf("<interface type='network'><mac address='%s'/><source network='fabric' portgroup='%s'/><rom enabled='no'/></interface>", mac(3), group))
		h.MustDefine(g)
		_, err := h.Virsh(ctx, "start", group)
		if want != "" {
			require.ErrorContains(t, err, want)
			continue
		}
		require.NoError(t, err)
		port := slices.DeleteFunc(h.ports(), func(p string) bool { return p == "ids" })
		require.Len(t, port, 1)
		require.Equal(t, "101", h.vsctl("get", "Port", port[0], "tag"))
		require.NotContains(t, h.vsctl("get", "Port", port[0], "external_ids"), "libvirt-direct", "it says nothing for us")
		h.stop(group)
	}
	h.RequireUnchanged(before)
	require.Equal(t, []string{"ids"}, h.ports())
}

// The database is killed and comes back while a guest starts; libvirtd and QEMU are
// killed, and gc removes the ports that nobody has taken away.
func TestOVSDeaths(t *testing.T) {
	ctx := hosttest.Deadline(t, 3*time.Minute)
	// ovs-vswitchd waits longer each time before it looks for its database again.
	h := newOVSFixture(ctx, t, "a", "deadline = \"60s\"\n")
	before := h.MustSnapshot()
	g := tiny("owned", onOVS(1))
	g.Metadata = metadata(1, "own='hook'")
	h.rewrite(g)
	assisted := tiny("assisted", onOVS(2))
	assisted.Metadata = metadata(2, "isolated='no'")
	h.MustDefine(assisted)

	for n := range 4 {
		started := make(chan error, 1)
		go func() { _, err := h.Virsh(ctx, "start", "owned"); started <- err }()
		time.Sleep(time.Duration(n) * 60 * time.Millisecond) // wherever that hits
		require.NoError(t, h.KillDB())
		require.NoError(t, h.StartDB(ctx))
		require.NoError(t, <-started)
		require.Len(t, h.ports(), 1)
		if n < 3 {
			h.stop("owned")
			require.Empty(t, h.ports())
		}
	}
	h.vsctl("set", "Bridge", "ovsbr0", "external_ids:settled=yes") // libvirt waits for 5 s only
	h.start("assisted")
	require.Len(t, h.ports(), 2)
	require.Equal(t, "nothing is left over\n", h.gc(), "they live")
	status := h.MustRun(program(t, "libvirt-direct"), "status")
	require.Contains(t, status, "made by libvirt")
	require.NotContains(t, status, "BUT")

	pids := []string{h.qemu("owned"), h.qemu("assisted")}
	require.NoError(t, h.KillLibvirtd(ctx, unix.SIGKILL))
	h.kill(pids...)
	_, err := h.Run(ctx, "rm", "-r", "/run/libvirt/qemu") // nor does a new libvirtd know of them
	require.NoError(t, err)
	h.MustStartLibvirtd()
	require.Len(t, h.ports(), 2)
	out := h.gc()
	require.Contains(t, out, "Open vSwitch port")
	require.Empty(t, h.ports())
	h.RequireUnchanged(before)

	// A port that the switch cannot make stops the start, with the switch's own words.
	require.NoError(t, h.KillSwitch())
	h.Configure("deadline = \"2s\"\n")
	_, err = h.Virsh(ctx, "start", "owned")
	require.ErrorContains(t, err, "ovs-vswitchd has not taken it up")
	require.Empty(t, h.ports())
	h.RequireUnchanged(before)
}

// Guests on access and trunk ports talk within their VLANs and not across.
func TestOVSGuestsTalk(t *testing.T) {
	ctx := hosttest.Deadline(t, 5*time.Minute)
	h := newOVSFixture(ctx, t, "a", ovsConf)
	a := newLinux(t, "access", 1, onOVS(1, tagged(100)), "", addr(2))
	b := newLinux(t, "trunk", 2, onOVS(2, tagged(100, 101)), "own='hook'", addr(1))
	b.Cmdline = strings.ReplaceAll(b.Cmdline, mac(2)+",0,", mac(2)+",100,") + " guest.vlans"
	c := newLinux(t, "other", 3, onOVS(3, tagged(101)), "", addr(1), addr(2))
	h.MustDefine(a.Domain)
	h.rewrite(b.Domain)
	h.MustDefine(c.Domain)
	for _, g := range []*linux{a, b, c} {
		h.start(g.Name)
	}
	for _, want := range []struct {
		g    *linux
		text string
	}{
		{a, "ping " + addr(2) + " ok"}, {b, "ping " + addr(1) + " ok"},
		{c, "ping " + addr(1) + " lost"}, {c, "ping " + addr(2) + " lost"},
	} {
		require.NoError(t, want.g.console.Skip())
		_, err := want.g.console.Wait(ctx, want.text)
		require.NoError(t, err)
	}
	for _, g := range []*linux{a, b, c} {
		h.stop(g.Name)
	}
	require.Empty(t, h.ports())
}

// Open vSwitch of a source build or a snap has its socket elsewhere. A guest without settings
// is libvirt's alone, whose ovs-vsctl finds it by libvirtd's OVS_RUNDIR, which libvirt keeps
// from its hooks; for others that counts, too, or what the configuration says.
func TestOVSElsewhere(t *testing.T) {
	const folder, socket = "/run/elsewhere", "/run/elsewhere/db.sock"
	ctx := hosttest.Deadline(t, 3*time.Minute)
	hosttest.Require(t, "ovsdb-server", "ovs-vswitchd", "ovs-vsctl")
	h := &ovsFixture{fixture: newFixture(ctx, t, "a", "")}
	var err error
	h.OVS, err = h.StartOVS(ctx)
	require.NoError(t, err)
	require.NoError(t, h.AddBridge(ctx, "ovsbr0"))
	h.MustRun("mkdir", folder)
	h.MustRun("mv", host.OVSSocket, socket)
	ports := func() []string { return strings.Fields(h.vsctl("--db=unix:"+socket, "list-ports", "ovsbr0")) }
	check := func() string {
		out, _ := h.Run(ctx, program(t, "libvirt-direct"), "check")
		return out
	}

	t.Setenv("OVS_RUNDIR", folder)
	h.MustStartLibvirtd()
	t.Setenv("OVS_RUNDIR", "")
	// Whatever is in the place of our configuration.
	h.MustRun("sh", "-c", "mkdir -p /etc/libvirt-direct && mkfifo /etc/libvirt-direct/config.toml")
	plain := tiny("plain", onOVS(1))
	h.MustDefine(plain)
	h.start("plain")
	require.Len(t, ports(), 1)
	require.Empty(t, h.Journals())
	h.stop("plain")
	require.Empty(t, ports())

	h.MustRun("rm", "/etc/libvirt-direct/config.toml")
	assisted := tiny("assisted", onOVS(1))
	assisted.Metadata = metadata(1, "isolated='yes'")
	h.MustDefine(assisted)
	h.start("assisted")
	require.Equal(t, "true", h.vsctl("--db=unix:"+socket, "get", "Port", ports()[0], "protected"))
	require.NotContains(t, h.MustRun(program(t, "libvirt-direct"), "status"), "BUT")
	require.Equal(t, "nothing is left over\n", h.gc())
	require.Contains(t, check(), socket+" (by OVS_RUNDIR of libvirtd) answers, with 1 bridge(s)")
	h.stop("assisted")
	require.Empty(t, ports())

	require.NoError(t, h.KillLibvirtd(ctx, unix.SIGTERM))
	h.MustStartLibvirtd()
	owned := tiny("owned", onOVS(1))
	owned.Metadata = metadata(1, "own='hook'")
	h.rewrite(owned)
	_, err = h.Virsh(ctx, "start", "owned")
	require.ErrorContains(t, err, host.OVSSocket)
	require.ErrorContains(t, err, "set socket in [ovs] of config.toml")
	h.Configure("[ovs]\nsocket = \"" + socket + "\"\n")
	h.start("owned")
	require.Len(t, ports(), 1)
	require.Contains(t, check(), socket+" (by [ovs] socket in /etc/libvirt-direct/config.toml) answers, with 1 bridge(s)")
	h.stop("owned")
	require.Empty(t, ports())
	require.Empty(t, h.Journals())
}
