//go:build integration

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/client"
)

func TestEnvironmentIsIgnored(t *testing.T) {
	bridge(t, "br0")
	acl(t, "allow br0\n")
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o777))
	for _, env := range []string{
		"GODEBUG=inittrace=1,gctrace=1,schedtrace=1", "GOTRACEBACK=crash", "GOMAXPROCS=1", "GOMAXPROCS=-1", "GOGC=1",
		"GOMEMLIMIT=1", "GOCOVERDIR=" + dir, "GORACE=log_path=" + dir + "/x", "LD_PRELOAD=/nonexistent.so",
		"LD_LIBRARY_PATH=" + dir, "LD_DEBUG=all", "PATH=" + dir, "TMPDIR=" + dir, "HOME=" + dir, "LANG=xx_XX", "TZ=:/etc/shadow",
		"GOX=" + strings.Repeat("x", 100000), "=", "GO",
	} {
		a := call{uid: alice, env: []string{env}, args: strings.Fields("--br=br0 --fd=%FD")}.do(t)
		requireGranted(t, a)
		a.close()
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, files)

	a := call{uid: alice, env: []string{"GODEBUG=inittrace=1"}, args: strings.Fields("--br=br9 --fd=%FD")}.do(t)
	require.Equal(t, 1, a.code)
	lines := strings.Split(strings.TrimSpace(a.stderr), "\n")
	require.Contains(t, lines[len(lines)-1], "access denied by acl file")
}

// What the runtime would act on is gone after a second execve, and there is no third.
func TestRuntimeVariablesAreDroppedByExecutingAgain(t *testing.T) {
	addUser(t)
	for env, want := range map[string]int{"GODEBUG=gctrace=1": 2, "GOMAXPROCS=7": 2, "LANG=C": 1} {
		log := filepath.Join(t.TempDir(), "log")
		cmd := strace(t, "-v", "-s", "4096", "-o", log, "-u", "helperalice", "-e", "trace=execve", helper, "--br=x", "--fd=9")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), env}
		_ = cmd.Run()
		b, err := os.ReadFile(log)
		require.NoError(t, err)
		require.Equal(t, want, strings.Count(string(b), "execve("), "%s: %s", env, b)
		if want == 2 {
			require.Contains(t, string(b), `execve("/proc/self/exe", ["`+helper+`", "--br=x", "--fd=9"], []) = 0`)
		}
	}
}

func TestClosedStandardDescriptors(t *testing.T) {
	bridge(t, "br0")
	acl(t, "allow br0\n")
	for _, closed := range []string{"0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"} {
		a := call{uid: alice, wrap: []string{"/bin/sh", "-c", `exec "$0" "$@" ` + closed}, args: strings.Fields("--br=br0 --fd=%FD")}.do(t)
		requireGranted(t, a)
		a.close()
		b := call{uid: alice, wrap: []string{"/bin/sh", "-c", `exec "$0" "$@" ` + closed}, args: strings.Fields("--br=br9 --fd=%FD")}.do(t)
		require.Equal(t, 1, b.code)
		require.Empty(t, b.octets, "the error text must not go to the socket")
	}
}

func TestDescriptorMustBeTheCallersStreamSocket(t *testing.T) {
	bridge(t, "br0")
	acl(t, "allow br0\n")
	_, foreign := socketpairAs(t, bob)
	defer foreign.Close()
	_, roots := socketpairAs(t, 0)
	defer roots.Close()
	socket := func(domain, kind int) *os.File {
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { f.Close() })
		return f
	}
	listening := socket(unix.AF_UNIX, unix.SOCK_STREAM)
	require.NoError(t, unix.Bind(int(listening.Fd()), &unix.SockaddrUnix{Name: "@" + t.Name()}))
	require.NoError(t, unix.Listen(int(listening.Fd()), 1))
	_, datagrams := socketpairOf(t, alice, unix.SOCK_DGRAM)
	_, packets := socketpairOf(t, alice, unix.SOCK_SEQPACKET)
	pipe, _, err := os.Pipe()
	require.NoError(t, err)
	file, err := os.Open("/dev/null")
	require.NoError(t, err)
	for name, f := range map[string]*os.File{
		"another user's": foreign, "root's": roots, "unconnected": socket(unix.AF_UNIX, unix.SOCK_STREAM), "listening": listening,
		"udp": socket(unix.AF_INET, unix.SOCK_DGRAM), "tcp": socket(unix.AF_INET, unix.SOCK_STREAM),
		"datagram": datagrams, "sequential": packets, "pipe": pipe, "device": file,
	} {
		t.Run(name, func(t *testing.T) {
			a := call{uid: alice, socket: f, args: strings.Fields("--br=br0 --fd=%FD")}.do(t)
			requireRefused(t, a, "not a connected unix stream socket of the caller's")
		})
	}
	for _, fd := range []string{"0", "1", "2", "4", "77", "1048576", "99999999999999999999"} {
		a := call{uid: alice, args: []string{"--br=br0", "--fd=" + fd}}.do(t)
		require.Equal(t, 1, a.code)
	}
	requireNothingLeft(t)
}

func TestPeerThatWentAway(t *testing.T) {
	bridge(t, "br0")
	acl(t, "allow br0\n")
	ours, theirs := socketpairAs(t, alice)
	unix.Close(ours)
	a := call{uid: alice, socket: theirs, args: strings.Fields("--br=br0 --fd=%FD")}.do(t)
	require.Equal(t, 1, a.code, "nobody got the descriptor")
	requireNothingLeft(t)
}

func TestResourceLimits(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	acl(t, "allow br0\n")
	profiles(t, lanProfile)
	limits := []string{"--fsize=0", "--fsize=63", "--nproc=1", "--cpu=0", "--cpu=1", "--stack=65536", "--data=1000000", "--as=1000000", "--as=700000000", "--memlock=0", "--sigpending=0", "--locks=0", "--msgqueue=0"}
	for n := 3; n < 20; n++ {
		limits = append(limits, fmt.Sprint("--nofile=", n))
	}
	for _, limit := range limits {
		for _, name := range []string{"br0", "lan"} {
			start := time.Now()
			a := call{uid: alice, wrap: []string{"prlimit", limit, "--"}, args: []string{"--use-vnet", "--fd=%FD", "--br=" + name}}.do(t)
			if a.granted() {
				requireGranted(t, a)
			} else {
				require.Empty(t, a.files, limit)
			}
			a.close()
			require.Less(t, time.Since(start), 4*time.Second, limit)
			if !strings.HasPrefix(limit, "--cpu") && !strings.HasPrefix(limit, "--data") && !strings.HasPrefix(limit, "--as") {
				require.Contains(t, []int{0, 1}, a.code, "%s: %s", limit, a.stderr)
			}
		}
	}
	requireNothingLeft(t)
	requireGranted(t, ask(t, "lan"))
}

func TestNames(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	acl(t, "allow all\ndeny secret\n")
	profiles(t, lanProfile)
	for _, name := range []string{
		"secret", "secretXXXXXXXXXXXXXXXX", "0123456789abcdef", strings.Repeat("a", 65), strings.Repeat("a", 100000), "br0\n", "br0 ", " br0",
		"../br0", "/br0", "br0/", "lan/", "lan//", "lan/52:54:00:aa:bb", "lan/52:54:00:aa:bb:cc:dd", "lan/53:54:00:aa:bb:cc",
		"lan/00:00:00:00:00:00", "lan/ff:ff:ff:ff:ff:ff", "lan/52:54:01:aa:bb:cc", "lan/52:54:00:aa:bb:cc/x", "br0;id", "$(id)", "`id`", "br%d",
		"br\x1b[2J", "br\x7f", "br\xff", "lan\t", "tap%d", "all", "v0", "lo", ".", "..", "br0:1", "",
	} {
		a := ask(t, name)
		require.Equal(t, 1, a.code, "%q: %s", name, a.stderr)
		require.Empty(t, a.files)
		for _, c := range strings.TrimSuffix(a.stderr, "\n") {
			require.True(t, c >= ' ' && c <= '~', "control character in %q", a.stderr)
		}
	}
	requireNothingLeft(t)
}

func TestUntrustedConfiguration(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	const conf = "/etc/libvirt-direct/helper.conf"
	attempt := func(t *testing.T) { requireRefused(t, ask(t, "lan"), "access denied by acl file") }
	profiles(t, lanProfile)
	requireGranted(t, ask(t, "lan")).Close()

	t.Run("group writable", func(t *testing.T) {
		require.NoError(t, os.Chmod(conf, 0o664))
		defer os.Chmod(conf, 0o644)
		attempt(t)
	})
	t.Run("another's", func(t *testing.T) {
		require.NoError(t, os.Chown(conf, alice, 0))
		defer os.Chown(conf, 0, 0)
		attempt(t)
	})
	t.Run("symbolic link", func(t *testing.T) {
		require.NoError(t, os.Rename(conf, conf+".real"))
		require.NoError(t, os.Symlink(conf+".real", conf))
		defer os.Rename(conf+".real", conf)
		attempt(t)
	})
	t.Run("fifo", func(t *testing.T) {
		require.NoError(t, os.Rename(conf, conf+".real"))
		require.NoError(t, unix.Mkfifo(conf, 0o644))
		defer os.Rename(conf+".real", conf)
		attempt(t)
	})
	t.Run("in another's directory", func(t *testing.T) {
		require.NoError(t, os.Chown(filepath.Dir(conf), alice, 0))
		defer os.Chown(filepath.Dir(conf), 0, 0)
		attempt(t)
	})
	t.Run("faulty elsewhere", func(t *testing.T) {
		profiles(t, lanProfile+"[other]\nkind = mactap\n")
		attempt(t)
	})
	t.Run("too large", func(t *testing.T) {
		profiles(t, lanProfile+strings.Repeat("#\n", 200000))
		attempt(t)
	})
}

func TestBridgeACL(t *testing.T) {
	bridge(t, "br0")
	include := func(t *testing.T, name, text string, mode os.FileMode, gid int) string {
		path := "/etc/qemu/" + name
		put(t, path, text)
		require.NoError(t, os.Chown(path, 0, gid))
		require.NoError(t, os.Chmod(path, mode))
		return "include " + path + "\n"
	}
	denied := func(t *testing.T) { requireRefused(t, ask(t, "br0"), "access denied by acl file") }
	t.Run("none", denied)
	t.Run("for those who can read it", func(t *testing.T) {
		acl(t, include(t, "alice.conf", "allow br0\n", 0o640, alice))
		requireGranted(t, ask(t, "br0")).Close()
		requireRefused(t, askAs(t, bob, "br0"), "access denied by acl file")
	})
	t.Run("deny that the caller cannot read", func(t *testing.T) {
		acl(t, "allow all\n"+include(t, "secret.conf", "deny br0\n", 0o600, 0))
		denied(t)
	})
	t.Run("what is for others is no hindrance", func(t *testing.T) {
		acl(t, "allow br0\n"+include(t, "alice.conf", "allow br1\n", 0o640, alice))
		requireGranted(t, askAs(t, bob, "br0")).Close()
	})
	t.Run("unreadable main file", func(t *testing.T) {
		acl(t, "allow all\n")
		require.NoError(t, os.Chmod("/etc/qemu/bridge.conf", 0o600))
		denied(t)
	})
	t.Run("missing include", func(t *testing.T) { acl(t, "allow all\ninclude /etc/qemu/none.conf\n"); denied(t) })
	t.Run("loop", func(t *testing.T) { acl(t, "allow all\ninclude /etc/qemu/bridge.conf\n"); denied(t) })
	t.Run("bomb", func(t *testing.T) {
		acl(t, "allow all\n"+strings.Repeat("include /etc/qemu/bomb.conf\n", 3)+include(t, "bomb.conf", strings.Repeat("include /etc/qemu/bridge.conf\n", 20), 0o644, 0))
		denied(t)
	})
	t.Run("writable include", func(t *testing.T) { acl(t, include(t, "w.conf", "allow br0\n", 0o666, 0)); denied(t) })
	t.Run("syntax", func(t *testing.T) { acl(t, "allow br0\nalow br1\n"); denied(t) })
	t.Run("included device", func(t *testing.T) { acl(t, "allow br0\ninclude /dev/zero\n"); denied(t) })
}

func TestNoNewPrivs(t *testing.T) {
	a := call{uid: alice, wrap: []string{"setpriv", "--no-new-privs"}, args: strings.Fields("--br=br0 --fd=%FD")}.do(t)
	requireRefused(t, a, "no_new_privs is set")
}

func TestUserNamespaces(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lanProfile)
	for _, flags := range [][]string{{"-U"}, {"-Ur"}, {"-Urn"}, {"-Urnm"}, {"-Urp", "-f"}} {
		a := call{uid: alice, wrap: append([]string{"unshare"}, flags...), args: strings.Fields("--br=lan --fd=%FD")}.do(t)
		require.NotZero(t, a.code, "%v", flags)
		require.Empty(t, a.files)
	}
	requireNothingLeft(t)
}

// A network namespace that belongs to another user namespace is reached only with root's help; here root helps.
func TestForeignNetworkNamespace(t *testing.T) {
	profiles(t, lanProfile)
	owner := exec.Command("unshare", "-Urn", "sleep", "60")
	owner.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, owner.Start())
	defer func() { owner.Process.Kill(); owner.Wait() }()
	ns := fmt.Sprintf("/proc/%d/ns/net", owner.Process.Pid)
	own, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.Eventually(t, func() bool { l, err := os.Readlink(ns); return err == nil && l != own }, 5*time.Second, 5*time.Millisecond)
	ours, theirs := socketpairAs(t, alice)
	defer unix.Close(ours)
	defer theirs.Close()
	a := call{uid: 0, socket: theirs, wrap: []string{"nsenter", "--net=" + ns, "setpriv", "--reuid", "64321", "--regid", "64321", "--clear-groups"}, args: strings.Fields("--br=lan --fd=%FD")}.do(t)
	requireRefused(t, a, "belongs to another user namespace")
}

// TestKilledAnywhere kills and stops the helper at random points.
func TestKilledAnywhere(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	profiles(t, lanProfile+"max-per-user = 1\n[tap]\nkind = bridge\nbridge = br0\nallow = everyone\nmax-per-user = 1\n")
	for i := range 150 {
		name := []string{"lan", "tap"}[i%2]
		ours, theirs := socketpairAs(t, alice)
		cmd, _, _ := call{uid: alice, args: []string{"--use-vnet", "--fd=%FD", "--br=" + name}}.command(t, theirs)
		require.NoError(t, cmd.Start())
		theirs.Close()
		time.Sleep(time.Duration(i) * 25 * time.Microsecond)
		_ = cmd.Process.Signal(syscall.SIGSTOP)
		if i%3 == 0 {
			_ = cmd.Process.Signal(syscall.SIGCONT)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		unix.Close(ours)
	}
	requireNothingLeft(t)
	requireGranted(t, ask(t, "lan"))
	requireGranted(t, ask(t, "tap"))
}

// TestKilledAtEverySystemCall does so at each point that matters, in the name of strace's fault injection.
func TestKilledAtEverySystemCall(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lanProfile+"max-per-user = 1\n")
	addUser(t)
	killed := killAtCalls(t, "lan", 3, "openat", "fcntl", "pwrite64", "unshare", "capset", "sendto", "read", "ioctl", "socket", "connect", "setresuid", "sendmsg")
	require.GreaterOrEqual(t, killed, 20, "strace did not kill what it was told to")
	requireNothingLeft(t)
	requireGranted(t, ask(t, "lan"))
}

// killAtCalls has strace kill the helper, called by alice for name, at each of the system calls for the first to the
// times-th time that it is made, and returns how often that happened.
func killAtCalls(t *testing.T, name string, times int, calls ...string) (killed int) {
	t.Helper()
	for _, call := range calls {
		for when := 1; when <= times; when++ {
			if killAt(t, name, call, when) {
				killed++
			}
		}
	}
	return killed
}

func TestQuotaHoldsAgainstParallelCallers(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	profiles(t, "[lan]\nkind = macvtap\nlower = v0\nallow = everyone\nmax-per-user = 2\nmax = 3\n"+
		"[tap]\nkind = bridge\nbridge = br0\nallow = everyone\nmax-per-user = 2\nmax = 3\n")
	for _, name := range []string{"lan", "tap"} {
		var mu sync.Mutex
		perUser, granted := map[uint32]int{}, []answer{}
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				uid := uint32(alice + i%2)
				a := askAs(t, uid, name)
				mu.Lock()
				defer mu.Unlock()
				if a.granted() {
					perUser[uid]++
					granted = append(granted, a)
				}
			}()
		}
		wg.Wait()
		require.Equal(t, 3, len(granted), "of %s: %v", name, perUser)
		require.LessOrEqual(t, perUser[alice], 2)
		require.LessOrEqual(t, perUser[bob], 2)
		for _, a := range granted {
			a.close()
		}
		requireNothingLeft(t)
	}
}

// A stopped helper keeps its own slot and nothing else.
func TestStoppedHelperBlocksNobodyElse(t *testing.T) {
	wire(t, "v0", "v1")
	profiles(t, lanProfile+"max-per-user = 2\nallow = everyone\n")
	for i := range 20 {
		ours, theirs := socketpairAs(t, bob)
		cmd, _, _ := call{uid: bob, args: []string{"--fd=%FD", "--br=lan"}}.command(t, theirs)
		require.NoError(t, cmd.Start())
		theirs.Close()
		time.Sleep(time.Duration(i) * 150 * time.Microsecond)
		_ = cmd.Process.Signal(syscall.SIGSTOP)
		defer func() { cmd.Process.Kill(); cmd.Wait(); unix.Close(ours) }()
	}
	start := time.Now()
	requireGranted(t, ask(t, "lan"))
	requireGranted(t, ask(t, "lan"))
	require.Less(t, time.Since(start), 4*time.Second)
}

func TestDuplicateMAC(t *testing.T) {
	wire(t, "v0", "v1")
	bridge(t, "br0")
	profiles(t, lanProfile+"allow = everyone\n[tap]\nkind = bridge\nbridge = br0\nmac = 52:54:00:*\nallow = everyone\n"+
		"[tap2]\nkind = bridge\nbridge = br0\nmac = any\nanti-spoof = yes\nallow = everyone\n")
	for _, pair := range [][2]string{{"lan", "lan"}, {"tap", "tap"}, {"tap", "tap2"}} {
		a := ask(t, pair[0]+"/52:54:00:00:00:77")
		d, err := client.Inspect(requireGranted(t, a))
		require.NoError(t, err)
		requireRefused(t, askAs(t, bob, pair[1]+"/52:54:00:00:00:77"), "the MAC address is in use by device "+d.Name+" of another user")
		requireRefused(t, ask(t, pair[1]+"/52:54:00:00:00:77"), "the MAC address is in use by your own device "+d.Name)
		a.close()
		requireNothingLeft(t)
	}
	// The host's own address is nobody's either.
	host, err := net.InterfaceByName("v0")
	require.NoError(t, err)
	profiles(t, strings.Replace(lanProfile, "52:54:00:*", "any", 1))
	a := ask(t, "lan/"+host.HardwareAddr.String())
	require.Equal(t, 1, a.code)
	require.Contains(t, a.stderr, "the MAC address is in use by v0 itself")
}

// While devices change their names under the helper's feet, a grant is either on the right device or refused.
func TestRenamedLowerDevice(t *testing.T) {
	wire(t, "v0", "v1")
	wire(t, "v2", "v3")
	profiles(t, lanProfile+"visible = yes\n")
	right, err := net.InterfaceByName("v0")
	require.NoError(t, err)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = exec.Command("ip", "link", "set", "v0", "name", "vx").Run()
				_ = exec.Command("ip", "link", "set", "vx", "name", "v0").Run()
			}
		}
	}()
	for range 20 {
		a := ask(t, "lan")
		if a.granted() {
			d, err := client.Inspect(requireGranted(t, a))
			require.NoError(t, err)
			link, err := os.ReadFile("/sys/class/net/" + d.Name + "/iflink")
			if err == nil {
				require.Equal(t, fmt.Sprint(right.Index), strings.TrimSpace(string(link)))
			}
		}
		a.close()
	}
	close(stop)
	<-done
	for _, l := range leftovers(t) {
		if !strings.ContainsAny(l, "/ ") {
			run(t, "ip", "link", "del", l)
		}
	}
	requireNothingLeft(t)
}

// The answer has a socket of its own, on which no line of the helper's ends up.
func TestCallerNamesAStandardStreamForTheAnswer(t *testing.T) {
	bridge(t, "br0")
	acl(t, "allow br0\n")
	for fd := range 3 {
		ours, theirs := socketpairAs(t, alice)
		cmd, stdout, stderr := call{uid: alice, args: []string{"--br=br0", fmt.Sprint("--fd=", fd)}}.command(t, theirs)
		switch fd {
		case 0:
			cmd.Stdin = theirs
		case 1:
			cmd.Stdout = theirs
		case 2:
			cmd.Stderr = theirs
		}
		require.NoError(t, cmd.Start())
		theirs.Close()
		a := finish(t, cmd, ours, stdout, stderr)
		unix.Close(ours)
		require.Equal(t, 1, a.code)
		require.Empty(t, a.files)
	}
}

// Where the program is setgid too, that is no right to read what its group may.
func TestSetgidBitReadsAnotherGroupsList(t *testing.T) {
	bridge(t, "br0")
	put(t, "/etc/qemu/staff.conf", "allow br0\n")
	require.NoError(t, os.Chmod("/etc/qemu/staff.conf", 0o640))
	acl(t, "include /etc/qemu/staff.conf\n")
	require.NoError(t, os.Chmod(helper, 0o755|os.ModeSetuid|os.ModeSetgid))
	defer os.Chmod(helper, 0o755|os.ModeSetuid)
	requireRefused(t, ask(t, "br0"), "the bridge is not allowed")
}

func TestUserNamesADeviceThatIsNoBridge(t *testing.T) {
	wire(t, "v0", "v1")
	acl(t, "allow all\n")
	profiles(t, "[guests]\nkind = bridge\nbridge = v0\nallow = everyone\n")
	for _, name := range []string{"v0", "guests"} {
		requireRefused(t, ask(t, name), "not a bridge")
	}
}
