//go:build integration

package fault

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host/hosttest"
)

// guests use none of our settings. The last is a port of a network, for the hook of those.
var guests = map[string]string{
	"foreign":      `<interface type='network'><mac address='52:54:00:77:00:05'/><source network='default'/></interface>`,
	"macvtap":      `<interface type='direct'><mac address='52:54:00:77:00:05'/><source dev='v0' mode='bridge'/></interface>`,
	"passthrough":  `<interface type='direct'><mac address='52:54:00:77:00:05'/><source dev='v0' mode='passthrough'/></interface>`,
	"Open vSwitch": `<interface type='bridge'><mac address='52:54:00:77:00:05'/><source bridge='br0'/><virtualport type='openvswitch'/><target dev='vnet0'/></interface>`,
	"bridge VLAN":  `<interface type='bridge'><mac address='52:54:00:77:00:05'/><source bridge='br0'/><vlan><tag id='5'/></vlan><target dev='vnet0'/></interface>`,
	"network": `<hookData><network><name>default</name></network><networkport><uuid>` + uuid + `</uuid><owner><name>g</name><uuid>` + uuid + `</uuid></owner>` +
		`<mac address='52:54:00:77:00:05'/><plug type='network' bridge='virbr0'/></networkport></hookData>`,
}

var everyOp = []string{"prepare", "start", "started", "stopped", "release", "migrate", "restore", "reconnect", "attach"}

var networkOps = []string{"started", "port-created", "port-deleted"}

// touch lists what each operation on a guest touches, on a host on which nobody has anything.
func (b *testbed) touch(guest string) (a answer, err error) {
	b.problems = nil
	program, ops := "qemu", everyOp
	text := "<domain type='kvm'><name>g</name><uuid>" + uuid + "</uuid><devices>" + guests[guest] + "</devices></domain>"
	if guest == "network" {
		program, ops, text = guest, networkOps, guests[guest]
	}
	a.Touched = map[string][]string{}
	for _, op := range ops {
		if err := b.clean(); err != nil {
			return a, err
		}
		touched := []string{}
		end, err := b.hook.trace([]string{program, "g", op, "begin", "-"}, text, patience, func(c call) verdict {
			if c.Touch != "" && !ofRuntime(c) {
				touched = append(touched, inManual(c.Touch))
			}
			return verdict{}
		})
		if err != nil {
			return a, err
		}
		if end.exit != 0 || end.stderr != "" {
			b.problem("%s of %s: exit status %d: %s", op, guest, end.exit, end.stderr)
		}
		slices.Sort(touched)
		a.Touched[op] = slices.Compact(touched)
		if _, err := os.Lstat("/run/libvirt-direct"); !errors.Is(err, fs.ErrNotExist) {
			b.problem("%s of %s has left /run/libvirt-direct", op, guest)
		}
	}
	a.Problems = b.problems
	return a, b.clean()
}

// inManual is what is touched as the manual writes it.
func inManual(touch string) string {
	touch = strings.ReplaceAll(touch, uuid, "UUID")
	return regexp.MustCompile("^(read|look at) /sys(/.*)?$").ReplaceAllString(touch, "read /sys")
}

// ofRuntime reports whether the Go runtime does it for itself at the program's start: it reads
// the size of huge pages and the limits of the control group, where there are any.
func ofRuntime(c call) bool {
	if c.Runtime == "" {
		return false
	}
	_, known := skipped[c.Name]
	file := strings.TrimPrefix(c.Touch, "read ")
	own := file == "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size" || strings.HasPrefix(file, "/proc/self/") || strings.HasPrefix(file, "/sys/fs/cgroup/")
	return known && (c.Name != "openat" || own)
}

// What the hook touches for guests that use none of our settings is what the manual says, and
// it writes nothing.
func TestFilesOfGuestsWithoutSettings(t *testing.T) {
	hosttest.Require(t)
	if traced != "" {
		t.Skip(traced)
	}
	w := newWorker(hosttest.Deadline(t, 5*time.Minute), t, "w", build(t))
	measured := map[string]map[string][]string{}
	for _, guest := range slices.Sorted(maps.Keys(guests)) {
		a, err := w.do(request{Guest: guest})
		require.NoError(t, err)
		require.Empty(t, a.Problems)
		measured[guest] = a.Touched
	}
	require.Equal(t, documented(t), measured)
}

// documented is the manual's table, by guest and operation.
func documented(t *testing.T) map[string]map[string][]string {
	t.Helper()
	manual, err := os.ReadFile("../../docs/install.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(manual), "\n| Guest | Operations | Files |\n|---|---|---|\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	said := map[string]map[string][]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		require.Len(t, cells, 3, line)
		files := []string{}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1) {
			files = append(files, m[1])
		}
		slices.Sort(files)
		for guest := range strings.SplitSeq(cells[0], ", ") {
			if said[guest] == nil {
				said[guest] = map[string][]string{}
			}
			for op := range strings.SplitSeq(cells[1], ", ") {
				require.NotContains(t, said[guest], op, line)
				said[guest][op] = files
			}
		}
	}
	return said
}
