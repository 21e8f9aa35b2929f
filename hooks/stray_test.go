package hooks

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

// userNIC has a network that only QEMU knows.
func userNIC(mac string) string {
	return "<interface type='user'><mac address='" + mac + "'/></interface>"
}

func networkNIC(mac string) string {
	return "<interface type='network'><mac address='" + mac + "'/><source network='n'/></interface>"
}

const tenant = "[profile.tenant]\nisolated = true\n[profile.fast]\nallmulticast = true\n[profile.ids]\n[profile.ids.ovs]\nmaxrate = 100\n"

// Settings that restrict a guest are for MACs that no NIC has, as virt-clone leaves them: it does
// not start, nor arrive.
func TestLostRestrictionsStopTheGuest(t *testing.T) {
	for name, c := range map[string]struct{ words, nics string }{
		"isolated":                   {"isolated='yes'", bridged(mac2, "br0", "")},
		"VLAN of a bridge":           {"vlan='10'", bridged(mac2, "br0", "")},
		"trunk":                      {"trunk='10,20'", onSwitch(mac2)},
		"learning":                   {"learning='no'", bridged(mac2, "br0", "")},
		"locked":                     {"locked='yes'", bridged(mac2, "br0", "")},
		"spoofchk":                   {"spoofchk='yes'", hostdev(mac2, "0", "")},
		"rate":                       {"maxrate='100'", direct(mac2, "vf0", "passthrough")},
		"least rate":                 {"minrate='100'", direct(mac2, "vf0", "passthrough")},
		"VLAN of a macvtap":          {"vlan='100'", direct(mac2, "nica", "bridge")},
		"port profile":               {"portprofile='gold'", direct(mac2, "nica", "bridge")},
		"profile":                    {"profile='tenant'", bridged(mac2, "br0", "")},
		"profile with a rate":        {"profile='ids'", onSwitch(mac2)},
		"profile that is gone":       {"profile='gone'", bridged(mac2, "br0", "")},
		"network":                    {"isolated='yes'", networkNIC(mac2)},
		"one of two":                 {"isolated='yes' uplink='nosuch'", userNIC(mac3) + bridged(mac2, "br0", "")},
		"device of a hook-owned NIC": {"own='hook' dev='nica' vlan='100'", owned(mac2, "mine")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tenant, "ens1f0", "nica")
			withBridges(w.kernel)
			w.kernel.AddVFs("ens1f0", 2)
			before := w.dump()
			doc := domain(uuidA, "<ld:nic mac='"+mac1+"' "+c.words+"/>", c.nics)
			for _, op := range []step.Op{step.Prepare, step.Start, step.Migrate, step.Restore} {
				_, err := w.run(op, doc)
				require.ErrorIs(t, err, plan.ErrStray, "%s", op)
				require.ErrorContains(t, err, `domain "vm a", NIC `+mac2+": settings in <metadata> belong to no NIC: those of "+mac1+" (")
				require.ErrorContains(t, err, "run: libvirt-direct rewrite --domain 'vm a'")
				require.NotContains(t, err.Error(), "\n")
				more := map[step.Op]string{step.Migrate: "virsh metadata 'vm a' urn:libvirt-direct:1 --live --key ld --edit", step.Restore: "virsh save-image-edit"}[op]
				require.Contains(t, err.Error(), more, "rewrite changes the definition alone")
			}
			w.must(step.Reconnect, doc)
			require.Contains(t, w.log.String(), "goes on, but: ")
			w.must(step.Stopped, doc)
			w.must(step.Release, doc)
			require.Equal(t, before, w.dump())
			require.Empty(t, w.journals())
		})
	}
}

// Settings that have lost their NIC are harmless where they restrict nothing, or where no NIC
// can be meant: it was detached, and all others have their own.
func TestHarmlessStrays(t *testing.T) {
	for name, c := range map[string]struct{ words, nics string }{
		"nothing restricted":     {"<ld:nic mac='" + mac1 + "' own='hook' dev='nica' allmulticast='yes' hairpin='yes'/>", direct(mac2, "nica", "bridge")},
		"no":                     {"<ld:nic mac='" + mac1 + "' isolated='no' learning='yes' trust='yes'/>", bridged(mac2, "br0", "")},
		"profile":                {"<ld:nic mac='" + mac1 + "' profile='fast'/>", direct(mac2, "nica", "bridge")},
		"all have their own":     {"<ld:nic mac='" + mac1 + "' isolated='yes'/><ld:nic mac='" + mac2 + "' isolated='yes'/>", bridged(mac2, "br0", "vnet0")},
		"not for this kind":      {"<ld:nic mac='" + mac1 + "' isolated='yes'/>", direct(mac2, "nica", "bridge")},
		"not for any of these":   {"<ld:nic mac='" + mac1 + "' vlan='7'/>", userNIC(mac2)},
		"not the hook's":         {"<ld:nic mac='" + mac1 + "' isolated='yes'/>", owned(mac2, "tap7")},
		"no NIC":                 {"<ld:nic mac='" + mac1 + "' isolated='yes' vlan='7'/>", ""},
		"a NIC to be plugged in": {"<ld:nic alias='ua-later' isolated='yes'/>", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tenant, "nica")
			withBridges(w.kernel)
			doc := domain(uuidA, c.words, c.nics)
			for _, op := range allOps {
				w.must(op, doc)
			}
			require.NotContains(t, w.log.String(), "WARN")
			d, err := xmlfilter.Parse([]byte(doc))
			require.NoError(t, err)
			require.Contains(t, plan.DescribeStray(d, w.cfg, d.Stray[0]), "ignored")
		})
	}
}

// A MAC that cannot be read is said, not that settings have lost their NIC by it.
func TestStrayBecauseOfABadMAC(t *testing.T) {
	w := newWorld(t, "", "nica")
	doc := domain(uuidA, vfWords(mac1, "vlan='7'"), strings.Replace(direct(mac1, "nica", "bridge"), mac1, strings.ReplaceAll(mac1, ":", "-"), 1))
	_, err := w.rewritten(doc)
	require.ErrorIs(t, err, xmlfilter.ErrNIC)
	_, _, err = w.repaired(doc, nil)
	require.ErrorIs(t, err, xmlfilter.ErrNIC)
}

// A guest that has nothing else from us than settings of a NIC that was detached depends on
// nothing of ours.
func TestHarmlessStrayOnABrokenHost(t *testing.T) {
	w := newPlainWorld(t)
	w.hook.Config = func() (*config.Config, error) { return nil, errors.New("config.toml:7: unknown key") }
	for _, nics := range []string{direct(mac1, "nica", "bridge"), userNIC(mac1), bridged(mac1, "br0", "")} {
		for _, op := range []step.Op{step.Prepare, step.Start} {
			w.must(op, domain(uuidA, "<ld:nic mac='"+mac2+"' hairpin='yes'/>", nics))
		}
	}
}

// What only a newer release understands is refused, wherever it stands: it can restrict.
func TestNewerSettingsAreRefused(t *testing.T) {
	nic := bridged(mac1, "br0", "")
	for name, doc := range map[string]string{
		"attribute":            domain(uuidA, vfWords(mac1, "sealed='yes'"), nic),
		"value":                domain(uuidA, vfWords(mac1, "isolated='strict'"), nic),
		"element":              domain(uuidA, "<ld:nic mac='"+mac1+"'><ld:guard/></ld:nic>", nic),
		"beside a NIC":         domain(uuidA, "<ld:group isolated='yes'/>", nic),
		"attribute of a stray": domain(uuidA, vfWords(mac2, "sealed='yes'"), nic),
		"namespace":            strings.ReplaceAll(domain(uuidA, vfWords(mac1, "isolated='yes'"), nic), "urn:libvirt-direct:1", "urn:libvirt-direct:2"),
		"two namespaces": strings.Replace(domain(uuidA, vfWords(mac1, "isolated='yes'"), nic), "<metadata>",
			"<metadata><n:nics xmlns:n='urn:libvirt-direct:2'/>", 1),
		"beside the element": strings.Replace(domain(uuidA, vfWords(mac1, "isolated='yes'"), nic), "<metadata>",
			"<metadata><n:guard xmlns:n='urn:libvirt-direct:1'/>", 1),
		"second element": strings.Replace(domain(uuidA, vfWords(mac1, "hairpin='yes'"), nic), "</metadata>",
			"<n:nics xmlns:n='urn:libvirt-direct:1'><n:nic mac='"+mac1+"' isolated='yes'/></n:nics></metadata>", 1),
	} {
		w := newWorld(t, "", "nica")
		withBridges(w.kernel)
		for _, op := range []step.Op{step.Prepare, step.Start, step.Migrate, step.Restore} {
			_, err := w.run(op, doc)
			require.ErrorIs(t, err, xmlfilter.ErrSettings, "%s: %s", name, op)
		}
		w.must(step.Reconnect, doc)
		require.Contains(t, w.log.String(), "goes on, but: ", name)
		for _, op := range []step.Op{step.Stopped, step.Release} {
			w.must(op, doc)
		}
	}
}

// A network of libvirt's can say it, too.
func TestNewerSettingsOfANetwork(t *testing.T) {
	for _, meta := range []string{"<n:network xmlns:n='urn:libvirt-direct:2' spoofchk='yes'/>", "<n:pool xmlns:n='urn:libvirt-direct:1'/>"} {
		_, _, err := xmlfilter.ParseHook([]byte("<hookData><network><name>n</name><metadata>" + meta + "</metadata></network></hookData>"))
		require.ErrorIs(t, err, xmlfilter.ErrSettings)
	}
}

// Each setting that restricts, on each kind of NIC: it is planned, or the guest is refused.
func TestRestrictionsAreAppliedOrRefused(t *testing.T) {
	ovsWas := "<ld:was type='bridge' words='own'><source bridge='ovsbr0'/><virtualport type='openvswitch'><parameters interfaceid='" + interfaceID + "'/></virtualport></ld:was>"
	kinds := map[string]struct{ own, was, nic string }{
		"macvtap":              {nic: direct(mac1, "nica", "bridge", "<target dev='macvtap0'/>")},
		"passthrough VF":       {nic: direct(mac1, "vf0", "passthrough")},
		"hostdev":              {nic: hostdev(mac1, "0", "")},
		"hook-owned":           {own: "own='hook' dev='nica' mode='bridge'", nic: owned(mac1, "ldt1")},
		"hook-owned VF":        {own: "own='hook' dev='vf0' mode='passthrough'", nic: owned(mac1, "ldt1")},
		"hook-owned on OVS":    {own: "own='hook'", was: ovsWas, nic: owned(mac1, "ldt1")},
		"bridge":               {nic: bridged(mac1, "br0", "vnet0")},
		"OVS":                  {nic: onSwitch(mac1, "<target dev='vnet0'/>")},
		"macvtap of a network": {nic: "<interface type='direct'><mac address='" + mac1 + "'/><source network='n' dev='nica' mode='bridge'/><target dev='macvtap0'/></interface>"},
		"VF of a network":      {nic: "<interface type='direct'><mac address='" + mac1 + "'/><source network='n' dev='vf0' mode='passthrough'/><target dev='macvtap0'/></interface>"},
		"bridge of a network":  {nic: "<interface type='bridge'><mac address='" + mac1 + "'/><source network='n' bridge='br0'/><target dev='vnet0'/></interface>"},
		"user":                 {nic: userNIC(mac1)},
		"vhostuser":            {nic: "<interface type='vhostuser'><mac address='" + mac1 + "'/><source type='unix' path='/run/s' mode='client'/></interface>"},
		"vdpa":                 {nic: "<interface type='vdpa'><mac address='" + mac1 + "'/><source dev='/dev/vhost-vdpa-0'/></interface>"},
		"somebody's tap":       {nic: owned(mac1, "tap7")},
	}
	planned := func(w *world, doc string) (string, error) {
		d, err := xmlfilter.Parse([]byte(doc))
		require.NoError(t, err)
		host, err := Survey(t.Context(), w.kernel, w.cfg, w.hook.records(), d)
		require.NoError(t, err)
		var all []step.Step
		for _, op := range []step.Op{step.Prepare, step.Start} {
			steps, err := plan.For(op, d, w.cfg, host)
			if err != nil {
				return "", err
			}
			all = append(all, steps...)
		}
		text, err := json.Marshal(all)
		require.NoError(t, err)
		return string(text), nil
	}
	for kind, k := range kinds {
		doc := func(more string) string {
			return domain(uuidA, "<ld:nic mac='"+mac1+"' "+k.own+more+">"+k.was+"</ld:nic>", k.nic)
		}
		w := newWorld(t, "", "ens1f0", "nica", "ovsbr0")
		withBridges(w.kernel)
		w.kernel.AddVFs("ens1f0", 2)
		without, err := planned(w, doc(""))
		if kind == "user" || kind == "vhostuser" || kind == "vdpa" || kind == "somebody's tap" {
			require.ErrorIs(t, err, step.ErrUnsuitable)
			continue
		}
		require.NoError(t, err, kind)
		tried := 0
		for _, s := range settings.At(settings.InNIC) {
			value := string(s.Restricts)
			switch {
			case s.Restricts == settings.Never:
				continue
			case s.Restricts == settings.Always && s.Name == settings.NameTrunk:
				value = "10,20"
			case s.Restricts == settings.Always:
				value = "100"
			}
			tried++
			with, err := planned(w, doc(" "+s.Name+"='"+value+"'"))
			if err == nil {
				assert.NotEqual(t, without, with, "%s='%s' of %s is dropped", s.Name, value, kind)
			}
		}
		require.Greater(t, tried, 12)
	}
}

// A guest that has lost such settings is not one without settings: what is wrong with the host
// does not let it start without them.
func TestLostRestrictionsOnABrokenHost(t *testing.T) {
	doc := domain(uuidA, "<ld:nic mac='"+mac2+"' vlan='100'/>", direct(mac1, "nica", "bridge"))
	for _, spoil := range []func(w *world){
		func(w *world) {
			w.hook.Kernel = func() (step.Kernel, func(), error) { return nil, nil, errors.New("no netlink socket") }
		},
		func(w *world) {
			w.hook.Config = func() (*config.Config, error) { return nil, errors.New("config.toml:7: unknown key") }
		},
	} {
		w := newPlainWorld(t)
		spoil(w)
		for _, op := range []step.Op{step.Prepare, step.Start, step.Migrate, step.Restore} {
			_, err := w.run(op, doc)
			require.Error(t, err, "%s", op)
		}
	}
}
