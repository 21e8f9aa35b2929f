package hooks

import (
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
)

// What no libvirt starts is said by explain of every guest, by rewrite, and at the start of a
// managed one before anything is done. A plain guest is libvirt's to refuse.
func TestWhatLibvirtRefusesIsSaidAtOnce(t *testing.T) {
	for name, c := range map[string]struct{ words, nic, says string }{
		"trunk on a hostdev NIC":     {"trust='yes'", hostdev(mac1, "1", "<vlan trunk='yes'><tag id='42'/><tag id='43'/></vlan>"), "a trunk on a virtual function"},
		"one tag, trunk":             {"trust='yes'", hostdev(mac1, "1", "<vlan trunk='yes'><tag id='42'/></vlan>"), "a trunk on a virtual function"},
		"native VLAN":                {"trust='yes'", direct(mac1, "vf1", "passthrough", "<vlan><tag id='42' nativeMode='untagged'/></vlan>"), "a trunk on a virtual function"},
		"several tags":               {"trust='yes'", direct(mac1, "vf1", "passthrough", "<vlan><tag id='42'/><tag id='43'/></vlan>"), "a trunk on a virtual function"},
		"beside the settings' VLAN":  {"vlan='42'", hostdev(mac1, "1", "<vlan trunk='yes'><tag id='42'/><tag id='43'/></vlan>"), "a trunk on a virtual function"},
		"on a VF that is chosen":     {"allmulticast='yes'", direct(mac1, "fast", "passthrough", "<vlan trunk='yes'><tag id='42'/></vlan>"), "a trunk on a virtual function"},
		"bandwidth of a hostdev NIC": {"trust='yes'", hostdev(mac1, "1", "<bandwidth><inbound average='1'/></bandwidth>"), "<bandwidth> on a virtual function"},
		"VLAN and 802.1Qbh":          {"trust='yes'", hostdev(mac1, "1", "<vlan><tag id='42'/></vlan><virtualport type='802.1Qbh'><parameters profileid='x'/></virtualport>"), "<vlan> with <virtualport type='802.1Qbh'>"},
		"MTU of a macvtap":           {"allmulticast='yes'", direct(mac1, "ens1f1", "bridge", "<mtu size='1400'/>"), "<mtu> on this type"},
		"OVN's port on a VF":         {"trust='yes'", hostdev(mac1, "1", "<virtualport type='openvswitch'/>"), "<virtualport> of another type"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			before := w.all()
			managed, lone := domain(uuidA, vfWords(mac1, c.words), c.nic), domain(uuidB, "", c.nic)
			_, err := w.run(step.Prepare, managed)
			require.Error(t, err)
			require.Empty(t, w.journals())
			require.Equal(t, before, w.all())
			if name != "on a VF that is chosen" { // which rewrite refuses
				require.ErrorIs(t, err, plan.ErrLibvirtRefuses)
				w.must(step.Prepare, lone)
				w.must(step.Release, lone)
			}
			for _, doc := range []string{managed, lone} {
				_, err := w.rewritten(doc)
				require.ErrorIs(t, err, plan.ErrLibvirtRefuses)
				require.ErrorContains(t, err, c.says)
				require.Contains(t, w.explained(doc), "libvirt refuses "+c.says)
			}
			// A guest that runs has it all the same.
			w.must(step.Reconnect, lone)
		})
	}
}

// The settings' trunk is for bridges, and refused on a virtual function in any form.
func TestTrunkSettingsOnAVF(t *testing.T) {
	for _, nic := range []string{hostdev(mac1, "1", ""), direct(mac1, "vf1", "passthrough"), direct(mac1, "fast", "passthrough")} {
		for _, words := range []string{"trunk='42,43'", "vlan='42' trunk='42,43'", "vlan='42' trunk='43' native='tagged'"} {
			w := newVFWorld(t)
			doc := domain(uuidA, vfWords(mac1, words), nic)
			for _, run := range []func() error{
				func() error { _, err := w.run(step.Prepare, doc); return err },
				func() error { _, err := w.rewritten(doc); return err },
			} {
				err := run()
				require.ErrorIs(t, err, step.ErrUnsuitable)
				require.ErrorContains(t, err, "is for ports of a bridge")
			}
			require.Contains(t, w.explained(doc), "is for ports of a bridge")
		}
	}
}

// What a line says to do is true: a trunk on a macvtap is nothing that rewrite could change.
func TestTrunkOnAMacvtapIsNotRewritten(t *testing.T) {
	for _, vlan := range []string{"<vlan trunk='yes'><tag id='42'/></vlan>", "<vlan><tag id='42'/><tag id='43'/></vlan>"} {
		w := newVFWorld(t)
		doc := domain(uuidA, "", direct(mac1, "ens1f1", "bridge", vlan))
		_, err := w.run(step.Prepare, doc)
		require.ErrorIs(t, err, step.ErrUnsuitable)
		require.ErrorContains(t, err, "a macvtap stands on one VLAN")
		_, err = w.rewritten(doc)
		require.ErrorIs(t, err, step.ErrUnsuitable)
	}
}
