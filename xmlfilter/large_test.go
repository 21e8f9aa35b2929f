package xmlfilter

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// largest is what a hook reads at most.
const largest = 16 << 20

// filled is a document of size bytes: before, as often as it fits, repeated, and after.
func filled(size int, before, repeated, after string) []byte {
	n := (size - len(before) - len(after)) / len(repeated)
	return []byte(before + strings.Repeat(repeated, n) + after)
}

// parseSoon fails the test unless the document is read in ten seconds. One of 16 MiB
// takes about one; where the cost grows with the square of the size it takes minutes.
func parseSoon(t *testing.T, doc []byte) *Domain {
	t.Helper()
	read := make(chan *Domain, 1)
	go func() {
		d, err := Parse(doc)
		if err != nil {
			t.Error(err)
		}
		read <- d
	}()
	select {
	case d := <-read:
		return d
	case <-time.After(10 * time.Second):
		require.FailNow(t, "still reading after ten seconds")
		return nil
	}
}

const uuidOfLarge = "aaaaaaaa-0000-4000-8000-000000000001"

// foreign is a domain whose metadata is somebody else's, with much of it.
func foreign(size int, repeated string) []byte {
	return filled(size, "<domain type='kvm'><name>x</name><uuid>"+uuidOfLarge+"</uuid><metadata><a:a xmlns:a='urn:a'>",
		repeated, "</a:a></metadata><devices><interface type='direct'><source dev='nica'/></interface></devices></domain>")
}

func TestLargeMetadataOfOthers(t *testing.T) {
	d := parseSoon(t, foreign(largest, "<b/>"+strings.Repeat(" ", 60)))
	require.Equal(t, uuidOfLarge, d.UUID)
	require.Equal(t, "nica", d.NICs[0].Source.Dev)
}

// Settings are found by their key, however many there are.
func TestMuchMetadataOfOurs(t *testing.T) {
	const settings, nics = 100_000, 30_000
	var words, interfaces strings.Builder
	for i := range settings {
		mac := net.HardwareAddr{0x52, 0x54, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		fmt.Fprintf(&words, "<nic mac='%s' vlan='%d'/>", mac, i%4094+1)
		if i >= settings-nics {
			fmt.Fprintf(&interfaces, "<interface type='direct'><mac address='%s'/></interface>", mac)
		}
	}
	d := parseSoon(t, []byte("<domain><metadata><nics xmlns='"+Namespace+"'>"+words.String()+"</nics></metadata><devices>"+interfaces.String()+"</devices></domain>"))
	require.Len(t, d.NICs, nics)
	require.Len(t, d.Stray, settings-nics)
	require.Equal(t, (settings-1)%4094+1, d.NICs[nics-1].Settings.VLAN)
}

// A set that names its nodes over and over has them once.
func TestLongNodeset(t *testing.T) {
	d := parseSoon(t, filled(1<<20, "<domain><numatune><memory nodeset='", "0-1023,^512,", "7'/></numatune></domain>"))
	require.Len(t, d.Nodes, 1023)
}

func BenchmarkParseLargest(b *testing.B) {
	doc := foreign(largest, "<b/>\n")
	b.SetBytes(int64(len(doc)))
	for b.Loop() {
		if _, err := Parse(doc); err != nil {
			b.Fatal(err)
		}
	}
}
