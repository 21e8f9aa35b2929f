package hooks

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
)

// Names as the hook gives them, and as somebody has chosen one.
const (
	hooksName  = "ldt0123456789"
	usersName  = "web-eth0"
	clonesName = "ldtabcdef0123"
)

func ownedBy(uuid, mac, target string) string {
	return domain(uuid, "<ld:nic mac='"+mac+"' own='hook' dev='nica' mode='bridge'/>", owned(mac, target))
}

// openers are NICs that name a device, without any settings.
var openers = map[string]func(target string) string{
	"ethernet": func(target string) string { return owned(mac2, target) },
	"ethernet, managed": func(target string) string {
		return "<interface type='ethernet'><target dev='" + target + "'/></interface>"
	},
	"double quotes": func(target string) string {
		return `<interface type="ethernet"><target managed="no" dev="` + target + `"/></interface>`
	},
	"bridge": func(target string) string { return bridged(mac2, "br0", target) },
	"direct": func(target string) string { return direct(mac2, "nica", "bridge", "<target dev='"+target+"'/>") },
	"network": func(target string) string {
		return "<interface type='network'><mac address='" + mac2 + "'/><source network='n'/><target dev='" + target + "'/></interface>"
	},
	"beside a plain NIC": func(target string) string { return direct(mac3, "nica", "bridge") + owned(mac2, target) },
}

// A device that was made for one guest is opened by no other, whatever the other says and
// whatever is left of what is known.
func TestOnlyItsGuestOpensADevice(t *testing.T) {
	for what, spoil := range map[string]func(w *world, name string){
		"as it is":        func(*world, string) {},
		"journal is lost": func(w *world, _ string) { require.NoError(w.t, os.RemoveAll(w.journal)) },
		"journal cannot be read": func(w *world, _ string) {
			require.NoError(w.t, os.WriteFile(filepath.Join(w.journal, "domains", uuidA+".json"), []byte("{"), 0o600))
		},
		"alias was changed": func(w *world, name string) { w.rename(name, "rack 7") },
		"alias was changed and journal cannot be read": func(w *world, name string) {
			w.rename(name, "rack 7")
			require.NoError(w.t, os.WriteFile(filepath.Join(w.journal, "domains", uuidA+".json"), []byte("{"), 0o600))
		},
		"guest runs": func(w *world, name string) { w.must(step.Start, ownedBy(uuidA, mac1, name)) },
		"configuration is broken": func(w *world, _ string) {
			w.hook.Config = func() (*config.Config, error) { return nil, errors.New("config.toml:7: unknown key") }
		},
	} {
		for opener, nic := range openers {
			for _, name := range []string{hooksName, usersName} {
				if name == usersName && (opener == "bridge" || opener == "network" || opener == "direct") {
					continue // without settings of ours no domain that says no more than that is looked at
				}
				t.Run(what+", "+opener+" "+name, func(t *testing.T) {
					w := newWorld(t, "", "nica")
					withBridges(w.kernel)
					w.must(step.Prepare, ownedBy(uuidA, mac1, name))
					spoil(w, name)
					before := w.dump()
					for _, op := range []step.Op{step.Prepare, step.Start} {
						_, err := w.run(op, domain(uuidB, "", nic(name)))
						require.ErrorIs(t, err, step.ErrInUse, "%s", op)
						require.ErrorContains(t, err, `domain "vm b", NIC `)
						require.ErrorContains(t, err, name)
						require.NotContains(t, err.Error(), "\n")
					}
					w.must(step.Stopped, domain(uuidB, "", nic(name)))
					w.must(step.Release, domain(uuidB, "", nic(name)))
					require.Equal(t, before, w.dump())
				})
			}
		}
	}
}

// rename gives a device another alias.
func (w *world) rename(name, alias string) {
	w.t.Helper()
	l, err := w.kernel.ByName(w.t.Context(), name)
	require.NoError(w.t, err)
	require.NoError(w.t, w.kernel.SetAlias(w.t.Context(), l.Index, alias))
}

// A clone with settings is told how it gets a device of its own, and one without.
func TestWhoHasTheDevice(t *testing.T) {
	w := newWorld(t, "", "nica")
	w.must(step.Prepare, ownedBy(uuidA, mac1, hooksName))
	for doc, want := range map[string]string{
		ownedBy(uuidB, mac2, hooksName):                                               hooksName + ` was made for domain "vm a"; run: libvirt-direct rewrite --domain 'vm b', or libvirt-direct gc if that domain is gone`,
		ownedBy(uuidB, mac1, hooksName):                                               `run: libvirt-direct rewrite --domain 'vm b'`, // the same MAC
		domain(uuidB, vfWords(mac1, "own='hook' dev='nica'"), owned(mac2, hooksName)): `run: libvirt-direct rewrite --domain 'vm b'`,
		domain(uuidB, "", owned(mac2, hooksName)):                                     `give it another <target dev=>`,
	} {
		_, err := w.run(step.Prepare, doc)
		require.ErrorIs(t, err, step.ErrInUse)
		require.ErrorContains(t, err, want)
		require.Equal(t, []string{uuidA}, w.journals())
		w.must(step.Reconnect, doc)
		require.Contains(t, w.log.String(), "was made for domain")
		w.log.Reset()
		w.must(step.Release, doc)
	}
}

// By another name of the device, too.
func TestAlternativeNameOfAnothersDevice(t *testing.T) {
	w := newWorld(t, "", "nica")
	w.must(step.Prepare, ownedBy(uuidA, mac1, hooksName))
	l, err := w.kernel.ByName(t.Context(), hooksName)
	require.NoError(t, err)
	require.NoError(t, w.kernel.AddAltName(t.Context(), l.Index, "other"))
	_, err = w.run(step.Prepare, domain(uuidB, "", owned(mac2, "other")))
	require.ErrorIs(t, err, step.ErrInUse)
}

// A device that is on its way: claimed, and not made yet. Whoever wins, the other does not open it.
func TestDeviceOnItsWay(t *testing.T) {
	w := newWorld(t, "", "nica")
	clone, seen := domain(uuidB, "", "<interface type='ethernet'><target dev='"+hooksName+"'/></interface>"), false
	w.kernel.Gate = func(p hooktest.Point) error {
		if p.Change && !seen { // all is claimed by then
			seen = true
			require.False(t, w.has(hooksName))
			_, err := w.run(step.Prepare, clone)
			require.ErrorIs(t, err, step.ErrInUse)
		}
		return nil
	}
	w.must(step.Prepare, ownedBy(uuidA, mac1, hooksName))
	require.True(t, seen)
	w.kernel.Gate = nil
	w.must(step.Release, ownedBy(uuidA, mac1, hooksName))

	// The other way round: the clone is prepared before, and opens it after.
	w.must(step.Prepare, clone)
	w.must(step.Prepare, ownedBy(uuidA, mac1, hooksName))
	_, err := w.run(step.Start, clone)
	require.ErrorIs(t, err, step.ErrInUse)
}

// What the helper has made for a user is no libvirt guest's.
func TestHelpersDevice(t *testing.T) {
	for opener, nic := range openers {
		w := newWorld(t, "", "nica")
		withBridges(w.kernel)
		w.kernel.Add(link.Link{Name: "tap4abcdef0", Kind: "tun", Alias: "qemu-direct-helper: uid 1000, lan"})
		_, err := w.run(step.Prepare, domain(uuidB, "", nic("tap4abcdef0")))
		require.ErrorIs(t, err, step.ErrInUse, opener)
		require.ErrorContains(t, err, "tap4abcdef0 is a device of the helper's (uid 1000, lan)")
	}
}

// The original does not run: its device is not there, and only the hook makes such.
func TestCloneOfAGuestThatDoesNotRun(t *testing.T) {
	w := newWorld(t, "", "nica")
	_, err := w.run(step.Prepare, domain(uuidB, "", owned(mac2, hooksName)))
	require.ErrorIs(t, err, step.ErrUnsuitable)
	require.ErrorContains(t, err, "the hook makes "+hooksName+" for a NIC whose settings say own='hook', and it has none")
	// Where settings have lost their NIC, they can be its.
	_, err = w.run(step.Prepare, domain(uuidB, vfWords(mac1, "own='hook' dev='nica'"), direct(mac3, "nica", "bridge")+owned(mac2, hooksName)))
	require.ErrorContains(t, err, "and it has none; run: libvirt-direct rewrite --domain 'vm b'")
	// A guest of its own has the device after that, and its clone is told.
	w.must(step.Prepare, ownedBy(uuidB, mac2, hooksName))
	_, err = w.run(step.Prepare, ownedBy(uuidA, mac1, hooksName))
	require.ErrorContains(t, err, `was made for domain "vm b"`)
}

// A clone that is started first takes the name of the original's device. The original is told whose
// the fault is: rewriting it would change nothing.
func TestOriginalOfACloneThatRuns(t *testing.T) {
	w := newWorld(t, "", "nica")
	nic := "<alias name='ua-a'/></interface>"
	original, err := w.rewritten(domain(uuidA, "<ld:nic alias='ua-a' own='hook'/>", strings.Replace(direct(mac1, "nica", "bridge"), "</interface>", nic, 1)))
	require.NoError(t, err)
	w.must(step.Prepare, strings.NewReplacer(uuidA, uuidB, "vm a", "vm b", mac1, mac2).Replace(original))
	_, err = w.run(step.Prepare, original)
	require.ErrorIs(t, err, step.ErrInUse)
	require.ErrorContains(t, err, `is this domain's own, and domain "vm b", a copy of it, has it now; stop that and run: libvirt-direct rewrite --domain 'vm b'`)
}

// Who is gone and has left its device is not taken for a reason for ever: gc removes it.
func TestDeviceOfAGuestThatIsGone(t *testing.T) {
	w := newWorld(t, "", "nica")
	w.must(step.Prepare, ownedBy(uuidA, mac1, usersName))
	_, err := w.run(step.Prepare, domain(uuidB, "", "<interface type='ethernet'><target dev='"+usersName+"'/></interface>"))
	require.ErrorContains(t, err, "or libvirt-direct gc if that domain is gone")
	w.gc(false)
	w.must(step.Prepare, domain(uuidB, "", "<interface type='ethernet'><target dev='"+usersName+"'/></interface>"))
}

// A guest on a macvtap that the host's administrator has made starts as it did, whatever state
// our files and the host are in. So does one on what libvirt makes.
func TestDevicesOfOthersAreLeftToThem(t *testing.T) {
	for what, spoil := range map[string]func(w *world){
		"sound": func(*world) {},
		"no configuration": func(w *world) {
			w.hook.Config = func() (*config.Config, error) { panic("config read") }
		},
		"no kernel": func(w *world) {
			w.hook.Kernel = func() (step.Kernel, func(), error) { return nil, nil, errors.New("no netlink socket") }
		},
		"a kernel that answers with errors": func(w *world) {
			w.kernel.Gate = func(hooktest.Point) error { return errors.New("no buffer space") }
		},
		"journal is no directory": func(w *world) { require.NoError(w.t, os.WriteFile(w.journal, nil, 0o600)) },
		"journals of others are damaged": func(w *world) {
			w.must(step.Prepare, ownedBy(uuidC, mac3, clonesName))
			require.NoError(w.t, os.WriteFile(filepath.Join(w.journal, "domains", uuidC+".json"), []byte("{"), 0o600))
			w.log.Reset()
		},
		"journals cannot be listed": func(w *world) {
			w.hook.Journal = journal.On("/run/libvirt-direct", hooktest.NewDisk().With(func(p hooktest.Point) error {
				if p.Op == "list" {
					return errors.New("I/O error")
				}
				return nil
			}))
		},
	} {
		for opener, nic := range openers {
			if opener == "beside a plain NIC" || opener == "direct" {
				continue // which are looked at for a NIC that is not foreign
			}
			for _, name := range []string{"adminvtap", "ldt9999999999", "ldt", "vnet7"} {
				t.Run(what+", "+opener+" "+name, func(t *testing.T) {
					w := newWorld(t, "", "nica")
					withBridges(w.kernel)
					nica, err := w.kernel.ByName(t.Context(), "nica")
					require.NoError(t, err)
					require.NoError(t, w.kernel.AddMacvtap(t.Context(), link.Macvtap{Name: name, Index: 4711, Lower: nica.Index, Mode: "bridge", MAC: mac2}))
					w.rename(name, "made by ansible")
					spoil(w)
					for _, op := range []step.Op{step.Prepare, step.Start, step.Stopped, step.Release} {
						w.must(op, domain(uuidA, "", nic(name)))
					}
				})
			}
		}
	}
}

// Whose name is not one that hook or helper could have given costs the kernel nothing.
func TestOtherNamesAreNotLookedFor(t *testing.T) {
	w := newWorld(t, "", "nica")
	w.hook.Config = func() (*config.Config, error) { panic("config read") }
	w.hook.Kernel = func() (step.Kernel, func(), error) { panic("kernel asked") }
	for _, nic := range []string{
		bridged(mac1, "br0", "vnet3"), bridged(mac1, "br0", "web-eth0"), bridged(mac1, "br0", "ldtweb"), bridged(mac1, "br0", "tap0"),
		"<interface type='ethernet'><mac address='" + mac1 + "'/></interface>", "<interface type='ethernet'><target dev='a name that is too long'/></interface>",
		userNIC(mac1) + "<disk><target dev='ldt0123456789'/></disk>",
	} {
		for _, op := range allOps {
			w.must(op, domain(uuidA, "", nic))
		}
	}
}

// A session daemon's hook has no say.
func TestSessionsDeviceIsItsUsers(t *testing.T) {
	w := newWorld(t, "", "nica")
	w.must(step.Prepare, ownedBy(uuidA, mac1, hooksName))
	w.hook.Privileged = false
	w.must(step.Prepare, domain(uuidB, "", owned(mac2, hooksName)))
}

// The guest itself opens its own device, at each start of its life, also when the journal is lost.
func TestItsOwnDevice(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for _, name := range []string{hooksName, usersName} {
			w := newWorld(t, "", "nica")
			doc := ownedBy(uuidA, mac1, name)
			for range 2 {
				w.must(step.Prepare, doc)
				if lost {
					require.NoError(t, os.RemoveAll(w.journal))
				}
				for _, op := range []step.Op{step.Start, step.Reconnect, step.Stopped, step.Release} {
					w.must(op, doc)
				}
			}
		}
	}
}

// Bytes in which such a name could stand are looked at, those that cannot hold one are not.
func TestMayNameDevice(t *testing.T) {
	for doc, want := range map[string]bool{
		domain(uuidA, "", owned(mac1, hooksName)): true, domain(uuidA, "", bridged(mac1, "br0", hooksName)): true,
		domain(uuidA, "", bridged(mac1, "br0", "tap4abcdef0")): true, domain(uuidA, "", bridged(mac1, "br0", "vnet0")): false,
		domain(uuidA, "", userNIC(mac1)): false, "<interface type='&#x65;thernet'>": true,
	} {
		require.Equal(t, want, plan.MayNameDevice([]byte(doc)), doc)
	}
}
