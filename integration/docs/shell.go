package docs

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A Shell is where a reader types.
type Shell struct {
	name       string
	root, home string // the home folder is at root+home for the test
	stdin      *os.File
	done       *bufio.Reader
	count      int
}

// NewShell starts cmd, a bash(1) without arguments, by start. Its home folder exists,
// and is root+home from outside of where it runs. It ends with the test.
func NewShell(tb testing.TB, name, root, home string, cmd *exec.Cmd, start func() error) *Shell {
	tb.Helper()
	must := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	theirs, ours, err := os.Pipe()
	must(err)
	answer, theirAnswer, err := os.Pipe()
	must(err)
	cmd.Args = append(cmd.Args, "--noprofile", "--norc", "-e")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirAnswer, tb.Output()
	must(start())
	theirs.Close()
	theirAnswer.Close()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	tb.Cleanup(func() {
		ours.Close()
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		answer.Close()
	})
	sh := &Shell{name, root, home, ours, bufio.NewReader(answer), 0}
	sh.send("cd " + home)
	return sh
}

// send has a line read by the shell, and waits until it is done; false is its end.
func (sh *Shell) send(line string) bool {
	if _, err := fmt.Fprintf(sh.stdin, "%s\necho\n", line); err != nil {
		return false
	}
	_, err := sh.done.ReadString('\n')
	return err == nil
}

// here is for what a test machine has not: KVM.
func here(text string) string {
	return strings.NewReplacer("<domain type='kvm'>", "<domain type='qemu'>", "-accel kvm", "-accel tcg").Replace(text)
}

// typed types a block and returns what it prints.
func (sh *Shell) typed(b Block) (output string, ok bool, err error) {
	sh.count++
	file := filepath.Join(sh.home, fmt.Sprintf(".%d", sh.count))
	if err := os.WriteFile(filepath.Join(sh.root, file+".sh"), []byte(here(b.Text)), 0o644); err != nil {
		return "", false, err
	}
	run := fmt.Sprintf(". %s.sh >%[1]s.out 2>&1 </dev/null", file)
	switch {
	case b.Says("fails"):
		run = "if ( " + run + " ); then exit 1; fi"
	case b.Says("background"):
		run = ": >" + file + ".out; ( " + run + " ) &"
	}
	ok = sh.send(run)
	out, err := os.ReadFile(filepath.Join(sh.root, file+".out"))
	return string(out), ok, err
}

// Type types a block, which must succeed, and returns what it prints.
func (sh *Shell) Type(t *testing.T, b Block) string {
	t.Helper()
	begin := time.Now()
	out, ok, err := sh.typed(b)
	t.Logf("line %d (%s, %v)\n%s%s", b.Line, sh.name, time.Since(begin).Round(time.Millisecond), b.Text, out)
	switch {
	case err != nil:
		t.Fatal(err)
	case !ok && b.Says("fails"):
		t.Fatal("it succeeds, and the page says that it fails")
	case !ok:
		t.Fatal("it fails")
	}
	return out
}

// Follow types the blocks of a page, a file's name. A block belongs to the shell that
// one of its words names, or else to the first one. After each block then, which may
// be nil, is called with what was printed.
func Follow(t *testing.T, page string, then func(b Block, output string), shells ...*Shell) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	all := Blocks(string(text))
	if len(all) == 0 {
		t.Fatalf("%s has no commands", page)
	}
	for _, b := range all {
		sh := shells[0]
		for _, other := range shells {
			if b.Says(other.name) {
				sh = other
			}
		}
		out := sh.Type(t, b)
		if b.Output != nil && !Shown(*b.Output, out) {
			t.Errorf("line %d of the page shows\n%s", b.Line, *b.Output)
		}
		if then != nil {
			then(b, out)
		}
	}
}
