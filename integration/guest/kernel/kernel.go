// Package kernel keeps Debian's stock kernel image package, unpacked, in a
// cache directory: a kernel and its modules to boot in QEMU. Nothing is
// installed on the system.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"

	"libvirt-direct/internal/poll"

	"golang.org/x/sys/unix"
)

// CacheVariable is the environment variable that names the cache directory.
const CacheVariable = "LIBVIRT_DIRECT_CACHE"

// metaPackage depends on Debian's newest kernel image package.
const metaPackage = "linux-image-amd64"

// ErrNoPackage is wrapped by the error of Fetch when apt offers no kernel.
var ErrNoPackage = errors.New("no Debian kernel package")

// A Kernel is an unpacked kernel image package. All paths are absolute and
// free of symbolic links.
type Kernel struct {
	// Version is what uname -r prints, "6.1.0-56-amd64".
	Version string
	// Root is the directory that the package was unpacked to.
	Root string
	// Image is the kernel, for QEMU's -kernel and libvirt's <kernel>. It is
	// the uncompressed ELF image, which QEMU enters through its PVH note, or
	// vmlinuz where that could not be decompressed: under TCG, xz takes the
	// guest longer than all the rest of its boot.
	Image string
	// ModulesDir is what the kernel's own /lib/modules would be: it holds
	// the directory Version.
	ModulesDir string
}

// CacheDir returns the cache directory that the environment variable
// LIBVIRT_DIRECT_CACHE names, or .cache next to the go.mod that is nearest
// above the working directory.
func CacheDir() (string, error) {
	if dir := os.Getenv(CacheVariable); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, ".cache"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no cache directory: set %s, or work below the repository", CacheVariable)
		}
		dir = filepath.Dir(dir)
	}
}

// Fetch returns the kernel in cacheDir. If there is none it downloads the one
// that Debian's linux-image-amd64 depends on, with apt, and unpacks it there,
// writing what it does to log; processes that do so at once wait for the first.
// A kernel that is there is never replaced: remove the directory for a newer one.
// A cache is either complete or fetched again.
func Fetch(ctx context.Context, cacheDir string, log io.Writer) (*Kernel, error) {
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the kernel cache: %w", err)
	}
	dir, err := filepath.Abs(cacheDir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("find the kernel cache: %w", err)
	}
	if k, err := cached(dir); k != nil || err != nil {
		return k, err
	}
	unlock, err := Lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if k, err := cached(dir); k != nil || err != nil {
		return k, err
	}
	if err := download(ctx, dir, log); err != nil {
		return nil, err
	}
	return cached(dir)
}

// Lock takes the cache directory's lock, which whoever adds to it holds, until
// the function that it returns is called.
func Lock(ctx context.Context, cacheDir string) (unlock func(), err error) {
	name := filepath.Join(cacheDir, "lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	// Only a blocking flock(2) is woken by the holder, and only polling ends with ctx.
	err = poll.Until(ctx, 50*time.Millisecond, func() (bool, error) {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR):
			return false, nil
		case err != nil:
			return false, &os.PathError{Op: "flock", Path: name, Err: err}
		}
		return true, nil
	})
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if errors.Is(err, poll.ErrGaveUp) {
		err = fmt.Errorf("wait for the lock of %s, which another process holds: %w", cacheDir, ctx.Err())
	}
	return nil, err
}

const prefix = "linux-"

// cached returns the kernel in dir, or nil if there is none.
func cached(dir string) (*Kernel, error) {
	roots, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	if err != nil || len(roots) == 0 {
		return nil, err
	}
	sort.Strings(roots)
	root := roots[len(roots)-1]
	k := &Kernel{
		Version:    strings.TrimPrefix(filepath.Base(root), prefix),
		Root:       root,
		Image:      filepath.Join(root, "vmlinux"),
		ModulesDir: filepath.Join(root, "lib/modules"),
	}
	if _, err := os.Stat(k.Image); errors.Is(err, fs.ErrNotExist) {
		k.Image = filepath.Join(root, "boot/vmlinuz-"+k.Version)
	}
	return k, nil
}

// download needs the cache's lock. What it makes is invisible to cached until
// its last step, a rename.
func download(ctx context.Context, dir string, log io.Writer) error {
	const temporary = "fetch-"
	stale, err := filepath.Glob(filepath.Join(dir, temporary+"*"))
	if err != nil {
		return err
	}
	for _, d := range stale {
		if err := os.RemoveAll(d); err != nil {
			return fmt.Errorf("remove what an interrupted download left: %w", err)
		}
	}
	pkg, err := newestPackage(ctx)
	if err != nil {
		return err
	}
	version := strings.TrimPrefix(pkg, "linux-image-")
	tmp, err := os.MkdirTemp(dir, temporary)
	if err != nil {
		return fmt.Errorf("make the kernel cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	// MkdirTemp's 0700 would keep QEMU out where libvirt runs it as another user.
	root := filepath.Join(tmp, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return fmt.Errorf("make the kernel cache: %w", err)
	}
	fmt.Fprintf(log, "downloading Debian's %s into %s (about 70 MB)\n", pkg, dir)
	if _, err := run(ctx, tmp, "apt-get", "-q", "download", pkg); err != nil {
		return fmt.Errorf("download %s: %w", pkg, err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("download %s: apt-get left %d packages, not one: %w", pkg, len(debs), errors.Join(ErrNoPackage, err))
	}
	if _, err := run(ctx, tmp, "dpkg-deb", "-x", debs[0], root); err != nil {
		return fmt.Errorf("unpack %s: %w", pkg, err)
	}
	// Packages made for a merged /usr have no lib.
	if _, err := os.Stat(filepath.Join(root, "lib")); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(filepath.Join(root, "usr/lib"), filepath.Join(root, "lib")); err != nil {
			return fmt.Errorf("unpack %s: %w", pkg, err)
		}
	}
	if _, err := run(ctx, tmp, "depmod", "-b", root, version); err != nil {
		return fmt.Errorf("index the modules of %s: %w", pkg, err)
	}
	if err := decompressImage(ctx, filepath.Join(root, "boot/vmlinuz-"+version), filepath.Join(root, "vmlinux")); err != nil {
		fmt.Fprintf(log, "guests will start slowly: %v\n", err)
	}
	if err := os.Rename(root, filepath.Join(dir, prefix+version)); err != nil {
		return fmt.Errorf("put %s into the cache: %w", pkg, err)
	}
	return nil
}

var dependsLine = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-[0-9][^\s<>]*)\s*$`)

func newestPackage(ctx context.Context) (string, error) {
	out, err := run(ctx, "", "apt-cache", "depends", metaPackage)
	if err != nil {
		return "", fmt.Errorf("find the kernel package (on Debian; apt-get update first): %w", errors.Join(ErrNoPackage, err))
	}
	m := dependsLine.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("find the kernel package: %w: apt-cache names no dependency of %s", ErrNoPackage, metaPackage)
	}
	return string(m[1]), nil
}

// run returns what the command prints. Its error holds what the command says.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	// LookPath does not see cmd.Env, and depmod is in sbin.
	if errors.Is(cmd.Err, exec.ErrNotFound) {
		for _, sbin := range []string{"/usr/sbin/", "/sbin/"} {
			if _, err := os.Stat(sbin + name); err == nil {
				cmd.Path, cmd.Err = sbin+name, nil
				break
			}
		}
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
