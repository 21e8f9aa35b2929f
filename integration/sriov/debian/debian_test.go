package debian

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlanned(t *testing.T) {
	require.Equal(t, []string{"qemu-system-x86", "libnew1", "libfoo:amd64"}, planned([]byte(`Reading package lists...
Inst qemu-system-x86 [1:7.2+dfsg-7] (1:10.0.2+ds-2~bpo12+1 Debian Backports:oldstable-backports [amd64]) []
Inst libnew1 (1.2-3 Debian:12/oldstable [amd64])
Inst libfoo:amd64 [1] (2 Debian:12/oldstable [amd64])
Conf qemu-system-x86 (1:10.0.2+ds-2~bpo12+1 Debian Backports:oldstable-backports [amd64])
Remv other [1]
`)))
}

func TestPrivateAptKnowsOnlyItsSuites(t *testing.T) {
	dir := t.TempDir()
	args, err := privateApt(dir, "mirror://example/debian/", "trixie", "trixie-backports")
	require.NoError(t, err)
	require.Contains(t, args, "Dir::Etc::sourceparts=/dev/null")
	text, err := os.ReadFile(dir + "/sources.list")
	require.NoError(t, err)
	require.Regexp(t, `(?m)\Adeb .*mirror://example/debian/ trixie main\ndeb .*mirror://example/debian/ trixie-backports main\n\z`, string(text))
}
