package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

const vfConfig = `
[uplink.fast]
device = "ens1f0"
also = ["enpa"]
vlans = ["40-49"]
[uplink.ucs]
device = "ens1f1"
associate = "hook"
[profile.gold]
uplink = "fast"
mode = "passthrough"
vlan = 42
qos = 3
trust = true
maxrate = 100
optional = ["linkstate"]
linkstate = "enable"
`

func newVFWorld(t *testing.T) *world {
	w := newWorld(t, vfConfig, "ens1f0", "ens1f1")
	w.kernel.AddVFs("ens1f0", 4)
	return w
}

func hostdev(mac, function string, more string) string {
	return "<interface type='hostdev' managed='yes'><mac address='" + mac + "'/><source>" +
		"<address type='pci' domain='0' bus='3' slot='0x10' function='" + function + "'/></source>" + more + "</interface>"
}

func vfWords(mac, words string) string { return "<ld:nic mac='" + mac + "' " + words + "/>" }

func (w *world) all() string { return w.kernel.Dump() + "\n" + w.kernel.DumpVFs() }

// A hostdev guest's life, with what libvirt does to the VF in between.
func TestHostdevLife(t *testing.T) {
	w := newVFWorld(t)
	vf := w.kernel.Function(1)
	own := *vf.MAC
	vf.VLAN = &link.VFVLAN{ID: 7, QoS: 5, Proto: link.Dot1Q} // the administrator's
	admin := "02:aa:00:00:00:01"
	vf.MAC = &admin
	before := w.all()
	doc := domain(uuidA, vfWords(mac1, "qos='3' trust='yes' spoofchk='no'"), hostdev(mac1, "1", "<vlan><tag id='42'/></vlan>"))
	w.must(step.Prepare, doc)
	require.Equal(t, before, w.all(), "before libvirt has the VF it is only looked at")
	vf.Give(mac1, 42)
	w.kernel.VFs[1].Netdev = "" // VFIO has it
	w.must(step.Start, doc)
	require.Equal(t, "trust on, spoofchk off, mac "+mac1+", vlan 42 qos 3, minrate 0, maxrate 0, linkstate auto", vf.String())
	w.must(step.Stopped, doc)
	vf.Netdev = "renamed0"
	vf.Give(own, 7) // it forgets the priority, and the MAC that the PF gave
	w.must(step.Release, domain(uuidA, "", ""))
	vf.Netdev = "vf1"
	require.Equal(t, before, w.all())
	require.Empty(t, w.journals())
}

// A VF and its PF are known by their places on the bus: what their network devices are
// called when the guest ends is no matter.
func TestVFComesBackUnderAnotherName(t *testing.T) {
	for _, test := range []struct {
		name  string
		taken bool // the old one, by then
		want  string
	}{{"free", false, "vf1"}, {"taken", true, "eth9"}} {
		t.Run(test.name, func(t *testing.T) {
			w := newVFWorld(t)
			ctx, k, vf := context.Background(), w.kernel, w.kernel.Function(1)
			old, err := k.ByName(ctx, "vf1")
			require.NoError(t, err)
			before := vf.String()
			dump := k.Dump()
			doc := domain(uuidA, vfWords(mac1, "trust='yes'"), hostdev(mac1, "1", "<vlan><tag id='42'/></vlan>"))
			w.must(step.Prepare, doc)
			delete(k.Links, old.Index)
			vf.Netdev = "" // VFIO has it
			vf.Give(mac1, 42)
			w.must(step.Start, doc)
			require.NotEqual(t, before, vf.String())

			pf, err := k.ByName(ctx, vf.PFNetdev)
			require.NoError(t, err)
			require.NoError(t, k.SetName(ctx, pf.Index, "pf9"))
			for _, v := range k.VFs {
				v.PFNetdev = "pf9"
			}
			k.Add(link.Link{Name: "eth9", MAC: mac1, MTU: 1500})
			vf.Netdev = "eth9"
			if test.taken {
				k.Links[old.Index] = &link.Link{Index: old.Index, Name: "vf1", MAC: "02:00:00:00:00:99"}
			}
			w.must(step.Stopped, doc)
			w.must(step.Release, doc)
			require.Equal(t, before, vf.String(), "its settings are put back")
			require.Equal(t, test.want, vf.Netdev)
			dev, err := k.ByName(ctx, vf.Netdev)
			require.NoError(t, err)
			require.Equal(t, old.MAC, dev.MAC, "its own MAC as well")
			require.NoError(t, k.SetName(ctx, pf.Index, pf.Name))
			if !test.taken {
				require.Equal(t, dump, k.Dump())
			}
			require.Empty(t, w.journals())
		})
	}
}

// A network device that has been there all the time is called what somebody calls it.
func TestRenamedVFStaysRenamed(t *testing.T) {
	w := newVFWorld(t)
	doc := domain(uuidA, vfWords(mac1, "profile='gold'"), direct(mac1, "vf2", "passthrough"))
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	dev, err := w.kernel.ByName(context.Background(), "vf2")
	require.NoError(t, err)
	require.NoError(t, w.kernel.SetName(context.Background(), dev.Index, "mine"))
	w.must(step.Release, doc)
	require.Equal(t, "mine", w.kernel.Function(2).Netdev)
	require.Empty(t, w.journals())
}

func TestPassthroughLife(t *testing.T) {
	w := newVFWorld(t)
	vf := w.kernel.Function(2)
	before, own := w.all(), *vf.MAC
	doc := domain(uuidA, vfWords(mac1, "profile='gold' proto='802.1ad'"), direct(mac1, "vf2", "passthrough"))
	w.must(step.Prepare, doc)
	vf.Give(mac1, 0)
	w.must(step.Start, doc)
	require.Equal(t, "vlan 42 qos 3 802.1ad", "vlan "+vf.VLAN.String())
	require.Equal(t, 100, *vf.MaxRate)
	require.Equal(t, link.LinkEnable, *vf.LinkState)
	vf.Give(own, 0)
	w.must(step.Release, doc)
	require.Equal(t, before, w.all())
}

func TestRefusedAttributeIsAnErrorOrAWarning(t *testing.T) {
	w := newVFWorld(t)
	doc := domain(uuidA, vfWords(mac1, "profile='gold'"), direct(mac1, "vf2", "passthrough"))
	w.kernel.Driver.Refuse = []string{link.AttrLinkState}
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	require.Contains(t, w.log.String(), "warning: ")
	w.must(step.Release, doc)
	before := w.all()
	w.kernel.Driver.Refuse = []string{link.AttrTrust}
	w.must(step.Prepare, doc)
	_, err := w.run(step.Start, doc)
	require.ErrorIs(t, err, link.ErrVFRefused)
	require.Equal(t, `domain "vm a", NIC 52:54:00:00:00:01: VF 2 of ens1f0 (driver fake): set trust to on: refused by the driver`, err.Error())
	w.must(step.Release, doc)
	require.Equal(t, before, w.all())
}

// The first guest's journal was left by a kill, the VF has a new owner: the late
// undoing of the first touches nothing, and the second puts back what was before the
// first.
func TestLateTeardownLeavesTheNextOwnerAlone(t *testing.T) {
	w := newVFWorld(t)
	before := w.all()
	vf := w.kernel.Function(0)
	a := domain(uuidA, vfWords(mac1, "trust='yes' vlan='41'"), direct(mac1, "vf0", "passthrough"))
	b := domain(uuidB, vfWords(mac2, "trust='yes' vlan='42'"), direct(mac2, "vf0", "passthrough"))
	w.must(step.Prepare, a)
	vf.Give(mac1, 0)
	w.must(step.Start, a)
	own := "02:00:00:00:ff:00"
	w.must(step.Prepare, b)
	vf.Give(mac2, 0)
	w.must(step.Start, b)
	running := w.all()
	w.must(step.Release, a)
	require.Equal(t, running, w.all())
	require.Contains(t, w.log.String(), "left VF 0 of ens1f0 alone: it is another guest's now")
	vf.Give(own, 0)
	w.must(step.Release, b)
	require.Equal(t, before, w.all())
}

// vfRuns plays libvirt between prepare and start of a guest in passthrough mode: it saves
// the VF, sets MAC and VLAN, and makes the macvtap.
func (w *world) vfRuns(number, index int, mac string, vlan int) {
	w.t.Helper()
	vf := w.kernel.Function(number)
	lower, err := w.kernel.ByName(context.Background(), vf.Netdev)
	require.NoError(w.t, err)
	file := filepath.Join(w.libvirt, "qemu", fmt.Sprintf("%s_vf%d", vf.PFNetdev, number))
	require.NoError(w.t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(w.t, os.WriteFile(file, fmt.Appendf(nil, `{"adminMac":%q,"vlanTag":%d,"mac":%q}`, *vf.MAC, vf.VLAN.ID, lower.MAC), 0o600))
	vf.VLAN = &link.VFVLAN{ID: vlan, Proto: link.Dot1Q}
	require.NoError(w.t, w.kernel.SetMAC(context.Background(), lower.Index, mac))
	require.NoError(w.t, w.kernel.AddMacvtap(context.Background(), link.Macvtap{Name: fmt.Sprintf("macvtap%d", index), Index: index, Lower: lower.Index, Mode: "passthrough", MAC: mac}))
	require.NoError(w.t, w.kernel.SetUp(context.Background(), lower.Index, true))
	require.NoError(w.t, w.kernel.SetUp(context.Background(), index, true))
}

// vfEnds plays what libvirt does between stopped and release of such a guest, index being
// its macvtap, 0 for one that libvirt has not got to: before version 11 it uses the VF's
// file all the same.
func (w *world) vfEnds(number, index int) {
	w.t.Helper()
	vf := w.kernel.Function(number)
	if index != 0 {
		require.NoError(w.t, w.kernel.Delete(context.Background(), index))
	}
	file := filepath.Join(w.libvirt, "qemu", fmt.Sprintf("%s_vf%d", vf.PFNetdev, number))
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	require.NoError(w.t, os.Remove(file))
	var saved step.SavedConfig
	require.NoError(w.t, json.Unmarshal(text, &saved))
	lower, err := w.kernel.ByName(context.Background(), vf.Netdev)
	require.NoError(w.t, err)
	require.NoError(w.t, w.kernel.SetMAC(context.Background(), lower.Index, saved.MAC))
	vf.VLAN = &link.VFVLAN{ID: *saved.VLAN, Proto: link.Dot1Q}
}

// Only the VFs that the configuration lists are ever chosen; a VF that is named is not
// asked about.
func TestOnlyListedVFsAreChosen(t *testing.T) {
	w := newWorld(t, "[uplink.fast]\ndevice = \"ens1f0\"\nvfs = [\"2-3\"]\n", "ens1f0")
	w.kernel.AddVFs("ens1f0", 4)
	one := func(uuid, mac string) string { return domain(uuid, "", direct(mac, "fast", "passthrough")) }
	require.Contains(t, w.must(step.Migrate, one(uuidA, mac1)), "dev='vf2'")
	require.Contains(t, w.must(step.Migrate, one(uuidB, mac2)), "dev='vf3'", "the first is kept for the other")
	_, err := w.run(step.Migrate, one("cccccccc-0000-4000-8000-000000000003", mac3))
	require.ErrorIs(t, err, plan.ErrNoDevice)
	require.ErrorContains(t, err, "vfs of [uplink.fast] says which may be chosen")
	w.must(step.Prepare, domain("cccccccc-0000-4000-8000-000000000003", "", direct(mac3, "vf0", "passthrough")))
}

// An uplink's name in passthrough mode means one of its VFs. Without the rewriter it would
// be the whole card, the host's own address with it.
func TestUplinkNameInPassthroughIsNotTheWholeCard(t *testing.T) {
	w := newVFWorld(t)
	before := w.all()
	for _, name := range []string{"fast", "enpa"} {
		for _, words := range []string{"", vfWords(mac1, "allmulticast='yes'")} {
			_, err := w.run(step.Prepare, domain(uuidA, words, direct(mac1, name, "passthrough")))
			require.ErrorIs(t, err, plan.ErrNotRewritten, name)
			require.ErrorContains(t, err, "is to be a virtual function of uplink \"fast\"")
		}
	}
	require.Equal(t, before, w.all())
	w.must(step.Prepare, domain(uuidB, "", direct(mac2, "fast", "bridge")))
}

// What the kernel would answer with a bare EBUSY is said before, with the device to use.
func TestDeviceOnWhichNoMacvtapCanStand(t *testing.T) {
	w := newWorld(t, "[uplink.lan]\ndevice = \"nica\"\n", "nica", "bond0")
	w.kernel.Obstacles = map[string][]link.Obstacle{"nica": {{
		Use: link.Use{Kind: link.UseMaster, Evidence: "it is a port of bond0", Device: "bond0"}, Errno: unix.EBUSY, Instead: "bond0", Advice: "use bond0",
	}}}
	_, err := w.run(step.Prepare, domain(uuidA, vfWords(mac1, "allmulticast='yes'"), direct(mac1, "nica", "bridge")))
	require.ErrorIs(t, err, step.ErrNotFree)
	require.ErrorContains(t, err, "it is a port of bond0: use bond0")
	_, err = w.run(step.Prepare, domain(uuidA, vfWords(mac1, "own='hook' uplink='lan'"), owned(mac1, "ldt1")))
	require.ErrorContains(t, err, "use bond0")
	w.must(step.Prepare, domain(uuidB, "", direct(mac2, "nica", "bridge"))) // libvirt's to try
	d, err := xmlfilter.Parse([]byte(domain(uuidB, "", direct(mac2, "nica", "bridge"))))
	require.NoError(t, err)
	host, err := Survey(t.Context(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, Explain(&out, "", d, w.cfg, host))
	require.Contains(t, out.String(), "on its device: it is a port of bond0: use bond0")
}

// What another definition names is not chosen for this one: both could not run.
func TestRewriteLeavesWhatOtherDefinitionsName(t *testing.T) {
	w := newVFWorld(t)
	d, err := xmlfilter.Parse([]byte(domain(uuidA, "", direct(mac1, "fast", "passthrough"))))
	require.NoError(t, err)
	rec := w.hook.records()
	rec.Named = []string{"vf0", "0000:03:10.1"}
	host, err := Survey(t.Context(), w.kernel, w.cfg, rec, d)
	require.NoError(t, err)
	changes, err := plan.Rewrite(d, w.cfg, host)
	require.NoError(t, err)
	require.Equal(t, "vf2", changes[0].SourceDev)
}

// A VF in the host's own use is never chosen, and refused to a managed guest that names it.
func TestVFInUseByTheHost(t *testing.T) {
	w := newVFWorld(t)
	w.kernel.Host = map[string][]link.Use{
		"vf0": {{Kind: link.UseAddress, Evidence: "this host has 192.0.2.7/24 on it"}},
		"vf1": {{Kind: link.UseUnknown, Evidence: "whether it is used cannot be told"}},
	}
	require.Contains(t, w.must(step.Migrate, domain(uuidA, "", direct(mac1, "fast", "passthrough"))), "dev='vf2'")
	_, err := w.run(step.Prepare, domain(uuidB, vfWords(mac2, "trust='yes'"), direct(mac2, "vf0", "passthrough")))
	require.ErrorIs(t, err, step.ErrNotFree)
	require.ErrorContains(t, err, "VF 0 of ens1f0 (vf0: this host has 192.0.2.7/24 on it)")
	w.must(step.Prepare, domain(uuidB, vfWords(mac2, "trust='yes'"), direct(mac2, "vf1", "passthrough")))
}

// A start that is refused leaves the guest that has the VF as it is, whatever either of
// them is to us, and libvirt before 11 with nothing to undo; and that guest's own end is as
// it would have been.
func TestRefusedStartTouchesNothing(t *testing.T) {
	for name, words := range map[string][2]string{
		"plain":         {"", ""},
		"managed":       {vfWords(mac1, "trust='yes'"), vfWords(mac2, "trust='no'")},
		"plain refused": {vfWords(mac1, "trust='yes'"), ""},
		"plain runs":    {"", vfWords(mac2, "trust='yes'")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			vlan := "<vlan><tag id='42'/></vlan>"
			a := domain(uuidA, words[0], direct(mac1, "vf0", "passthrough", vlan))
			b := domain(uuidB, words[1], direct(mac2, "vf0", "passthrough", vlan))
			before := w.kernel.DumpVFs()
			w.must(step.Prepare, a)
			w.vfRuns(0, 90, mac1, 42)
			w.must(step.Start, a)
			running := w.all()
			for range 2 { // and it tries again
				_, err := w.run(step.Prepare, b)
				require.ErrorIs(t, err, step.ErrInUse)
				require.ErrorContains(t, err, `VF 0 of ens1f0 is domain "vm a"'s (vf0: macvtap90 stands on it)`)
				require.Equal(t, []string{uuidA}, w.journals(), "a start that is refused writes nothing")
				w.must(step.Stopped, b)
				w.vfEnds(0, 0)
				require.Equal(t, running, w.all())
				w.must(step.Release, b)
				require.Equal(t, running, w.all())
			}
			w.ends(a, 0, 90)
			require.Equal(t, before, w.kernel.DumpVFs())
			require.Empty(t, w.journals())
		})
	}
}

// A's NIC is unplugged, for which libvirt runs no hook; B gets the VF; A ends.
func TestUnpluggedOwnerEndsLater(t *testing.T) {
	for name, words := range map[string][2]string{
		"plain":   {"", ""},
		"managed": {vfWords(mac1, "trust='yes'"), vfWords(mac2, "maxrate='100'")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			vlan := "<vlan><tag id='42'/></vlan>"
			a := domain(uuidA, words[0], direct(mac1, "vf0", "passthrough", vlan))
			b := domain(uuidB, words[1], direct(mac2, "vf0", "passthrough", vlan))
			before := w.kernel.DumpVFs()
			w.must(step.Prepare, a)
			w.vfRuns(0, 90, mac1, 42)
			w.must(step.Start, a)
			w.vfEnds(0, 90)
			w.must(step.Prepare, b)
			require.False(t, *w.kernel.Function(0).Trust, "what A had is not B's")
			w.vfRuns(0, 91, mac2, 42)
			w.must(step.Start, b)
			running := w.all()
			w.must(step.Stopped, a)
			w.must(step.Release, a)
			require.Equal(t, running, w.all())
			w.ends(b, 0, 91)
			require.Equal(t, before, w.kernel.DumpVFs())
			require.Empty(t, w.journals())
		})
	}
}

// The hook comes, or its journal goes, while a guest runs: what the guest has is not taken
// for the VF's own.
func TestReconnectNeverLearnsABaseline(t *testing.T) {
	for name, words := range map[string]string{"plain": "", "managed": vfWords(mac1, "spoofchk='yes'")} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			before := w.kernel.DumpVFs()
			doc := domain(uuidA, words, direct(mac1, "vf0", "passthrough", "<vlan><tag id='42'/></vlan>"))
			w.vfRuns(0, 90, mac1, 42)
			w.must(step.Reconnect, doc)
			require.Equal(t, []string{uuidA}, w.journals(), "it is claimed")
			w.ends(doc, 0, 90)
			require.Equal(t, before, w.kernel.DumpVFs())
			require.Empty(t, w.journals())
		})
	}
}

// Some drivers report a zero MAC and take none: the VF gets its own, as libvirt would
// give it.
func TestDriverThatTakesNoZeroMAC(t *testing.T) {
	w := newVFWorld(t)
	vf, zero := w.kernel.Function(2), step.NoMAC
	own := *vf.MAC
	vf.MAC, w.kernel.Driver.NoZeroMAC = &zero, true
	doc := domain(uuidA, vfWords(mac1, "trust='yes' vlan='42'"), direct(mac1, "vf2", "passthrough"))
	w.must(step.Prepare, doc)
	vf.Give(mac1, 0)
	w.must(step.Start, doc)
	w.must(step.Release, doc)
	require.Equal(t, own, *vf.MAC)
	require.False(t, *vf.Trust)
	require.Contains(t, w.log.String(), "the driver takes no MAC back")
	require.Empty(t, w.journals())
}

// The PF has given the VF a MAC and does not trust it, so that the VF refuses the guest's:
// it is taken away while the guest runs.
func TestHookOwnedOnVFWithFixedMAC(t *testing.T) {
	w := newVFWorld(t)
	vf, admin := w.kernel.Function(2), "02:aa:00:00:00:01"
	vf.MAC, vf.Fixed = &admin, true
	before := w.all()
	nic := "<interface type='ethernet'><mac address='" + mac1 + "'/><target dev='ldt1' managed='no'/></interface>"
	doc := domain(uuidA, vfWords(mac1, "own='hook' mode='passthrough' dev='vf2' vlan='42'"), nic)
	w.must(step.Prepare, doc)
	tap, err := w.kernel.ByName(context.Background(), "ldt1")
	require.NoError(t, err)
	require.Equal(t, mac1, tap.MAC)
	require.Contains(t, w.log.String(), "for the guest's")
	require.Equal(t, mac1, *vf.MAC)
	w.must(step.Stopped, doc)
	w.must(step.Release, doc)
	require.Equal(t, before, w.all())
	require.True(t, vf.Fixed)
	require.Empty(t, w.journals())
}

func TestHookOwnedOnVFThatTakesNoMACWhileUp(t *testing.T) {
	w := newVFWorld(t)
	dev, err := w.kernel.ByName(context.Background(), "vf2")
	require.NoError(t, err)
	require.NoError(t, w.kernel.SetUp(context.Background(), dev.Index, true))
	w.kernel.Driver.NotWhileUp = true
	before := w.all()
	nic := "<interface type='ethernet'><mac address='" + mac1 + "'/><target dev='ldt1' managed='no'/></interface>"
	doc := domain(uuidA, vfWords(mac1, "own='hook' mode='passthrough' dev='vf2' vlan='42'"), nic)
	w.must(step.Prepare, doc)
	require.Equal(t, mac1, *w.kernel.Function(2).MAC)
	dev, err = w.kernel.ByName(context.Background(), "vf2")
	require.NoError(t, err)
	require.True(t, dev.Up)
	w.must(step.Stopped, doc)
	w.must(step.Release, doc)
	require.Equal(t, before, w.all())
}

func TestVFsThatAreGone(t *testing.T) {
	w := newVFWorld(t)
	doc := domain(uuidA, vfWords(mac1, "trust='yes'"), direct(mac1, "vf3", "passthrough"))
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	w.kernel.VFs = w.kernel.VFs[:1] // echo 1 >sriov_numvfs
	w.must(step.Release, doc)
	require.Empty(t, w.journals())
	require.Contains(t, w.log.String(), "VF 3 of ens1f0 is gone")
}

func TestWhatSomebodyElseHasSetStays(t *testing.T) {
	w := newVFWorld(t)
	doc := domain(uuidA, vfWords(mac1, "trust='yes' maxrate='100' vlan='42'"), direct(mac1, "vf3", "passthrough"))
	w.must(step.Prepare, doc)
	w.must(step.Start, doc)
	fifty, vf := 50, w.kernel.Function(3)
	vf.VLAN, vf.SpoofChk = &link.VFVLAN{ID: 9, Proto: link.Dot1Q}, new(bool)
	vf.MaxRate = &fifty
	w.must(step.Release, doc)
	require.Equal(t, 9, vf.VLAN.ID)
	require.False(t, *vf.SpoofChk)
	require.False(t, *vf.Trust)
	require.Contains(t, w.log.String(), "left vlan of VF 3 of ens1f0 at 9: somebody else has set it")
}

// The journal was lost, or the NIC was libvirt's pool's to choose: what libvirt has
// saved is taken for what was before.
func TestWhatLibvirtSavedIsPutBack(t *testing.T) {
	w := newVFWorld(t)
	require.NoError(t, os.MkdirAll(filepath.Join(w.libvirt, "qemu"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(w.libvirt, "qemu/ens1f0_vf1"),
		[]byte(`{"adminMac": "02:aa:00:00:00:01", "vlanTag": 7, "mac": "02:00:00:00:ff:01"}`), 0o600))
	vf := w.kernel.Function(1)
	admin := "02:aa:00:00:00:01"
	vf.MAC, vf.VLAN = &admin, &link.VFVLAN{ID: 7, Proto: link.Dot1Q}
	before := w.all()
	pool := "<interface type='network'><mac address='" + mac1 + "'/><source network='pool'/></interface>"
	words := vfWords(mac1, "trust='yes'")
	w.must(step.Prepare, domain(uuidA, words, pool))
	require.Empty(t, w.journals())
	vf.Give(mac1, 0)
	w.must(step.Start, domain(uuidA, words, "<interface type='direct'><mac address='"+mac1+"'/><source network='pool' dev='vf1' mode='passthrough'/></interface>"))
	require.True(t, *vf.Trust)
	w.must(step.Release, domain(uuidA, words, pool))
	require.Equal(t, before, w.all())
}

func TestPoolThatResolvesToNoVF(t *testing.T) {
	w := newVFWorld(t)
	_, err := w.run(step.Start, domain(uuidA, vfWords(mac1, "trust='yes'"), direct(mac1, "ens1f0", "bridge")))
	require.ErrorIs(t, err, step.ErrUnsuitable)
}

// everyVF is one domain with each kind of step for VFs.
func everyVF() string {
	return domain(uuidA,
		vfWords(mac1, "trust='yes' vlan='42' qos='3' maxrate='10'")+vfWords(mac2, "spoofchk='no' linkstate='disable'")+
			vfWords(mac3, "own='hook' mode='passthrough' uplink='fast' vlan='43' portprofile='gold'"),
		direct(mac1, "vf0", "passthrough")+hostdev(mac2, "1", "")+owned(mac3, "ldt1"))
}

// A process killed at any change of the kernel leaves what gc, or the next start, or
// libvirt's release puts back.
func TestVFHookKilledAnywhereIsUndone(t *testing.T) {
	for _, op := range []step.Op{step.Prepare, step.Start, step.Stopped, step.Release} {
		for _, after := range []bool{false, true} {
			for n, died := 1, true; died; n++ {
				for _, cure := range []string{"gc", "release", "restart"} {
					w := newVFWorld(t)
					before := w.all()
					for _, earlier := range []step.Op{step.Prepare, step.Start, step.Stopped, step.Release} {
						if earlier == op {
							break
						}
						w.must(earlier, everyVF())
						if earlier == step.Prepare {
							w.kernel.Function(0).Give(mac1, 0)
							w.kernel.Function(1).Give(mac2, 0)
						}
					}
					if died = w.kill(op, everyVF(), n, after); !died {
						break
					}
					switch cure {
					case "gc":
						w.gc(false)
					case "release":
						w.must(step.Release, everyVF())
					case "restart":
						w.must(step.Prepare, everyVF())
						w.must(step.Release, everyVF())
					}
					require.Equal(t, before, w.all(), "%s killed at %d (after=%t), then %s", op, n, after, cure)
					require.Empty(t, w.journals())
				}
			}
		}
	}
}

func TestVFHookFailingAnywhereIsUndone(t *testing.T) {
	for _, op := range []step.Op{step.Prepare, step.Start} {
		for n := 1; ; n++ {
			w := newVFWorld(t)
			before := w.all()
			if op == step.Start {
				w.must(step.Prepare, everyVF())
				w.calls = 0
			}
			boom := errors.New("EIO")
			w.fail = func(call int, _ string) error {
				if call == n {
					return boom
				}
				return nil
			}
			_, err := w.run(op, everyVF())
			if err == nil {
				require.Greater(t, n, 5)
				break
			}
			require.ErrorIs(t, err, boom)
			w.must(step.Release, everyVF()) // as libvirt does after a failed start
			require.Equal(t, before, w.all(), "%s, call %d", op, n)
			require.Empty(t, w.journals())
		}
	}
}

func TestVFPools(t *testing.T) {
	w := newVFWorld(t)
	doc := domain(uuidA, "", direct(mac1, "fast", "passthrough")+direct(mac2, "enpa", "passthrough"))
	out := w.must(step.Migrate, doc)
	require.Contains(t, out, "dev='vf0'")
	require.Contains(t, out, "dev='vf1'", "two NICs get two")
	require.Contains(t, out, "uplink='fast'")
	require.Empty(t, w.must(step.Restore, out), "what was chosen stays")

	// The guest's memory is on node 1, where the odd VFs are.
	near := func(doc string) string {
		return string(bytes.Replace([]byte(doc), []byte("<devices>"), []byte("<numatune><memory nodeset='1'/></numatune><devices>"), 1))
	}
	one := domain(uuidA, "", direct(mac1, "fast", "passthrough"))
	require.Contains(t, w.must(step.Migrate, near(one)), "dev='vf1'")

	// Another domain's journal holds it, a macvtap stands on it, VFIO has it.
	w = newVFWorld(t)
	w.must(step.Prepare, domain(uuidB, "", direct(mac2, "vf1", "passthrough")))
	require.Contains(t, w.must(step.Migrate, near(one)), "dev='vf3'")
	lower, _ := w.kernel.ByName(context.Background(), "vf3")
	require.NoError(t, w.kernel.AddMacvtap(context.Background(), link.Macvtap{Name: "x", Index: 91, Lower: lower.Index, Mode: "passthrough", MAC: mac3}))
	w.kernel.Function(0).Netdev = ""
	require.Contains(t, w.must(step.Migrate, near(one)), "dev='vf2'")
	w.kernel.Function(2).Netdev = ""
	_, err := w.run(step.Migrate, one)
	require.ErrorIs(t, err, plan.ErrNoDevice)
	require.Contains(t, err.Error(), `no virtual function of uplink "fast" (ens1f0) is free`)

	// The device's own name means the device.
	require.Empty(t, w.must(step.Migrate, domain(uuidA, "", direct(mac1, "ens1f0", "passthrough"))))
}

func TestHookOwnedVFWithPortProfile(t *testing.T) {
	w := newVFWorld(t)
	before := w.all()
	doc := domain(uuidA, vfWords(mac1, "own='hook' mode='passthrough' uplink='fast' portprofile='gold' vlan='42'"), owned(mac1, "ldt1"))
	w.must(step.Prepare, doc)
	l, err := w.kernel.ByName(context.Background(), "ldt1")
	require.NoError(t, err)
	vf0, _ := w.kernel.ByName(context.Background(), "vf0")
	require.Equal(t, vf0.Index, l.Parent)
	require.Equal(t, map[string]string{"ens1f0/0": "gold"}, w.kernel.Profiles)
	require.Equal(t, 42, w.kernel.Function(0).VLAN.ID)
	w.must(step.Start, doc)
	running := w.all()
	w.must(step.Reconnect, doc)
	require.Equal(t, running, w.all(), "a running guest keeps its VF")
	w.must(step.Stopped, doc)
	require.Empty(t, w.kernel.Profiles)
	w.must(step.Release, doc)
	require.Equal(t, before, w.all())
}

func TestWholeDeviceWithPortProfile(t *testing.T) {
	w := newVFWorld(t)
	before := w.all()
	doc := domain(uuidA, vfWords(mac1, "own='hook' mode='passthrough' dev='ens1f1' portprofile='gold'"), owned(mac1, "ldt1"))
	w.must(step.Prepare, doc)
	require.Equal(t, map[string]string{"ens1f1/-1": "gold"}, w.kernel.Profiles)
	w.must(step.Release, doc) // without stopped
	require.Equal(t, before, w.all())
}

// libvirt's 802.1Qbh becomes ours where the configuration says so.
func TestRewriteTakesVirtualPortOver(t *testing.T) {
	w := newVFWorld(t)
	for _, v := range w.kernel.VFs {
		v.PFNetdev = "ens1f1"
	}
	port := "<virtualport type='802.1Qbh'><parameters profileid='gold'/></virtualport>"
	doc := domain(uuidA, "", direct(mac1, "ucs", "passthrough", port)+direct(mac2, "vf2", "passthrough", port)+hostdev(mac3, "1", port))
	// The hostdev must have words for us to look at it.
	doc = string(bytes.Replace([]byte(doc), []byte("<devices>"),
		[]byte("<metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='"+mac3+"' trust='no'/></ld:nics></metadata><devices>"), 1))
	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(t, err)
	host, err := Survey(context.Background(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(t, err)
	changes, err := plan.Rewrite(d, w.cfg, host)
	require.NoError(t, err)
	require.Len(t, changes, 3)
	for _, c := range changes {
		require.Equal(t, "gold", c.Settings[settings.NamePortProfile])
	}
	out, err := d.Rewrite(changes)
	require.NoError(t, err)
	w.must(step.Prepare, string(out))
	w.must(step.Start, string(out))
	require.Equal(t, map[string]string{"ens1f1/0": "gold", "ens1f1/1": "gold", "ens1f1/2": "gold"}, w.kernel.Profiles)
	w.must(step.Stopped, string(out))
	w.must(step.Release, string(out))
	require.Empty(t, w.kernel.Profiles)
	again, err := xmlfilter.Parse(out)
	require.NoError(t, err)
	back, err := again.Undo()
	require.NoError(t, err)
	require.Equal(t, doc, string(back))
}

func TestVFWordsThatDoNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		words, nic string
		is         error
	}{
		"no VF":             {"trust='yes'", direct(mac1, "ens1f0", "bridge"), step.ErrUnsuitable},
		"qos without VLAN":  {"qos='3'", direct(mac1, "vf0", "passthrough"), step.ErrUnsuitable},
		"VLAN not allowed":  {"vlan='50'", direct(mac1, "vf0", "passthrough"), plan.ErrNotAllowed},
		"two VLANs":         {"vlan='42'", hostdev(mac1, "1", "<vlan><tag id='43'/></vlan>"), step.ErrUnsuitable},
		"min over max":      {"minrate='2' maxrate='1'", hostdev(mac1, "1", ""), step.ErrUnsuitable},
		"no such function":  {"trust='yes'", hostdev(mac1, "7", ""), plan.ErrNoDevice},
		"owned, no VF":      {"own='hook' mode='passthrough' dev='ens1f1' trust='yes'", owned(mac1, "ldt1"), step.ErrUnsuitable},
		"owned, in bridge":  {"own='hook' mode='bridge' dev='ens1f1' portprofile='x'", owned(mac1, "ldt1"), step.ErrUnsuitable},
		"another's VF":      {"uplink='ucs'", direct(mac1, "vf0", "passthrough"), step.ErrUnsuitable},
		"to be chosen":      {"uplink='fast' trust='yes' mode='passthrough'", direct(mac1, "whatever", "passthrough"), plan.ErrNotRewritten},
		"another device":    {"dev='ens1f1'", direct(mac1, "ens1f0", "bridge"), plan.ErrNotRewritten},
		"another function":  {"uplink='ucs'", hostdev(mac1, "1", ""), step.ErrUnsuitable},
		"a mode besides VF": {"mode='bridge'", direct(mac1, "vf0", "passthrough"), plan.ErrNotRewritten},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVFWorld(t)
			before := w.all()
			_, err := w.run(step.Prepare, domain(uuidA, vfWords(mac1, c.words), c.nic))
			require.ErrorIs(t, err, c.is)
			t.Log(err)
			require.Equal(t, before, w.all())
			require.Empty(t, w.journals())
		})
	}
}

func TestExplainVFsGolden(t *testing.T) {
	w := newVFWorld(t)
	d, err := xmlfilter.Parse([]byte(everyVF()))
	require.NoError(t, err)
	host, err := Survey(context.Background(), w.kernel, w.cfg, w.hook.records(), d)
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, Explain(&out, "", d, w.cfg, host))
	path := filepath.Join("testdata", "every-vf.golden")
	if *update {
		require.NoError(t, os.WriteFile(path, out.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), out.String())
	require.Zero(t, w.calls)
}

func TestConfigOfVFs(t *testing.T) {
	for _, bad := range []string{
		"[profile.x]\nqos = 9", "[profile.x]\noptional = ['speed']", "[profile.x]\ntrust = 'on'", "[uplink.u]\ndevice = 'a'\nassociate = 'me'",
	} {
		c, err := config.Parse("x", []byte(bad))
		require.NoError(t, err)
		require.Len(t, c.Faults(), 1, bad)
	}
}

// Whichever call of release fails, gc puts the VF back.
func TestVFGetsItsMACBackByWhoeverCan(t *testing.T) {
	for n := 1; n < 12; n++ {
		w := newVFWorld(t)
		before := w.all()
		doc := domain(uuidA, vfWords(mac1, "own='hook' mode='passthrough' dev='vf2'"), owned(mac1, "ldt1"))
		w.must(step.Prepare, doc)
		w.must(step.Start, doc)
		w.must(step.Stopped, doc)
		w.calls = 0
		what := ""
		w.fail = func(call int, op string) error {
			if call == n {
				what = op
				return errors.New("transient")
			}
			return nil
		}
		_, err := w.run(step.Release, doc)
		w.fail = nil
		w.gc(false)
		w.gc(false)
		require.Equal(t, before, w.all(), "call %d (%s) failed, release said %v", n, what, err)
	}
}

// The VF's network device has the guest's MAC already, and its PF knows nothing of that.
func TestGuestMACThatOnlyTheDeviceHas(t *testing.T) {
	for _, pfs := range []string{"00:00:00:00:00:00", "02:aa:00:00:00:01"} {
		w := newVFWorld(t)
		vf := w.kernel.Function(2)
		vf.MAC, vf.Fixed = &pfs, pfs[:4] == "02:a"
		l, err := w.kernel.ByName(t.Context(), "vf2")
		require.NoError(t, err)
		w.kernel.Links[l.Index].MAC = mac1
		doc := domain(uuidA, vfWords(mac1, "own='hook' mode='passthrough' dev='vf2'"), owned(mac1, "ldt1"))
		w.must(step.Prepare, doc)
		w.must(step.Start, doc)
		require.Equal(t, mac1, *vf.MAC)
	}
}
