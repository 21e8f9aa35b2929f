package vm

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/guest/kernel"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestArgs(t *testing.T) {
	k := &kernel.Kernel{Version: "6.1.0", Root: "/c/linux-6.1.0", Image: "/c/linux-6.1.0/vmlinux", ModulesDir: "/c/linux-6.1.0/lib/modules"}
	igb := Default()
	igb.NIC, igb.IOMMU, igb.Memory = "igb", true, 2048
	igb.QEMU, igb.Kernel = []string{"-device", "edu"}, []string{"loglevel=8"}
	bare := Default()
	bare.NIC = "none"
	for name, tt := range map[string]struct {
		machine Machine
		shares  []string
		kvm     bool
	}{
		"default": {machine: Default()},
		"igb-kvm": {machine: igb, kvm: true},
		"shares":  {machine: bare, shares: []string{"/a", "/b,c d"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := tt.machine.args(k, "/c/initrd", "/tmp/run", tt.shares, tt.kvm)
			got := strings.ReplaceAll(strings.Join(args, " "), " -", "\n-") + "\n"
			golden := filepath.Join("testdata", name+".args")
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
		})
	}
}

// The shell itself says what the script means.
func runScript(t *testing.T, dir string, env, command []string) (string, int) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script(dir, env, command))
	cmd.Env = []string{"PATH=/usr/bin:/bin", "SECRET=1"}
	out, err := cmd.Output()
	if err != nil {
		require.ErrorAs(t, err, new(*exec.ExitError))
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestScript(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a 'b' $c")
	require.NoError(t, os.Mkdir(dir, 0o700))
	env := []string{"PATH=/usr/bin:/bin", "A=1", "B=it's $A\n`id`", "A=2"}

	out, status := runScript(t, dir, env, []string{"pwd"})
	require.Equal(t, dir+"\n", out)
	require.Zero(t, status)

	out, _ = runScript(t, dir, env, []string{"env"})
	require.Contains(t, out, "A=2\n")
	require.NotContains(t, out, "A=1\n")
	require.Contains(t, out, "B=it's $A\n`id`\n")
	require.NotContains(t, out, "SECRET")

	_, status = runScript(t, dir, env, []string{"sh", "-c", "exit 42"})
	require.Equal(t, 42, status)
	_, status = runScript(t, dir, env, []string{"no-such-command"})
	require.Equal(t, 127, status)
	_, status = runScript(t, dir+"/missing", env, []string{"true"})
	require.Equal(t, 126, status)
}

func FuzzQuote(f *testing.F) {
	f.Add("it's")
	f.Add("$(id) \\ \n \"")
	f.Fuzz(func(t *testing.T, word string) {
		if strings.ContainsRune(word, 0) {
			t.Skip("no argument has a NUL")
		}
		out, status := runScript(t, "/", []string{"PATH=/usr/bin:/bin"}, []string{"printf", "%s", word})
		if out != word || status != 0 {
			t.Fatalf("%q became %q, status %d", word, out, status)
		}
	})
}

func TestWritable(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, d := range []string{"wd/out", "prof", "cov"} {
		require.NoError(t, os.MkdirAll(filepath.Join(top, d), 0o700))
	}
	require.NoError(t, os.Symlink("prof", filepath.Join(top, "link")))
	wd := filepath.Join(top, "wd")
	for name, tt := range map[string]struct {
		dirs, env, command, want []string
	}{
		"nothing":          {command: []string{"x.test", "-test.v=true", "-test.coverprofile="}},
		"absolute profile": {command: []string{"x.test", "-test.coverprofile=" + top + "/prof/c.out"}, want: []string{"prof"}},
		"relative profile": {command: []string{"x.test", "-test.cpuprofile=c.out"}, want: []string{"wd"}},
		"output directory": {command: []string{"x.test", "-test.trace=t", "-test.outputdir=out"}, want: []string{"wd/out"}},
		"coverage":         {command: []string{"x.test", "-test.gocoverdir=" + top + "/cov"}, want: []string{"cov"}},
		"GOCOVERDIR":       {env: []string{"GOCOVERDIR=../cov", "X=/"}, command: []string{"x"}, want: []string{"cov"}},
		"once, resolved":   {dirs: []string{"../link", "../prof"}, command: []string{"x"}, want: []string{"prof"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := writable(tt.dirs, wd, tt.env, tt.command)
			require.NoError(t, err)
			var want []string
			for _, d := range tt.want {
				want = append(want, filepath.Join(top, d))
			}
			require.ElementsMatch(t, want, got)
		})
	}
	_, err = writable([]string{"missing"}, wd, nil, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}
