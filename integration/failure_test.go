//go:build integration

package integration

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"libvirt-direct/integration/host/hosttest"

	"github.com/stretchr/testify/require"
)

// A hook that fails makes `virsh start` fail with our one line, and leaves nothing.
func TestFailedHookFailsStart(t *testing.T) {
	ctx := hosttest.Deadline(t, time.Minute)
	h := newFixture(ctx, t, "a", conf)
	newLAN(ctx, t, plug{h, "nica"})
	h.MustStartLibvirtd()
	const journal = "/run/libvirt-direct/domains/" + uuid + ".json"
	// Before a NIC that fails stands one that had been made ready.
	ready := direct(1, "storage", "bridge")
	for name, test := range map[string]struct {
		nic, words string
		prepare    func(h *fixture)
		conf       string
		want       string // of our line, behind "libvirt-direct: prepare: "
	}{
		"unknown profile": {
			nic: direct(2, "nica", "bridge"), words: "profile='gold'",
			want: `domain "g", NIC ` + mac(2) + `: not configured on this host: profile "gold"; add [profile.gold] to /etc/libvirt-direct/config.toml`,
		},
		"missing device": {
			nic:  direct(2, "eth7", "bridge"),
			want: `domain "g", NIC ` + mac(2) + `: no such device on this host: "eth7"; say what it is here: [uplink.NAME] device = "…", also = ["eth7"] in /etc/libvirt-direct/config.toml`,
		},
		"missing uplink": {
			nic: direct(2, "nica", "bridge"), words: "uplink='backup'", conf: conf + "[uplink.backup]\ndevice = \"eth8\"\n",
			want: `domain "g", NIC ` + mac(2) + `: no such device on this host: uplink "backup": look up eth8: no such network device; fix [uplink.backup] in /etc/libvirt-direct/config.toml`,
		},
		"not rewritten": {
			nic: direct(2, "nica", "bridge"), words: "own='hook'",
			want: `domain "g", NIC ` + mac(2) + `: must be rewritten first: it asks to be hook-owned; run: libvirt-direct rewrite --domain g`,
		},
		"VLAN that libvirt refuses": {
			nic:  direct(2, "nica", "bridge", "<vlan><tag id='100'/></vlan>"),
			want: `domain "g", NIC ` + mac(2) + `: must be rewritten first: libvirt refuses <vlan> in this mode; run: libvirt-direct rewrite --domain g`,
		},
		"corrupt journal": {
			nic: direct(2, "nica", "bridge"),
			prepare: func(h *fixture) {
				h.MustWrite(journal, 0o600, `{"version":1,"uuid":"`+uuid+`"`)
			},
			want: `journal file cannot be trusted: ` + journal + `: unexpected end of JSON input; nothing of it was done, it is now /run/libvirt-direct/corrupt-*/` + uuid + ".json; look at `libvirt-direct gc --dry-run`",
		},
		"journal of another": {
			nic: direct(2, "nica", "bridge"),
			prepare: func(h *fixture) {
				h.MustWrite(journal, 0o600, "{}")
				_, err := h.Run(ctx, "chown", "64321", journal)
				require.NoError(h.T, err)
			},
			want: `journal file cannot be trusted: ` + journal + `: not to be trusted: owned by uid 64321; nothing of it was done, it is now /run/libvirt-direct/corrupt-*/` + uuid + ".json; look at `libvirt-direct gc --dry-run`",
		},
		"misspelt configuration": {
			nic: direct(2, "nica", "bridge"), conf: conf + "alos = []\n",
			want: `domain "g", NIC ` + mac(1) + `: /etc/libvirt-direct/config.toml:4: unknown key "uplink.storage.alos"; did you mean "also"?`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := h.in(t)
			if test.conf != "" {
				h.Configure(test.conf)
				defer h.Configure(conf)
			}
			before := h.MustSnapshot()
			d := tiny("g", ready, test.nic)
			d.UUID, d.Metadata = uuid, metadata(2, test.words)
			h.MustDefine(d)
			if test.prepare != nil {
				test.prepare(h)
			}
			_, err := h.Virsh(ctx, "start", "g")
			require.Error(t, err)
			lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
			require.Len(t, lines, 2, err)
			require.Regexp(t, `error: Failed to start domain 'g'$`, lines[0])
			want := strings.ReplaceAll(regexp.QuoteMeta("libvirt-direct: prepare: "+test.want), `\*`, `\d+`)
			require.Regexp(t, `^error: Hook script execution failed: .* unexpected exit status 1: `+want+`$`, lines[1])
			h.RequireUnchanged(before)
			if test.prepare != nil {
				// Set aside once, and out of the way.
				aside, err := filepath.Glob(h.Path("/run/libvirt-direct/corrupt-*/" + uuid + ".json"))
				require.NoError(t, err)
				require.Len(t, aside, 1)
				_, err = h.Run(ctx, "sh", "-c", "rm -r /run/libvirt-direct/corrupt-*")
				require.NoError(t, err)
				h.start("g")
				h.stop("g")
				h.RequireUnchanged(before)
			}
		})
	}
}

// libvirt itself refuses, after the hook has made all ready.
func TestFailedStartLeavesNothing(t *testing.T) {
	ctx := hosttest.Deadline(t, time.Minute)
	h := newFixture(ctx, t, "a", conf)
	newLAN(ctx, t, plug{h, "nica"})
	h.MustStartLibvirtd()
	before := h.MustSnapshot()
	// The owned NIC's macvtap stands on what the assisted one wants for itself.
	d := tiny("g", direct(1, "storage", "bridge"), direct(2, "enpb", "passthrough"))
	d.Metadata = metadata(1, "own='hook'")
	h.rewrite(d)
	_, err := h.Virsh(ctx, "start", "g")
	require.ErrorContains(t, err, "error creating macvtap interface")
	h.RequireUnchanged(before)

	// A hook that cannot run at all.
	h.MustDefine(tiny("h", direct(1, "nica", "bridge")))
	h.MustWrite(hookPath, 0o755, "#!/nonexistent\n")
	_, err = h.Virsh(ctx, "start", "h")
	require.ErrorContains(t, err, "Hook script execution failed")
	h.RequireUnchanged(before)
}
