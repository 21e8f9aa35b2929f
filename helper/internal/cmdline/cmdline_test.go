package cmdline

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	r, err := Parse(strings.Fields("--use-vnet --fd=8 --br=lan/52:54:00:AA:bb:cc --queues=2"))
	require.NoError(t, err)
	require.Equal(t, "lan", r.Name)
	require.Equal(t, "52:54:00:aa:bb:cc", r.MAC.String())
	require.True(t, r.VNetHdr && r.HasMAC)
	require.Equal(t, 8, r.FD)
	require.Equal(t, 2, r.Queues)

	r, err = Parse([]string{"--br=br0", "--fd=3"})
	require.NoError(t, err)
	require.Equal(t, Request{Name: "br0", FD: 3, Queues: 1}, r)

	r, err = Parse(strings.Fields("--br=br1 --fd=9 --queues=02 --br=br0 --fd=003"))
	require.NoError(t, err)
	require.Equal(t, Request{Name: "br0", FD: 3, Queues: 2}, r, "the last of each, in decimal, as qemu-bridge-helper's")
}

// What is wrong with a number is said, and no other is taken for it.
func TestParseNumbers(t *testing.T) {
	for _, n := range []string{"", "+3", "-3", " 3", "3 ", "0x3", "3.", "3e0", "1_0", "٣", "1048577", "4294967299", "18446744073709551619"} {
		_, err := Parse([]string{"--br=br0", "--fd=" + n})
		require.EqualError(t, err, "--fd= takes the number of a socket, in decimal digits", n)
		_, err = Parse([]string{"--br=br0", "--fd=3", "--queues=" + n})
		require.EqualError(t, err, "--queues= takes a number from 1 to 64", n)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range []string{
		"", "--br=br0", "--fd=3", "--br=br0 --fd=2", "--br=br0 --fd=-3", "--br=br0 --fd=+3", "--br=br0 --fd=3.", "--br=br0 --fd=0x3",
		"--br=br0 --fd=9999999999", "--br=br0 --fd=3 extra", "--br=/x --fd=3", "--br=br0/ --fd=3", "--br=br0/x --fd=3",
		"--br=br0/53:54:00:00:00:00 --fd=3", "--br=b%d --fd=3", "--br=br0 --fd=3 --queues=65", "--br=br0 --fd=3 --queues=0", "--list --fd=3", "--list --list",
		"--br=" + strings.Repeat("a", 65) + " --fd=3", "--use-vnet=1 --br=br0 --fd=3",
	} {
		_, err := Parse(strings.Fields(args))
		require.Error(t, err, args)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("--use-vnet --fd=8 --br=br0")
	f.Add("--br=lan/52:54:00:aa:bb:cc --fd=3 --queues=4")
	f.Add("--list")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := Parse(strings.Split(line, " "))
		if err != nil || r.List {
			return
		}
		if r.FD < 3 || r.Queues < 1 || r.Queues > MaxQueues || r.Name == "" || len(r.Name) > MaxName || strings.ContainsAny(r.Name, "/\x00 \n") {
			t.Fatalf("%+v", r)
		}
	})
}

// The reference lists the options that there are.
func TestOptionsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/helper.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(doc), "\n## Options\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n## ")
	names := func(text string) (all []string) {
		for _, word := range regexp.MustCompile(`--[a-z][a-z-]*`).FindAllString(text, -1) {
			if !slices.Contains(all, word) {
				all = append(all, word)
			}
		}
		return all
	}
	require.ElementsMatch(t, names(Usage), names(table))
}
