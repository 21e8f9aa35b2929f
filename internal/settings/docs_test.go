package settings

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the tables in docs/")

// The manual's tables are the table's: `go test ./internal/settings -update` writes them.
// The manual pages are rendered from the same files.
func TestTablesOfTheManual(t *testing.T) {
	for _, c := range []struct {
		place      Places
		file, head string // the section's heading
	}{
		{InNIC, "../../docs/metadata.md", "## `<nic>`"},
		{InProfile, "../../docs/config.md", "## `[profile.NAME]`"},
		{InOVS, "../../docs/config.md", "## `[profile.NAME.ovs]`"},
	} {
		raw, err := os.ReadFile(c.file)
		require.NoError(t, err)
		before, section, found := strings.Cut(string(raw), "\n"+c.head+"\n")
		require.True(t, found, c.head)
		at := regexp.MustCompile(`(?m)^\|.*\n(\|.*\n)+`).FindStringIndex(section)
		require.NotNil(t, at, c.head)
		if *update {
			text := before + "\n" + c.head + "\n" + section[:at[0]] + Table(c.place) + section[at[1]:]
			require.NoError(t, os.WriteFile(c.file, []byte(text), 0o644))
			continue
		}
		require.Equal(t, Table(c.place), section[at[0]:at[1]], "%s of %s: go test ./internal/settings -update", c.head, c.file)
	}
}

// What a network's metadata and an uplink may say is named where they are described.
func TestOtherPlacesAreDocumented(t *testing.T) {
	for place, file := range map[Places]string{InNetwork: "../../docs/bridges-and-networks.md", InUplink: "../../docs/config.md"} {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, name := range Names(place) {
			require.Contains(t, string(raw), "`"+name+"`", file)
		}
	}
}
