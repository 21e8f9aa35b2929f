package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/checks"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/topology"
)

var update = flag.Bool("update", false, "rewrite the transcripts' output")

// cli runs the command line as main does.
func cli(t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, stdin, &out, &err)
	return out.String(), err.String(), code
}

// The transcripts in testdata are documentation that is run: prose, and what stands
// behind four spaces. Lines with "$" are commands, in a folder with the files that
// they name; below each is what it prints on standard output, then on standard error
// behind "!", and its exit status in brackets unless it is 0.
func TestTranscripts(t *testing.T) {
	t.Chdir("testdata")
	files, err := filepath.Glob("*.md")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			got := replay(t, string(want))
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
				return
			}
			require.Equal(t, string(want), got)
		})
	}
}

const indent = "    "

// replay returns a transcript with what its commands print now.
func replay(t *testing.T, text string) string {
	var out strings.Builder
	blank := "" // empty lines: within old output they go with it
	output := false
	for line := range strings.Lines(text) {
		command, isCommand := strings.CutPrefix(line, indent+"$ ")
		switch {
		case line == "\n":
			blank += line
			continue
		case output && strings.HasPrefix(line, indent) && !isCommand:
			blank = ""
			continue
		}
		out.WriteString(blank + line)
		blank, output = "", isCommand
		if isCommand {
			for l := range strings.Lines(pipeline(t, strings.TrimSpace(command))) {
				out.WriteString(strings.TrimRight(indent+l, " \n") + "\n")
			}
		}
	}
	return out.String()
}

// pipeline runs commands that a "|" joins. The last one's output and exit status
// count; the others must succeed.
func pipeline(t *testing.T, command string) string {
	var stdin io.Reader = strings.NewReader("")
	parts := strings.Split(command, " | ")
	for i, part := range parts {
		words := strings.Fields(part)
		if at := slices.Index(words, "<"); at >= 0 {
			f, err := os.Open(words[at+1])
			require.NoError(t, err)
			defer f.Close()
			stdin, words = f, words[:at]
		}
		if words[0] == "cat" {
			text, err := os.ReadFile(words[1])
			require.NoError(t, err)
			return string(text)
		}
		require.Equal(t, "libvirt-direct", words[0])
		stdout, stderr, code := cli(t, stdin, words[1:]...)
		if i < len(parts)-1 {
			require.Zero(t, code, "%s: %s", part, stderr)
			stdin = strings.NewReader(stdout)
			continue
		}
		for line := range strings.Lines(stderr) {
			stdout += "! " + line
		}
		if code != 0 {
			stdout += "[" + strconv.Itoa(code) + "]\n"
		}
		return stdout
	}
	return ""
}

func TestUndoGivesTheOriginalBytes(t *testing.T) {
	original, err := os.ReadFile("testdata/vlan.xml")
	require.NoError(t, err)
	rewritten, stderr, code := cli(t, bytes.NewReader(original), "--config", "testdata/config.toml", "rewrite")
	require.Zero(t, code, stderr)
	require.NotEqual(t, string(original), rewritten)
	back, stderr, code := cli(t, strings.NewReader(rewritten), "--config", "testdata/config.toml", "rewrite", "--undo")
	require.Zero(t, code, stderr)
	require.Equal(t, string(original), back)
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			script, stderr, code := cli(t, nil, "completion", shell)
			require.Zero(t, code, stderr)
			require.Contains(t, script, "libvirt-direct")
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skipf("produced, but not parsed: %v", err)
			}
			cmd := exec.CommandContext(t.Context(), path, "-n")
			cmd.Stdin = strings.NewReader(script)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
	out, _, code := cli(t, nil, "__complete", "explain", "--op", "re")
	require.Zero(t, code)
	require.Contains(t, out, "reconnect\n")
	out, _, code = cli(t, nil, "__complete", "s")
	require.Zero(t, code)
	require.Contains(t, out, "status\t")
}

// shownStatus is as much of what status --json prints as the tests look at.
type shownStatus struct {
	Domains []struct {
		Name, UUID, Error string
		Held              []shownStep
	}
	PFs []topology.PF `json:"physical_functions"`
}

type shownStep struct {
	Macvtap    *step.Macvtap
	LinkUp     *step.LinkUp `json:"link_up"`
	Device     *link.Link
	Difference string
}

// sampleJournal makes a journal directory with one domain's macvtap in it, a device that
// nobody has.
func sampleJournal(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	dir, err := journal.Open(path)
	require.NoError(t, err)
	step, err := json.Marshal(step.Step{NIC: "52:54:00:00:00:01", Kind: &step.Macvtap{
		Name: "ldt0123456789", Lower: "lo", Mode: "bridge", MAC: "52:54:00:00:00:01", Index: 1 << 30,
	}})
	require.NoError(t, err)
	require.NoError(t, dir.Save(&journal.Journal{
		UUID: "aaaaaaaa-0000-4000-8000-000000000001", Name: "vm 1",
		Since:   time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		Entries: []journal.Entry{{Resource: "link/ldt0123456789", Gen: 1, Phase: journal.Done, Step: step}},
	}))
	corrupt := filepath.Join(path, "domains", "bbbbbbbb-0000-4000-8000-000000000002.json")
	require.NoError(t, os.WriteFile(corrupt, []byte("{"), 0o600))
	return path
}

func TestStatusOfNothing(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	out, stderr, code := cli(t, nil, "status", "--journal", none)
	require.Zero(t, code, stderr)
	require.Equal(t, "nothing is held\n", out)
	out, stderr, code = cli(t, nil, "status", "--journal", none, "--json")
	require.Zero(t, code, stderr)
	require.Regexp(t, `"domains": \[\],\s+"physical_functions": \[`, out)
	require.NoDirExists(t, none)
}

func TestStatusShowsWhatIsGoneAndWhatCannotBeRead(t *testing.T) {
	dir := sampleJournal(t)
	out, stderr, code := cli(t, nil, "status", "--journal", dir)
	require.Zero(t, code, stderr)
	require.Contains(t, out, `domain "vm 1" (aaaaaaaa-0000-4000-8000-000000000001) since 2026-03-04`)
	require.Contains(t, out, "  NIC 52:54:00:00:00:01: macvtap ldt0123456789 on lo (bridge, hook-owned)\n    BUT: gone\n")
	require.Contains(t, out, "domain bbbbbbbb-0000-4000-8000-000000000002: journal file cannot be trusted")

	out, stderr, code = cli(t, nil, "status", "--journal", dir, "--json")
	require.Zero(t, code, stderr)
	var host shownStatus
	require.NoError(t, json.Unmarshal([]byte(out), &host))
	all := host.Domains
	require.Len(t, all, 2)
	require.Equal(t, "vm 1", all[0].Name)
	require.Equal(t, "gone", all[0].Held[0].Difference)
	require.Equal(t, "ldt0123456789", all[0].Held[0].Macvtap.Name)
	require.NotEmpty(t, all[1].Error)
	require.NotContains(t, out, "null", "a program can count on lists")
}

// Every faulty section is told, not the first alone.
func TestCheckListsEveryFault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	require.NoError(t, os.WriteFile(file, []byte("[vlan]\ncreate = \"some\"\n[uplink.a]\n[uplink.b]\ndevcie = \"x\"\n[uplink.lo]\ndevice = \"lo\"\n[profile.p]\nvlan = 4095\n"), 0o644))
	out, _, code := cli(t, nil, "check", "--json", "--config", file, "--journal", sampleJournal(t))
	require.Equal(t, exitFault, code)
	var found []checks.Finding
	require.NoError(t, json.Unmarshal([]byte(out), &found))
	var faults, uplinks []string
	for _, f := range found {
		switch {
		case f.About == "config":
			require.Equal(t, checks.Fault, f.Level)
			faults = append(faults, strings.TrimPrefix(f.Text, file))
		case strings.HasPrefix(f.About, "uplink "):
			uplinks = append(uplinks, f.About)
		}
	}
	require.Equal(t, []string{
		`:2: vlan: create = "some": want "any", "uplinks" or "never"`,
		`:3: uplink.a: say exactly one of device, pci and mac`,
		`:5: unknown key "uplink.b.devcie"; did you mean "device"?`,
		`:9: profile.p: vlan = 4095: want 1 to 4094`,
	}, faults)
	require.Contains(t, uplinks, "uplink lo", "the sound ones are looked at")
}

func TestCheckJSON(t *testing.T) {
	out, stderr, code := cli(t, nil, "check", "--json", "--config", "testdata/broken.toml", "--journal", sampleJournal(t))
	require.Equal(t, exitFault, code)
	require.Empty(t, stderr, "all is said on standard output")
	var found []checks.Finding
	require.NoError(t, json.Unmarshal([]byte(out), &found))
	at := slices.IndexFunc(found, func(f checks.Finding) bool { return f.About == "config" })
	require.GreaterOrEqual(t, at, 0)
	require.Equal(t, checks.Finding{Level: checks.Fault, About: "config", Text: `testdata/broken.toml:2: unknown key "uplink.storage.devcie"; did you mean "device"?`}, found[at])
	for _, f := range found {
		require.Contains(t, []checks.Level{checks.OK, checks.Note, checks.Fault}, f.Level)
		require.NotEmpty(t, f.Text)
		require.NotContains(t, f.Text, "\n")
	}
}

func TestInterruptedIsNotAUsageError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	doc, err := os.Open("testdata/vlan.xml")
	require.NoError(t, err)
	defer doc.Close()
	require.Equal(t, exitFault, run(ctx, []string{"--config", "testdata/config.toml", "explain"}, doc, io.Discard, &stderr))
	require.Equal(t, "libvirt-direct: interrupted\n", stderr.String())
}

func TestHugeDocumentIsRefused(t *testing.T) {
	_, stderr, code := cli(t, bytes.NewReader(make([]byte, maxXML+1)), "explain")
	require.Equal(t, exitFault, code)
	require.Equal(t, "libvirt-direct: the domain XML is larger than 16 MiB\n", stderr)
}

func TestSaidSettings(t *testing.T) {
	whose, err := saidSettings([]string{"52:54:00:AA:00:01=52-54-00-aa-00-02", "ua-old=", " ua-x = ua-y ", "52:54:0:aa:0:3=ua-z"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"52:54:00:aa:00:01": "52:54:00:aa:00:02", "ua-old": "", "ua-x": "ua-y", "52:54:00:aa:00:03": "ua-z"}, whose)
	for _, bad := range [][]string{{""}, {"52:54:00:aa:00:01"}, {"=52:54:00:aa:00:01"}, {"ua-x=a", "ua-x=b"}} {
		_, err := saidSettings(bad)
		require.ErrorContains(t, err, "--settings")
	}
}
