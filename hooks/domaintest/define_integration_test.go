//go:build integration

package domaintest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/plan"
	"libvirt-direct/integration/host/hosttest"
	"libvirt-direct/xmlfilter"
)

// errNotTaken: libvirt itself refuses a document.
var errNotTaken = errors.New("not taken")

// virshDefine defines a document in libvirt's test driver and returns what libvirt prints of it.
func virshDefine(t *testing.T, doc []byte) ([]byte, error) {
	t.Helper()
	doc = regexp.MustCompile(`(<domain\s+type\s*=\s*.)(kvm|qemu|&#\d+;\w+)`).ReplaceAll(doc, []byte("${1}test"))
	file := filepath.Join(t.TempDir(), "domain.xml")
	require.NoError(t, os.WriteFile(file, doc, 0o600))
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(t.Context(), "virsh", "-c", "test:///default", "-q", "define "+file+"; dumpxml --inactive aaaaaaaa-0000-4000-8000-00000000000b")
	c.Stdout, c.Stderr, c.Env = &stdout, &stderr, append(os.Environ(), "LC_ALL=C.UTF-8")
	err := c.Run()
	at := bytes.Index(stdout.Bytes(), []byte("<domain"))
	if err != nil || at < 0 {
		return nil, errors.Join(errNotTaken, errors.New(stderr.String()))
	}
	return stdout.Bytes()[at:], nil
}

// comparable is a domain's meaning but for what libvirt draws, or its test driver sets.
func comparable(t *testing.T, doc []byte) string {
	t.Helper()
	d, err := xmlfilter.Parse(doc)
	require.NoError(t, err, "%s", doc)
	d.Type = ""
	for i := range d.NICs {
		n := &d.NICs[i]
		n.Model = ""
		if strings.HasPrefix(n.Target, "testnet") {
			n.Target = ""
		}
	}
	return regexp.MustCompile(`52:54:00:(ff:00:..|..:..:..)`).ReplaceAllStringFunc(meaning(d), func(mac string) string {
		if strings.HasPrefix(mac, "52:54:00:ab:00") {
			return mac
		}
		return "drawn"
	})
}

// libvirt itself reads the documents as Define says, what rewrite makes of them as well, and
// what undoing makes of what it prints of that is the original.
func TestLibvirtDefines(t *testing.T) {
	hosttest.Require(t, "virsh")
	host, taken := Hosts()[0], 0
	for seed := range uint64(hosttest.Rounds(40, 400)) {
		doc := Make(SeedTape(seed)).XML
		d, err := xmlfilter.Parse(doc)
		if err != nil {
			continue
		}
		real, err := virshDefine(t, doc)
		ours, ourErr := Define(doc)
		if err != nil {
			t.Logf("seed %d: %v", seed, err)
			continue // what it refuses we may read
		}
		taken++
		require.NoError(t, ourErr, "seed %d, libvirt takes\n%s", seed, doc)
		require.Equal(t, comparable(t, ours), comparable(t, real), "seed %d\n%s\n%s", seed, doc, real)

		changes, err := plan.Rewrite(d, host.Config, host.Survey(d))
		if err != nil {
			continue
		}
		out, err := d.Rewrite(changes)
		require.NoError(t, err)
		defined, err := virshDefine(t, out)
		require.NoError(t, err, "seed %d, libvirt does not take\n%s", seed, out)
		ours, err = Define(out)
		require.NoError(t, err)
		require.Equal(t, comparable(t, ours), comparable(t, defined), "seed %d\n%s\n%s", seed, out, defined)
		after, err := xmlfilter.Parse(defined)
		require.NoError(t, err)
		back, err := after.Undo()
		require.NoError(t, err)
		again, err := virshDefine(t, back)
		require.NoError(t, err)
		want, err := xmlfilter.Parse(real)
		require.NoError(t, err)
		original, err := want.Undo()
		require.NoError(t, err)
		require.Equal(t, comparable(t, original), comparable(t, again), "seed %d\n%s\n%s", seed, defined, back)
	}
	t.Logf("libvirt took %d", taken)
	require.GreaterOrEqual(t, taken, 20)
}
