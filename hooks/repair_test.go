package hooks

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/xmlfilter"
)

// repaired is what rewrite makes of a domain where libvirt knows others, a line for each thing
// changed, or why it does nothing.
func (w *world) repaired(doc string, said map[string]string, others ...string) (string, []string, error) {
	w.t.Helper()
	d, err := xmlfilter.Parse([]byte(doc))
	require.NoError(w.t, err)
	rec := w.hook.records()
	for _, o := range others {
		other, err := xmlfilter.Parse([]byte(o))
		require.NoError(w.t, err)
		rec.Others = append(rec.Others, other)
	}
	uuids, err := rec.Journal.Domains()
	require.NoError(w.t, err)
	to, why, err := plan.Repair(d, w.cfg, plan.Known{Others: rec.Others, UUIDs: uuids, Said: said})
	if err != nil {
		return "", nil, err
	}
	out, err := d.Reassign(to)
	require.NoError(w.t, err)
	d, err = xmlfilter.Parse(out)
	require.NoError(w.t, err)
	host, err := Survey(w.t.Context(), w.kernel, w.cfg, rec, d)
	require.NoError(w.t, err)
	changes, err := plan.Rewrite(d, w.cfg, host)
	if err != nil {
		return "", nil, err
	}
	out, err = d.Rewrite(changes)
	require.NoError(w.t, err)
	return string(out), append(why, ExplainChanges(d, changes)...), nil
}

// original is a guest with a hook-owned NIC and others in a bridge, as rewrite leaves it.
func (w *world) original() string {
	w.t.Helper()
	doc, err := w.rewritten(domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' dev='nica' mode='bridge'/><ld:nic mac='"+mac2+"' isolated='yes'/><ld:nic mac='"+mac3+"' vlan='10'/>",
		direct(mac1, "nica", "bridge")+bridged(mac2, "br0", "")+bridged(mac3, "br0", "")))
	require.NoError(w.t, err)
	return doc
}

// cloned is what virt-clone makes of a domain: another name and UUID, other MACs. It leaves the
// metadata as it is, and what <target> says, but for names of libvirt's.
func cloned(doc string) string {
	doc = strings.NewReplacer("<name>vm a", "<name>vm b", uuidA, uuidB).Replace(doc)
	head, devices, _ := strings.Cut(doc, "<devices>")
	return head + "<devices>" + strings.ReplaceAll(devices, "52:54:00:00:00:", "52:54:00:00:99:")
}

func macB(n int) string { return fmt.Sprintf("52:54:00:00:99:%02x", n) }

var targetIn = regexp.MustCompile(`<target dev='(ldt[0-9a-f]{10})'`)

func newCloneWorld(t *testing.T) *world {
	w := newWorld(t, tenant, "nica")
	withBridges(w.kernel)
	return w
}

// Settings by alias stay with a clone's NIC. With a device of its own it gets identifiers of its own,
// of the port in Open vSwitch and of the association; who has only another MAC keeps them.
func TestClonesPortHasItsOwnIdentifiers(t *testing.T) {
	const vsi = "<virtualport type='802.1Qbg'><parameters managerid='11' typeid='1' typeidversion='2' instanceid='" + interfaceID + "'/></virtualport>"
	for name, nic := range map[string]string{
		"Open vSwitch": onSwitch(mac1, "<alias name='ua-a'/>"),
		"802.1Qbg":     direct(mac1, "nica", "vepa", vsi+"<alias name='ua-a'/>"),
		"none":         direct(mac1, "nica", "vepa", "<alias name='ua-a'/>"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newCloneWorld(t)
			w.withSwitch("ovsbr0")
			original, err := w.rewritten(domain(uuidA, "<ld:nic alias='ua-a' own='hook' vlan='10'/>", nic))
			require.NoError(t, err)
			clone, said, err := w.repaired(cloned(original), nil, original)
			require.NoError(t, err)
			require.NotContains(t, clone, interfaceID)
			require.Equal(t, name != "none", strings.Contains(strings.Join(said, "\n"), "its port gets an identifier of its own"))
			again, _, err := w.repaired(clone, nil, original)
			require.NoError(t, err)
			require.Equal(t, clone, again)
			same, _, err := w.repaired(original, nil, clone, cloned(original))
			require.NoError(t, err)
			require.Equal(t, original, same)
			edited, _, err := w.repaired(strings.ReplaceAll(original, mac1, macB(1)), nil)
			require.NoError(t, err)
			require.Equal(t, name != "none", strings.Contains(edited, interfaceID))
		})
	}
}

// Whatever is known of the original, a clone gets its settings at the right places and a device
// of its own, and runs beside it.
func TestCloneIsRepaired(t *testing.T) {
	for name, c := range map[string]struct {
		change func(string) string
		// What is known: libvirt's definition of the original, its journal, or what is said.
		defined, runs bool
		said          map[string]string
	}{
		"virt-clone":                {defined: true},
		"virt-clone, original runs": {defined: true, runs: true},
		"<target> was dropped":      {defined: true, change: func(s string) string { return targetIn.ReplaceAllString(s, "<x y='$1'") }},
		"libvirt's own attribute order": {defined: true, change: func(s string) string {
			return strings.ReplaceAll(s, "own='hook' dev='nica'", "dev=\"nica\" own=\"hook\"")
		}},
		"original was renamed":       {defined: true, change: func(s string) string { return strings.ReplaceAll(s, "vm b", "vm c") }},
		"said":                       {said: map[string]string{mac2: macB(2), mac3: macB(3)}},
		"said, original runs":        {runs: true, said: map[string]string{mac2: macB(2), mac3: macB(3)}},
		"all is said, original runs": {runs: true, said: map[string]string{mac1: macB(1), mac2: macB(2), mac3: macB(3)}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCloneWorld(t)
			original := w.original()
			clone := cloned(original)
			if c.change != nil {
				clone = c.change(clone)
			}
			var others []string
			if c.defined {
				others = []string{original, domain(uuidC, "", bridged(mac4, "br0", ""))}
			}
			if c.runs {
				w.must(step.Prepare, original)
			}
			_, err := w.run(step.Prepare, clone)
			require.Error(t, err)

			after, notes, err := w.repaired(clone, c.said, others...)
			require.NoError(t, err)
			require.Contains(t, notes[0], "NIC "+macB(1)+": it gets the settings of "+mac1)
			d, err := xmlfilter.Parse([]byte(after))
			require.NoError(t, err)
			require.Empty(t, d.Stray)
			require.Equal(t, "hook", d.NICs[0].Settings.Own)
			require.True(t, *d.NICs[1].Settings.Isolated)
			require.Equal(t, 10, d.NICs[2].Settings.VLAN)
			require.NotEqual(t, targetIn.FindStringSubmatch(original)[1], d.NICs[0].Target)
			require.Equal(t, "no", d.NICs[0].Managed)

			again, notes, err := w.repaired(after, nil, others...)
			require.NoError(t, err)
			require.Empty(t, notes)
			require.Equal(t, after, again, "rewrite twice is rewrite once")

			if !c.runs {
				w.must(step.Prepare, original)
			}
			w.must(step.Prepare, after)
			require.True(t, w.has(d.NICs[0].Target))
			for _, doc := range []string{original, after} {
				w.must(step.Release, doc)
			}

			undone, err := d.Undo()
			require.NoError(t, err)
			require.NotContains(t, string(undone), "<target dev='ldt")
			require.Contains(t, string(undone), "<source dev='nica'")
		})
	}
}

// Of what is not clear nothing is guessed: the line names the candidates and what to say.
func TestRepairDoesNotGuess(t *testing.T) {
	isolated := "<ld:nic mac='" + mac1 + "' isolated='yes'/>"
	two := bridged(mac3, "br0", "") + bridged(mac4, "br0", "")
	for name, c := range map[string]struct {
		doc    string
		others []string
		want   string
	}{
		"nothing is known": {domain(uuidB, isolated, two), nil,
			"NIC " + mac3 + ": settings in <metadata> belong to no NIC: those of " + mac1 + " (isolated='yes') may be meant for NIC " + mac3 + " or NIC " + mac4 +
				"; say which: libvirt-direct rewrite --domain 'vm b' --settings " + mac1 + "=" + mac3 + ", or --settings " + mac1 + "= to drop them"},
		"one NIC, and nothing says that it is a clone": {domain(uuidB, isolated, bridged(mac3, "br0", "")), nil, "may be meant for NIC " + mac3 + "; say"},
		"the original has one NIC less": {domain(uuidB, isolated, two), []string{domain(uuidA, isolated, bridged(mac1, "br0", ""))},
			"may be meant for NIC " + mac3 + " or NIC " + mac4},
		"two originals that disagree": {domain(uuidB, isolated, two), []string{
			domain(uuidA, isolated, bridged(mac1, "br0", "")+bridged(mac2, "br0", "")),
			domain(uuidC, isolated, bridged(mac2, "br0", "")+bridged(mac1, "br0", "")),
		}, `domains "vm a" and "vm c" both have ` + mac1},
		"the original's NICs are in another order since": {domain(uuidB, isolated, inSlot(bridged(mac3, "br0", ""), 1)+inSlot(bridged(mac4, "br0", ""), 2)), []string{
			domain(uuidA, isolated, inSlot(bridged(mac2, "br0", ""), 2)+inSlot(bridged(mac1, "br0", ""), 1)),
		}, "may be meant for NIC " + mac3 + " or NIC " + mac4},
		"two settings, one NIC": {domain(uuidB, isolated+"<ld:nic mac='"+mac2+"' vlan='7'/>", bridged(mac3, "br0", "")),
			[]string{domain(uuidA, isolated, bridged(mac1, "br0", "")+bridged(mac2, "br0", ""))}, "may be meant for NIC " + mac3},
		"a device of the hook's without settings": {domain(uuidB, "", owned(mac3, hooksName)), nil, "and it has none; add its <nic> to <metadata>"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCloneWorld(t)
			_, _, err := w.repaired(c.doc, nil, c.others...)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

// A logical port of OVN is one guest's: the switch would give it to whichever started last.
func TestClonesLogicalPortIsItsOwn(t *testing.T) {
	w := newCloneWorld(t)
	settings := func(mac, port string) string {
		return "<ld:nic mac='" + mac + "' ifaceid='" + port + "' isolated='yes'/>"
	}
	original := domain(uuidA, settings(mac1, "ls0-web"), onSwitch(mac1))
	_, _, err := w.repaired(domain(uuidB, settings(mac1, "ls0-web"), onSwitch(mac2)), nil, original)
	require.ErrorContains(t, err, "NIC "+mac2+": settings in <metadata> belong to no NIC: those of "+mac1+
		" say ifaceid='ls0-web', which is a logical port of domain \"vm a\"; name this domain's own there: virsh edit 'vm b'")
	after, _, err := w.repaired(domain(uuidB, settings(mac1, "ls0-web2"), onSwitch(mac2)), nil, original)
	require.NoError(t, err)
	require.Contains(t, after, settings(mac2, "ls0-web2"))
}

// inSlot is a NIC with the address that libvirt gives it in the guest.
func inSlot(nic string, slot int) string {
	return strings.Replace(nic, "</interface>", "<address type='pci' domain='0x0000' bus='0x0"+itoa(slot)+"' slot='0x00' function='0x0'/></interface>", 1)
}

// A NIC whose MAC somebody has changed is known by the name that its device has.
func TestChangedMACIsRepaired(t *testing.T) {
	w := newCloneWorld(t)
	doc := w.original()
	head, devices, _ := strings.Cut(doc, "<devices>")
	changed := head + "<devices>" + strings.Replace(devices, mac1, mac4, 1)
	after, notes, err := w.repaired(changed, nil)
	require.NoError(t, err)
	require.Contains(t, notes[0], "NIC "+mac4+": it gets the settings of "+mac1+", for which <target dev='ldt")
	require.Contains(t, after, "<ld:nic mac='"+mac4+"' own='hook'")
	w.must(step.Prepare, after)
}

// The original's XML under another name and UUID, with the same MACs: of a snapshot, or of an image
// with its metadata.
func TestSameMACsUnderAnotherUUID(t *testing.T) {
	w := newCloneWorld(t)
	original := w.original()
	clone := strings.NewReplacer("<name>vm a", "<name>vm b", uuidA, uuidB).Replace(original)
	w.must(step.Prepare, original)
	_, err := w.run(step.Prepare, clone)
	require.ErrorContains(t, err, `was made for domain "vm a"; run: libvirt-direct rewrite --domain 'vm b'`)
	for range 2 {
		clone, _, err = w.repaired(clone, nil, original)
		require.NoError(t, err)
	}
	require.NotContains(t, clone, targetIn.FindString(original))
	w.must(step.Prepare, clone)
	w.must(step.Release, original)
	w.must(step.Release, clone)
}

// A domain that was only renamed has nothing to repair.
func TestRenamedDomainIsItself(t *testing.T) {
	w := newCloneWorld(t)
	original := w.original()
	renamed := strings.ReplaceAll(original, "vm a", "vm z")
	after, notes, err := w.repaired(renamed, nil)
	require.NoError(t, err)
	require.Empty(t, notes)
	require.Equal(t, renamed, after)
}

// A name that somebody has chosen stays his own, and not the clone's.
func TestChosenNameIsOneDomains(t *testing.T) {
	w := newCloneWorld(t)
	words := "<ld:nic mac='" + mac1 + "' own='hook' dev='nica' mode='bridge'/>"
	original := domain(uuidA, words, owned(mac1, usersName))
	after, _, err := w.repaired(original, nil, domain(uuidB, "", bridged(mac2, "br0", "")))
	require.NoError(t, err)
	require.Equal(t, original, after)
	clone, _, err := w.repaired(cloned(original), nil, original)
	require.NoError(t, err)
	require.NotContains(t, clone, usersName)
	w.must(step.Prepare, original)
	w.must(step.Prepare, clone)
}

// A hook-owned NIC that is written without a device, or with one that libvirt would make, gets it
// by rewriting, and undoing gives the original's bytes.
func TestDeviceOfANewHookOwnedNIC(t *testing.T) {
	for _, nic := range []string{
		"<interface type='ethernet'><mac address='" + mac1 + "'/></interface>",
		"<interface type='ethernet'><mac address='" + mac1 + "'/><target dev='" + usersName + "'/></interface>",
		"<interface type='ethernet'><mac address='" + mac1 + "'/>\n<model type='virtio'/>\n</interface>",
	} {
		w := newCloneWorld(t)
		doc := domain(uuidA, vfWords(mac1, "own='hook' dev='nica'"), nic)
		out, err := w.rewritten(doc)
		require.NoError(t, err)
		require.Contains(t, out, "managed='no'")
		again, err := w.rewritten(out)
		require.NoError(t, err)
		require.Equal(t, out, again)
		w.must(step.Prepare, out)
		d, err := xmlfilter.Parse([]byte(out))
		require.NoError(t, err)
		back, err := d.Undo()
		require.NoError(t, err)
		require.Equal(t, doc, string(back))
	}
}

// A port of Open vSwitch has an identity of its own, too.
func TestClonedPortHasItsOwnIdentity(t *testing.T) {
	w := newCloneWorld(t)
	original, err := w.rewritten(domain(uuidA, "<ld:nic mac='"+mac1+"' own='hook' isolated='yes'/>", onSwitch(mac1)))
	require.NoError(t, err)
	require.Contains(t, original, interfaceID)
	clone, _, err := w.repaired(cloned(original), nil, original)
	require.NoError(t, err)
	require.NotContains(t, clone, interfaceID)
	w.must(step.Prepare, original)
	w.must(step.Prepare, clone)
	require.Len(t, w.ovs.ByName, 2)
}

// What is said is checked.
func TestSaidSettings(t *testing.T) {
	doc := domain(uuidB, "<ld:nic mac='"+mac1+"' isolated='yes'/><ld:nic alias='ua-old' vlan='7'/>",
		bridged(mac3, "br0", "")+bridged(mac4, "br0", "", "<alias name='ua-x'/>"))
	for said, want := range map[[2]string]string{
		{mac1, mac2}: "no NIC without settings is called so", {mac2, mac3}: "there are none for " + mac2 + "; those without NIC are for " + mac1 + ", ua-old",
	} {
		_, _, err := newCloneWorld(t).repaired(doc, map[string]string{said[0]: said[1]})
		require.ErrorIs(t, err, plan.ErrStray)
		require.ErrorContains(t, err, want)
	}
	after, notes, err := newCloneWorld(t).repaired(doc, map[string]string{mac1: mac3, "ua-old": "ua-x"})
	require.NoError(t, err)
	require.Len(t, notes, 2)
	require.Contains(t, after, "<ld:nic mac='"+mac3+"' isolated='yes'/>")
	require.Contains(t, after, "<ld:nic vlan='7' mac='"+mac4+"'/>")
	after, _, err = newCloneWorld(t).repaired(doc, map[string]string{mac1: "", "ua-old": ""})
	require.NoError(t, err)
	require.NotContains(t, after, "<ld:nic ")
	newCloneWorld(t).must(step.Prepare, after)
}

// FuzzRepair holds that what is repaired can be read again, that no settings are lost or given
// twice, and that nothing is left to repair.
func FuzzRepair(f *testing.F) {
	cfg, err := config.Parse("", []byte(tenant))
	require.NoError(f, err)
	for _, doc := range []string{
		domain(uuidB, "<ld:nic mac='"+mac1+"' isolated='yes'/>", bridged(mac3, "br0", "")),
		domain(uuidB, "<ld:nic mac='"+mac1+"' own='hook'><ld:was type='direct' words='own'><source dev='nica'/><target dev='x'/></ld:was></ld:nic>", owned(mac3, hooksName)),
		domain(uuidB, "<ld:nic alias='ua-1' profile='tenant'/><ld:nic mac='"+mac2+"' vlan='7'/>", networkNIC(mac3)+direct(mac4, "nica", "bridge")),
	} {
		f.Add([]byte(doc), []byte(strings.ReplaceAll(doc, uuidB, uuidA)), mac1, mac3)
	}
	f.Fuzz(func(t *testing.T, doc, other []byte, from, to string) {
		d, err := xmlfilter.Parse(doc)
		if err != nil {
			return
		}
		known := plan.Known{Said: map[string]string{from: to}}
		if from == "" {
			known.Said = nil
		}
		if o, err := xmlfilter.Parse(other); err == nil {
			known.Others = append(known.Others, o)
		}
		moves, why, err := plan.Repair(d, cfg, known)
		if err != nil {
			return
		}
		require.Len(t, why, len(moves))
		seen := map[int]bool{}
		for _, m := range moves {
			require.False(t, m.NIC >= 0 && seen[m.NIC])
			seen[m.NIC] = true
		}
		out, err := d.Reassign(moves)
		if err != nil {
			require.ErrorIs(t, err, xmlfilter.ErrNIC)
			return
		}
		after, err := xmlfilter.Parse(out)
		require.NoError(t, err)
		require.Len(t, after.Stray, len(d.Stray)-len(moves))
		require.Len(t, after.NICs, len(d.NICs))
	})
}
