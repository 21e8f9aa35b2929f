package hooks

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/step"
	"libvirt-direct/xmlfilter"
)

// portXML is what libvirt gives its network hook for a port of network "pool"; meta is
// the network's metadata.
func portXML(uuid, mac, plug, group, meta string) string {
	if meta != "" {
		meta = "<metadata>" + meta + "</metadata>"
	}
	return "<hookData><network connections='1'><name>pool</name><uuid>cccccccc-0000-4000-8000-000000000001</uuid>" + meta +
		"<forward dev='vf0' mode='passthrough'><interface dev='vf0' connections='1'/></forward>" +
		"<portgroup name='fast'/><portgroup name='slow'/></network>" +
		"<networkport><uuid>cccccccc-0000-4000-8000-000000000002</uuid><owner><name>vm " + uuid[:1] + "</name><uuid>" + uuid + "</uuid></owner>" +
		"<group>" + group + "</group><mac address='" + mac + "'/>" + plug + "</networkport></hookData>"
}

const (
	plugVF0  = "<plug type='direct' dev='vf0' mode='passthrough'/>"
	plugPCI1 = "<plug type='hostdev-pci' managed='yes'><driver name='vfio'/><address domain='0x0000' bus='0x03' slot='0x10' function='0x1'/></plug>"
	goldPool = "<ld:network xmlns:ld='urn:libvirt-direct:1' trust='yes' maxrate='100'><ld:portgroup name='fast' maxrate='1000'/></ld:network>"
)

func (w *world) runNetwork(op step.Op, doc string) error {
	return w.hook.RunNetwork(context.Background(), NetworkCall{Network: "pool", Op: op, Stdin: strings.NewReader(doc)})
}

// A pool member that a guest of ours has is not handed out, however it has come by it.
func TestPoolDoesNotHandOutWhatAGuestHas(t *testing.T) {
	for name, nic := range map[string]string{
		"named":   direct(mac1, "vf0", "passthrough"),
		"hostdev": hostdev(mac1, "1", ""),
	} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			doc := domain(uuidA, vfWords(mac1, "trust='yes'"), nic)
			w.must(step.Prepare, doc)
			held := w.all()
			plug := map[string]string{"named": plugVF0, "hostdev": plugPCI1}[name]
			err := w.runNetwork(step.PortCreated, portXML(uuidB, mac2, plug, "", goldPool))
			require.ErrorIs(t, err, step.ErrInUse)
			require.ErrorContains(t, err, `domain "vm a" has`)
			require.Equal(t, held, w.all())
			require.Equal(t, []string{uuidA}, w.journals())
			require.NoError(t, w.runNetwork(step.PortCreated, portXML(uuidA, mac2, plug, "", "")), "its own: libvirtd was restarted")
			w.must(step.Release, doc)
			require.NoError(t, w.runNetwork(step.PortCreated, portXML(uuidB, mac2, plug, "", "")))
		})
	}
	t.Run("whole device", func(t *testing.T) {
		w := newWorld(t, "", "nica")
		doc := domain(uuidA, vfWords(mac1, "own='hook' mode='passthrough' dev='nica'"), owned(mac1, "ldt1"))
		w.must(step.Prepare, doc)
		err := w.runNetwork(step.PortCreated, portXML(uuidB, mac2, "<plug type='direct' dev='nica' mode='bridge'/>", "", ""))
		require.ErrorContains(t, err, `it hands out nica, which domain "vm a" has`)
		w.must(step.Release, doc)
		require.NoError(t, w.runNetwork(step.PortCreated, portXML(uuidB, mac2, "<plug type='direct' dev='nica' mode='bridge'/>", "", "")))
	})
}

// A network's settings hold from when libvirt hands the VF out until it takes it back,
// under the domain's own, which come at start.
func TestNetworkWords(t *testing.T) {
	w := newVFWorld(t)
	before, own := w.all(), *w.kernel.Function(0).MAC
	port := portXML(uuidA, mac1, plugVF0, "fast", goldPool)
	require.NoError(t, w.runNetwork(step.PortCreated, port))
	require.Contains(t, w.kernel.Function(0).String(), "trust on, spoofchk on")
	require.Equal(t, 1000, *w.kernel.Function(0).MaxRate)
	require.NoError(t, w.runNetwork(step.PortCreated, port), "libvirtd was restarted")

	w.kernel.Function(0).Give(mac1, 0)
	doc := domain(uuidA, vfWords(mac1, "spoofchk='no' maxrate='50' vlan='42' qos='3'"),
		"<interface type='direct'><mac address='"+mac1+"'/><source network='pool' dev='vf0' mode='passthrough'/></interface>")
	w.must(step.Start, doc)
	require.Equal(t, "trust on, spoofchk off, mac "+mac1+", vlan 42 qos 3, minrate 0, maxrate 50, linkstate auto", w.kernel.Function(0).String())
	w.kernel.Function(0).Give(own, 0)
	require.NoError(t, w.runNetwork(step.PortDeleted, port))
	require.Equal(t, before, w.all())
	require.Empty(t, w.journals())
	require.NoError(t, w.runNetwork(step.PortDeleted, port), "once more")

	// The guest is stopped without libvirt's saying more: release undoes it too.
	require.NoError(t, w.runNetwork(step.PortCreated, port))
	w.must(step.Release, domain(uuidA, "", ""))
	require.Equal(t, before, w.all())
}

func TestNetworkWordsRefused(t *testing.T) {
	ld := func(text string) string {
		return "<ld:network xmlns:ld='urn:libvirt-direct:1' " + text + "</ld:network>"
	}
	for name, c := range map[string]struct{ plug, meta, want string }{
		"priority":        {plugVF0, ld("qos='3'>"), `domain "vm a", NIC ` + mac1 + ": does not fit this NIC: qos, proto and portprofile are set when the guest starts"},
		"no VF":           {"<plug type='direct' dev='ens1f1' mode='bridge'/>", ld("trust='yes'>"), "ens1f1 is none"},
		"unknown profile": {plugVF0, ld("profile='glod'>"), `not configured on this host: profile "glod"; add [profile.glod]`},
		"unknown word":    {plugVF0, ld("trsut='yes'>"), "bad settings in <metadata>: <network>: trsut is not known; known are profile, qos"},
		"bad value":       {plugVF0, ld("><ld:portgroup name='x' trust='maybe'/>"), "<portgroup>: trust = \"maybe\": want yes or no"},
		"two groups":      {plugVF0, ld("><portgroup name='x'/><portgroup name='x'/>"), "only one <portgroup name='…'>"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			before := w.all()
			err := w.runNetwork(step.PortCreated, portXML(uuidA, mac1, c.plug, "", c.meta))
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, `network "pool": `)
			require.Equal(t, before, w.all())
			require.Empty(t, w.journals())
		})
	}
}

// What concerns taps, and what nobody needs us for, touches neither kernel nor journal.
func TestNetworkHookLeavesOthersAlone(t *testing.T) {
	w := newWorld(t, "")
	w.hook.Kernel = nil
	bridge := portXML(uuidA, mac1, "<plug type='network' bridge='virbr0'/>", "", "")
	require.NoError(t, w.runNetwork(step.PortCreated, bridge))
	require.NoError(t, w.runNetwork(step.PortDeleted, portXML(uuidA, mac1, plugVF0, "", "")))
	require.NoError(t, w.runNetwork("started", "<"))
	require.NoError(t, w.runNetwork(step.PortCreated, "<"))
	require.ErrorIs(t, w.runNetwork(step.PortCreated, "<a b='"+xmlfilter.Namespace+"'"), xmlfilter.ErrSyntax)
	w.hook.Privileged = false
	require.NoError(t, w.runNetwork(step.PortCreated, "<"))
	_, err := os.Stat(w.journal)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A network of taps whose settings restrict its guests hands out none: nothing would set them.
// Of a network without settings for the port nothing is asked.
func TestNetworkWordsOfTaps(t *testing.T) {
	const tap = "<plug type='network' bridge='virbr0'/>"
	ld := func(text string) string {
		return "<ld:network xmlns:ld='urn:libvirt-direct:1' " + text + "</ld:network>"
	}
	for name, c := range map[string]struct{ plug, group, meta, want string }{
		"rate":                      {tap, "", ld("maxrate='100'>"), "maxrate='100', which is for virtual functions, and this is a tap"},
		"of the portgroup":          {tap, "fast", ld("><ld:portgroup name='fast' spoofchk='yes'/>"), "spoofchk='yes', which"},
		"of the profile":            {tap, "", ld("profile='gold'>"), "maxrate='100', which"},
		"unknown profile":           {tap, "", ld("profile='glod'>"), "add [profile.glod]"},
		"of another portgroup":      {tap, "slow", ld("><ld:portgroup name='fast' maxrate='1'/>"), ""},
		"misspelt portgroup":        {tap, "fast", ld("><ld:portgroup name='fsat' maxrate='1'/>"), `portgroup "fsat", which it does not have`},
		"misspelt, a macvtap's":     {"<plug type='direct' dev='ens1f1' mode='bridge'/>", "", ld("><ld:portgroup name='fsat' profile='gold'/>"), `portgroup "fsat"`},
		"misspelt, own are there":   {tap, "slow", ld("><ld:portgroup name='fsat' maxrate='1'/><ld:portgroup name='slow' trust='yes'/>"), ""},
		"misspelt, no restriction":  {tap, "fast", ld("><ld:portgroup name='fsat' trust='yes'/>"), ""},
		"restricts nothing":         {tap, "", ld("trust='yes'>"), ""},
		"empty":                     {"<plug type='direct' dev='ens1f1' mode='bridge'/>", "", ld(">"), ""},
		"macvtap of another's port": {"<plug type='direct' dev='ens1f1' mode='bridge'/>", "slow", ld("><ld:portgroup name='fast' maxrate='1'/>"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "[profile.gold]\nmaxrate = 100\n", "ens1f1")
			err := w.runNetwork(step.PortCreated, portXML(uuidA, mac1, c.plug, c.group, c.meta))
			require.NoError(t, w.runNetwork(step.PortDeleted, portXML(uuidA, mac1, c.plug, c.group, c.meta)))
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, `network "pool": domain "vm a", NIC `+mac1)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestForNetworks(t *testing.T) {
	for program, want := range map[string]bool{
		"/etc/libvirt/hooks/network": true, "/etc/libvirt/hooks/network.d/50-libvirt-direct": true,
		"/etc/libvirt/hooks/qemu": false, "/etc/libvirt/hooks/qemu.d/50-libvirt-direct": false, "/home/network/qemu": false,
	} {
		require.Equal(t, want, ForNetworks(program), program)
	}
}

// Our own choice leaves what libvirt's running networks hand out, in every way that a
// network can name it.
func TestOwnChoiceLeavesPools(t *testing.T) {
	for name, c := range map[string]struct {
		pool string
		want string // the VF that is chosen, or an error
	}{
		"none":     {"", "vf0"},
		"NAT":      {"<forward dev='ens1f0' mode='nat'><interface dev='vf0'/></forward>", "vf0"},
		"devices":  {"<forward dev='vf0' mode='vepa'><interface dev='vf0'/><interface dev='vf1'/></forward>", "vf2"},
		"function": {"<forward mode='hostdev' managed='yes'><address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x0'/></forward>", "vf1"},
		"PF":       {"<forward mode='hostdev' managed='yes'><pf dev='ens1f0'/></forward>", `no virtual function of uplink "fast" (ens1f0) is free; libvirt's network "pool" hands out some: let it name fewer`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			at := filepath.Join(w.libvirt, "network")
			require.NoError(t, os.Mkdir(at, 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(at, "broken.xml"), []byte("<networkstatus>"), 0o600))
			state := "<!--\nWARNING\n-->\n\n<networkstatus>\n  <class_id bitmap='0-2'/>\n  <network>\n    <name>pool</name>" + c.pool + "</network></networkstatus>"
			require.NoError(t, os.WriteFile(filepath.Join(at, "pool.xml"), []byte(state), 0o600))
			_, err := w.run(step.Prepare, domain(uuidA, vfWords(mac1, "own='hook' mode='passthrough' uplink='fast'"), owned(mac1, "ldt1")))
			if !w.kernel.IsVF(t.Context(), c.want) {
				require.ErrorContains(t, err, c.want)
				return
			}
			require.NoError(t, err)
			made, err := w.kernel.ByName(context.Background(), "ldt1")
			require.NoError(t, err)
			lower, err := w.kernel.ByIndex(context.Background(), made.Parent)
			require.NoError(t, err)
			require.Equal(t, c.want, lower.Name)
		})
	}
}

// Two NICs of one domain that have one MAC, as a team's do: unplugging one leaves the other's
// virtual function as it is.
func TestNetworkPortsOfOneMAC(t *testing.T) {
	w := newVFWorld(t)
	const plugVF1 = "<plug type='direct' dev='vf1' mode='passthrough'/>"
	before := w.all()
	first, second := portXML(uuidA, mac1, plugVF0, "", goldPool), portXML(uuidA, mac1, plugVF1, "fast", goldPool)
	require.NoError(t, w.runNetwork(step.PortCreated, first))
	require.NoError(t, w.runNetwork(step.PortCreated, second))
	require.Equal(t, 100, *w.kernel.Function(0).MaxRate)
	require.Equal(t, 1000, *w.kernel.Function(1).MaxRate)

	require.NoError(t, w.runNetwork(step.PortDeleted, second))
	require.Equal(t, 100, *w.kernel.Function(0).MaxRate, "it still has this one")
	require.Equal(t, 0, *w.kernel.Function(1).MaxRate)
	require.NoError(t, w.runNetwork(step.PortDeleted, first))
	require.Equal(t, before, w.all())
	require.Empty(t, w.journals())
}
