package hooks

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
	"libvirt-direct/xmlfilter"
)

// meaning is what a domain's NICs are on this host, by the plan of its start: the device
// below, down to the one that is no VLAN, the mode, the VLANs, what is set. An error is why
// the start is refused.
func (w *world) meaning(doc string) (nics []string, err error) {
	w.t.Helper()
	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(w.t, err, doc)
	host, err := Survey(w.t.Context(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(w.t, err)
	steps, err := plan.For(step.Prepare, d, w.cfg, host)
	if err != nil {
		return nil, err
	}
	for i := range d.NICs {
		if b := d.NICs[i].Source.Bridge; b != "" && !w.has(b) {
			return nil, fmt.Errorf("libvirt finds no bridge %s", b)
		}
	}
	started, err := plan.For(step.Start, d, w.cfg, host)
	if err != nil {
		return nil, err
	}
	steps = append(steps, started...)
	for i := range d.NICs {
		nics = append(nics, w.meaningOf(d, &d.NICs[i], steps))
	}
	return nics, nil
}

func (w *world) meaningOf(d *xmlfilter.Domain, n *xmlfilter.NIC, steps []step.Step) string {
	on, mode, vlans := n.Source.Dev, n.Source.Mode, ""
	var set []string
	if n.VLAN != nil {
		vlans = fmt.Sprint(n.VLAN.Tags, n.VLAN.Trunk, n.VLAN.NativeMode, n.VLAN.NativeTag)
	}
	for _, s := range steps {
		if s.NIC != n.ID() {
			continue
		}
		switch k := s.Kind.(type) {
		case *step.VLAN, *step.AltName, *step.LinkUp, *step.Tap:
		case *step.Macvtap:
			on, mode = k.Lower, k.Mode
			set = append(set, fmt.Sprint("allmulti ", k.AllMulti))
		case *step.VF:
			if k.Program && k.Want.VLAN != nil {
				vlans = fmt.Sprint([]int{k.Want.VLAN.ID}, false, "", 0)
			}
			if want := k.Want; k.Program {
				want.VLAN = nil
				set = append(set, want.String())
			}
			set = append(set, fmt.Sprint("VF ", k.VFPlace, k.Hostdev))
		case *step.BridgePort:
			if k.Flags != (link.PortFlags{}) || k.MAC != "" {
				set = append(set, fmt.Sprint(k.Flags, k.MAC))
			}
			if k.VLANs != nil {
				vlans = bridgeVLANs(k.VLANs)
			}
		case *step.OVSPort:
			set = append(set, strings.ReplaceAll(s.Does(), n.Target, "its port"))
		default:
			set = append(set, s.Does())
		}
	}
	slices.Sort(set)
	text := n.Type + " " + strings.Join(slices.Compact(set), ", ")
	if on != "" {
		text = "on " + w.bottom(on, steps) + " " + cmp.Or(mode, "vepa") + " " + text
	}
	if n.VirtualPort != nil {
		text += " " + n.VirtualPort.Type
	}
	return text + " in " + cmp.Or(n.Source.Bridge, n.Source.PCI) + " VLANs " + vlans
}

// remapped is what migrate or restore makes of a domain, without reserving anything.
func (w *world) remapped(doc string, from plan.Origin) (string, error) {
	w.t.Helper()
	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(w.t, err)
	host, err := Survey(w.t.Context(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(w.t, err)
	changes, _, err := plan.Remap(d, w.cfg, host, from)
	if err != nil {
		return "", err
	}
	out, err := d.Rewrite(changes)
	return string(out), err
}

// bridgeVLANs is what <vlan> would say of a port's VLANs.
func bridgeVLANs(vlans []link.PortVLAN) string {
	v := xmlfilter.VLAN{Trunk: len(vlans) > 1 || !vlans[0].PVID}
	for _, p := range vlans {
		v.Tags = append(v.Tags, p.ID)
		if p.PVID && v.Trunk {
			v.NativeTag, v.NativeMode = p.ID, "tagged"
			if p.Untagged {
				v.NativeMode = "untagged"
			}
		}
	}
	return fmt.Sprint(v.Tags, v.Trunk, v.NativeMode, v.NativeTag)
}

// bottom is the stack of a device that is there, or that steps make.
func (w *world) bottom(name string, steps []step.Step) string {
	for _, s := range steps {
		switch k := s.Kind.(type) {
		case *step.AltName:
			if k.Name == name {
				return w.bottom(k.Device, steps)
			}
		case *step.VLAN:
			if k.Name == name {
				return w.bottom(k.Parent, steps) + " " + itoa(k.ID)
			}
		}
	}
	return w.stack(name)
}

// meaningHosts are hosts on which names mean different things.
func meaningHosts(t *testing.T) map[string]*world {
	uplinks := `
[uplink.lan]
device = "enpb"
also = ["nica", "eth7"]
vlans = ["5-49", "100-199"]
[uplink.fast]
device = "ens1f0"
also = ["enpa"]
[uplink.flat]
device = "br0"
[uplink.fabric]
device = "ovsbr0"
also = ["ovsbr9"]
[uplink.other]
device = "nicc"
[profile.gold]
uplink = "lan"
vlan = 120
mode = "vepa"
[profile.vf]
uplink = "fast"
mode = "passthrough"
trust = true
[profile.tagged]
vlan = 42
[profile.noted]
uplink = "lan"
`
	build := func(cfg string, devices ...string) *world {
		w := newWorld(t, cfg, append([]string{"enpb", "nicc", "ens1f0", "ovsbr0", "wan.7"}, devices...)...)
		withBridges(w.kernel)
		w.kernel.AddVFs("ens1f0", 4)
		for _, v := range []struct {
			name, parent string
			vid          int
		}{{"enpb.100", "enpb", 100}, {"vlan7", "enpb", 7}, {"enpb.5", "enpb", 99}, {"enpb.10", "enpb", 10}, {"enpb.10.20", "enpb.10", 20}} {
			parent, err := w.kernel.ByName(t.Context(), v.parent)
			require.NoError(t, err)
			w.kernel.Add(link.Link{Name: v.name, Kind: "vlan", VLANID: v.vid, Parent: parent.Index, MTU: 1500, Up: true})
		}
		return w
	}
	taken := build(uplinks)
	taken.kernel.Host = map[string][]link.Use{}
	for i := range 4 {
		taken.kernel.Host["vf"+itoa(i)] = []link.Use{{Kind: link.UseAddress, Evidence: "this host has 192.0.2.7/24 on it"}}
	}
	return map[string]*world{
		"uplinks":               build(uplinks),
		"a device of also":      build(uplinks, "nica"),
		"devices called so":     build(uplinks, "lan", "fast", "other"),
		"no uplinks":            build("", "nica"),
		"no VFs are free":       taken,
		"uplink that is a VF":   build(strings.ReplaceAll(uplinks, `"nicc"`, `"vf3"`)),
		"uplink that is gone":   build(strings.ReplaceAll(uplinks, `"nicc"`, `"gone"`)),
		"uplink that is a VLAN": build(strings.ReplaceAll(uplinks, `"nicc"`, `"enpb.100"`), "nica"),
		"VLANs are not made":    build(uplinks + "[vlan]\ncreate = 'never'\n"),
	}
}

// randomNIC draws a NIC and its settings.
func randomNIC(r *rand.Rand, mac string, i int) (nic, words string) {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	maybe := func(n int, s string) string {
		if r.IntN(n) == 0 {
			return s
		}
		return ""
	}
	dev := pick("enpb", "enpb.100", "enpb.101", "enpb.5", "enpb.10", "enpb.10.20", "enpb.10.21", "enpb.11.20", "vlan7", "wan.7", "wan.7.9",
		"nica", "nica.100", "nica.10.20", "eth7", "eth7.30", "lan", "lan.100", "lan.10.20", "lan.11.12", "fast", "fast.42", "enpa", "ens1f0",
		"vf0", "vf1", "vf0.42", "other", "other.9", "nicc", "br0", "gone", "gone.7")
	setting := func(name string, values ...string) string { return " " + name + "='" + pick(values...) + "'" }
	words = maybe(3, setting("uplink", "lan", "fast", "other", "lan", "fabric", "flat")) + maybe(6, setting("dev", "enpb", "lan", "nica", "lan.10", "enpb.10", "enpb.100", "vf1", "ens1f0", "fast", "eth7.30")) +
		maybe(4, setting("vlan", "100", "20", "10", "42", "7")) + maybe(5, setting("mode", "bridge", "passthrough", "vepa")) + maybe(8, setting("profile", "gold", "vf", "tagged", "noted")) +
		maybe(8, " allmulticast='yes'") + maybe(12, " trust='yes'") + maybe(12, " isolated='yes'") + maybe(12, " trunk='100,101'") + maybe(20, " portprofile='p'") + maybe(14, " own='hook'")
	vlan := maybe(4, pick("<vlan><tag id='100'/></vlan>", "<vlan><tag id='20'/></vlan>", "<vlan><tag id='42'/></vlan>", trunkVLAN, "<vlan trunk='yes'><tag id='10'/></vlan>"))
	typ := pick("direct", "direct", "direct", "direct", "bridge", "ovs", "hostdev", "owned", "network")
	switch typ {
	case "direct":
		nic = direct(mac, dev, pick("bridge", "vepa", "private", "passthrough", "passthrough"), vlan, maybe(8, qbg("11")), maybe(12, "<virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport>"))
	case "bridge":
		nic = bridged(mac, pick("br0", "br1", "enpb", "flat"), "vnet"+itoa(9+i), vlan)
	case "ovs":
		nic = strings.Replace(onSwitch(mac, vlan, "<target dev='vnet"+itoa(9+i)+"'/>"), "ovsbr0", pick("ovsbr0", "ovsbr9", "fabric"), 1)
	case "hostdev":
		nic = hostdev(mac, pick("0", "1", "2", "7"), vlan)
	case "owned":
		nic, words = owned(mac, "ldt"+itoa(i)), strings.Replace(words, " own='hook'", "", 1)+" own='hook'"
	case "network":
		nic = "<interface type='network'><mac address='" + mac + "'/><source network='pool'/>" + vlan + "</interface>"
	}
	if words != "" {
		words = vfWords(mac, words[1:])
	}
	return nic, words
}

// What a domain means does not depend on whether rewrite ran, or restore, otherwise than by a
// refusal.
func TestOneMeaning(t *testing.T) {
	for name, w := range meaningHosts(t) {
		t.Run(name, func(t *testing.T) {
			w.t = t
			accepted, changed, moved := 0, 0, 0
			othersNames := slices.Contains([]string{"a device of also", "devices called so", "uplink that is a VLAN"}, name)
			const rounds = 1500
			for seed := range uint64(rounds) {
				r := rand.New(rand.NewPCG(seed, 7))
				nic, words := randomNIC(r, mac1, 1)
				if r.IntN(3) == 0 {
					more, moreWords := randomNIC(r, mac2, 2)
					nic, words = nic+more, words+moreWords
				}
				doc := domain(uuidA, words, nic)
				want, err := w.meaning(doc)
				again, rewriteErr := w.rewritten(doc)
				if rewriteErr == nil {
					got, errAfter := w.meaning(again)
					if err == nil {
						accepted++
						require.NoError(t, errAfter, "seed %d: refused once rewritten\n%s\n%s", seed, doc, again)
						require.Equal(t, want, got, "seed %d\n%s\n%s", seed, doc, again)
					}
					if again != doc {
						changed++
						require.NotErrorIs(t, errAfter, plan.ErrNotRewritten, "seed %d: %s\n%s", seed, doc, again)
					}
					if more, err := w.rewritten(again); err == nil {
						require.Equal(t, again, more, "seed %d: rewritten twice\n%s", seed, doc)
					}
				}
				if err != nil {
					continue
				}
				for _, from := range []plan.Origin{plan.Unknown, plan.Elsewhere} {
					out, err := w.remapped(doc, from)
					if err != nil || out == doc || from == plan.Elsewhere && othersNames {
						continue
					}
					moved++
					got, err := w.meaning(out)
					if err == nil {
						require.Equal(t, want, got, "seed %d: from %d\n%s\n%s", seed, from, doc, out)
					}
				}
			}
			t.Logf("of %d: %d start as they are, %d are rewritten, %d times names change that come from elsewhere", rounds, accepted, changed, moved)
			require.Greater(t, accepted, rounds/20)
			require.Greater(t, changed, rounds/25)
		})
	}
}
