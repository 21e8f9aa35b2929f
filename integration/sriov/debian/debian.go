// Package debian keeps what the SR-IOV tests need and the machine may lack, unpacked
// from Debian's packages in the cache directory of package kernel: a QEMU with an
// SR-IOV card, and the headers to build a kernel module with. Nothing is installed,
// and the machine's own sources of packages stay as they are.
package debian

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"libvirt-direct/integration/guest/kernel"
)

// ErrNoQEMU is wrapped by the error of QEMU when neither the machine nor Debian's
// backports have one with the card.
var ErrNoQEMU = errors.New("no QEMU with an SR-IOV card")

// ErrNoHeaders is wrapped by the error of Module when apt does not offer the cached
// kernel's headers.
var ErrNoHeaders = errors.New("no headers for the cached kernel")

const qemu = "qemu-system-x86_64"

// QEMU returns a QEMU that has the card igb, which came with QEMU 8.0: the machine's
// own, or one from the backports of the machine's Debian release. That is fetched
// once, saying so to log; its suite is found at the archive that the machine's own
// packages come from.
func QEMU(ctx context.Context, cache string, log io.Writer) (program string, err error) {
	if hasIGB(ctx, qemu) {
		return qemu, nil
	}
	root := filepath.Join(cache, "qemu")
	program = filepath.Join(root, "usr/bin", qemu)
	unlock, err := kernel.Lock(ctx, cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	if hasIGB(ctx, program) {
		return program, nil
	}
	if err := fetchQEMU(ctx, cache, root, log); err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoQEMU, err)
	}
	if !hasIGB(ctx, program) {
		return "", fmt.Errorf("%w: that of the backports has none", ErrNoQEMU)
	}
	return program, nil
}

func hasIGB(ctx context.Context, program string) bool {
	// For the whole list of devices QEMU would load modules, from where the
	// machine's own are. For a device that it does not know it exits with 0.
	out, err := exec.CommandContext(ctx, program, "-device", "igb,help").Output()
	return err == nil && bytes.HasPrefix(out, []byte("igb options"))
}

func fetchQEMU(ctx context.Context, cache, root string, log io.Writer) error {
	archive, codename, err := Release(ctx)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(cache, "fetch-qemu-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	suite := codename + "-backports"
	apt, err := privateApt(tmp, archive, codename, suite)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "this machine's QEMU has no SR-IOV card: fetching %s's into %s; nothing is installed\n", suite, root)
	if _, err := run(ctx, tmp, "apt-get", append(apt, "update")...); err != nil {
		return err
	}
	// What it would install or upgrade here is what the unpacked QEMU lacks.
	plan, err := run(ctx, tmp, "apt-get", append(apt, "--simulate", "--no-install-recommends", "-t", suite, "install", "qemu-system-x86")...)
	if err != nil {
		return err
	}
	packages := planned(plan)
	if len(packages) == 0 {
		return fmt.Errorf("apt-get has nothing newer in %s", suite)
	}
	fmt.Fprintf(log, "fetching from %s: %s\n", suite, strings.Join(packages, " "))
	debs := filepath.Join(tmp, "debs")
	return unpack(ctx, debs, root, append(append(apt, "-t", suite, "download"), packages...))
}

// Release returns the archive that this machine's Debian comes from, by apt's own
// sources, and the release's name.
func Release(ctx context.Context) (archive, codename string, err error) {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			codename = strings.Trim(v, `"`)
		}
	}
	out, err := run(ctx, "", "apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(out)) {
		if uri, suite, _ := strings.Cut(strings.TrimSpace(line), "|"); suite == codename && codename != "" {
			return uri, codename, nil
		}
	}
	return "", "", fmt.Errorf("apt has no source for the release %q (apt-get update first)", codename)
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// privateApt returns arguments with which apt-get knows two suites, keeps its lists
// in dir, and sees what is installed on this machine.
func privateApt(dir, archive string, suites ...string) ([]string, error) {
	signed := ""
	if _, err := os.Stat(keyring); err == nil {
		signed = "[signed-by=" + keyring + "] "
	}
	var sources strings.Builder
	for _, s := range suites {
		fmt.Fprintf(&sources, "deb %s%s %s main\n", signed, archive, s)
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	list := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(list, []byte(sources.String()), 0o644); err != nil {
		return nil, err
	}
	return []string{
		"-q", "-o", "Dir::Etc::sourcelist=" + list, "-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::State::lists=" + filepath.Join(dir, "lists"), "-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "APT::Sandbox::User=root",
	}, nil
}

var instLine = regexp.MustCompile(`^Inst ([a-z0-9][a-z0-9+.:-]*) (?:\[[^]]*\] )?\(`)

// planned lists the packages that an `apt-get --simulate install` would unpack.
func planned(out []byte) []string {
	var names []string
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if m := instLine.FindStringSubmatch(s.Text()); m != nil {
			names = append(names, m[1])
		}
	}
	return names
}

// unpack downloads packages into debs and unpacks them; root appears when it is
// complete.
func unpack(ctx context.Context, debs, root string, download []string) error {
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	if _, err := run(ctx, debs, "apt-get", download...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(files) == 0 {
		return errors.Join(errors.New("apt-get downloaded nothing"), err)
	}
	tree := filepath.Join(debs, "root")
	if err := os.Mkdir(tree, 0o755); err != nil { // readable to QEMU as another user
		return err
	}
	for _, f := range files {
		if _, err := run(ctx, debs, "dpkg-deb", "-x", f, tree); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	return os.Rename(tree, root)
}

// Module builds the one-file kernel module at source for the cached kernel and
// returns the .ko file, which stays in the cache until the source changes. It needs
// gcc and make.
func Module(ctx context.Context, k *kernel.Kernel, source string, log io.Writer) (string, error) {
	text, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	name := strings.TrimSuffix(filepath.Base(source), ".c")
	sum := sha256.Sum256(append([]byte(k.Version+"\n"), text...))
	cache := filepath.Dir(k.Root)
	ko := filepath.Join(cache, name+"-"+hex.EncodeToString(sum[:6])+".ko")
	unlock, err := kernel.Lock(ctx, cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(ko); err == nil {
		return ko, nil
	}
	build, err := headers(ctx, cache, k.Version, log)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoHeaders, err)
	}
	tmp, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	for file, data := range map[string][]byte{name + ".c": text, "Makefile": []byte("obj-m := " + name + ".o\n")} {
		if err := os.WriteFile(filepath.Join(tmp, file), data, 0o644); err != nil {
			return "", err
		}
	}
	if out, err := run(ctx, tmp, "make", "-s", "-C", build, "M="+tmp, "modules"); err != nil {
		return "", fmt.Errorf("build %s (apt-get install gcc make): %w %s", source, err, out)
	}
	return ko, os.Rename(filepath.Join(tmp, name+".ko"), ko)
}

var headersLine = regexp.MustCompile(`(?m)^\s*Depends: (linux-(?:headers|kbuild)-[^\s<>]*)\s*$`)

// headers returns the directory to build modules in, fetched where it is missing.
func headers(ctx context.Context, cache, version string, log io.Writer) (string, error) {
	root := filepath.Join(cache, "headers-"+version)
	build := filepath.Join(root, "usr/src/linux-headers-"+version)
	if _, err := os.Stat(build); err == nil {
		return build, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	pkg := "linux-headers-" + version
	out, err := run(ctx, "", "apt-cache", "depends", pkg)
	if err != nil {
		return "", fmt.Errorf("remove %s for a newer kernel: %w", filepath.Join(cache, "linux-"+version), err)
	}
	packages := []string{pkg}
	for _, m := range headersLine.FindAllSubmatch(out, -1) {
		packages = append(packages, string(m[1]))
	}
	fmt.Fprintf(log, "fetching Debian's %s into %s; nothing is installed\n", strings.Join(packages, " "), root)
	tmp, err := os.MkdirTemp(cache, "fetch-headers-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := unpack(ctx, tmp, root, append([]string{"-q", "download"}, packages...)); err != nil {
		return "", err
	}
	// The one absolute path in them.
	makefile := filepath.Join(build, "Makefile")
	text, err := os.ReadFile(makefile)
	if err == nil {
		err = os.WriteFile(makefile, bytes.ReplaceAll(text, []byte("/usr/src/"), []byte(filepath.Join(root, "usr/src")+"/")), 0o644)
	}
	if err != nil {
		os.RemoveAll(root)
		return "", err
	}
	return build, nil
}

// run returns what the command prints. Its error holds what the command says.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return out, fmt.Errorf("%s %s: %w %s", name, args[len(args)-1], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
