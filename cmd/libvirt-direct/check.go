package main

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/libvirtd"
	"libvirt-direct/internal/link"
)

// finding is one line of check.
type finding struct {
	Level string `json:"level"` // "ok", "note" or "FAULT"
	About string `json:"about"`
	Text  string `json:"text"`
}

const (
	levelOK    = "ok"
	levelNote  = "note"
	levelFault = "FAULT"
)

// checker collects findings.
type checker struct {
	*options
	ctx   context.Context
	found []finding
}

func (c *checker) say(level, about, format string, args ...any) {
	c.found = append(c.found, finding{level, about, fmt.Sprintf(format, args...)})
}

func checkCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [--json]",
		Short: "Check that the hook, its configuration and this host are sound",
		Long: `check prints one line for each thing it looks at: "ok", a "note" of what may be meant so, or a
"FAULT" with what to do about it. It exits with 1 if it found a fault.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := o.deadline(cmd)
			defer cancel()
			c := &checker{options: o, ctx: ctx}
			c.hook()
			c.daemon()
			c.uplinks()
			c.networks()
			c.kernel()
			c.helper()
			c.claims()
			c.leftovers()
			w := cmd.OutOrStdout()
			if asJSON {
				if err := printJSON(w, c.found); err != nil {
					return err
				}
			} else {
				table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				for _, f := range c.found {
					fmt.Fprintf(table, "%s\t%s\t%s\n", f.Level, f.About, f.Text)
				}
				if err := table.Flush(); err != nil {
					return err
				}
			}
			if slices.ContainsFunc(c.found, func(f finding) bool { return f.Level == levelFault }) {
				return errFound
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// hooksDir is where libvirt looks for hook programs (SYSCONFDIR of every
// distribution's build; src/util/virhook.c).
const hooksDir = "/etc/libvirt/hooks"

// ourHook reports whether a file is our hook program, by what the Go linker wrote
// into it: it is not run to find out.
func ourHook(path string) bool {
	info, err := buildinfo.ReadFile(path)
	return err == nil && info.Path == "libvirt-direct/hooks/qemu"
}

// executable says what libvirt says: a regular file with any x bit.
func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}

func (c *checker) hook() {
	main := filepath.Join(hooksDir, "qemu")
	var ours []string
	if ourHook(main) {
		ours = append(ours, main)
	}
	entries, err := os.ReadDir(main + ".d")
	if errors.Is(err, fs.ErrPermission) {
		c.say(levelNote, "hook", "not looked at: %s needs root", hooksDir)
		return
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.say(levelFault, "hook", "%v; libvirt cannot start its hooks then", err)
	}
	for _, e := range entries {
		path := filepath.Join(main+".d", e.Name())
		if !ourHook(path) {
			continue
		}
		if hooks.LeftOver(path) {
			c.say(levelNote, "hook", "%s is a package manager's or an editor's copy; it does nothing, remove it", path)
		} else {
			ours = append(ours, path)
		}
	}
	_, err = os.Stat(main)
	taken := err == nil && !ourHook(main)
	switch {
	case len(ours) == 0 && taken:
		c.say(levelFault, "hook", "%s is another program's, and ours is not in %s.d: install it as %s.d/50-libvirt-direct", main, main, main)
		return
	case len(ours) == 0:
		c.say(levelFault, "hook", "it is not installed: copy it to %s, mode 755", main)
		return
	case len(ours) > 1:
		c.say(levelFault, "hook", "it is there more than once, libvirt would run each (%s): remove all but one", strings.Join(ours, ", "))
	}
	for _, path := range ours {
		fi, err := os.Stat(path)
		switch {
		case err != nil:
			c.say(levelFault, "hook", "%v", err)
		case !executable(path):
			c.say(levelFault, "hook", "%s is not executable, so libvirt does not run it: chmod 755 %s", path, path)
		case !rootOwned(fi):
			c.say(levelFault, "hook", "%s can be written by others than root (mode %04o): chown root:root, chmod 755", path, fi.Mode().Perm())
		default:
			c.say(levelOK, "hook", "%s", path)
		}
	}
	if taken && executable(main) {
		c.say(levelNote, "hook", "%s is another program's: libvirt runs it before ours, and no guest starts when it fails", main)
	}
}

func rootOwned(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0 && fi.Mode().Perm()&0o022 == 0
}

// daemon checks that libvirt answers and was started after the hook was installed: it
// looks for hooks once, when it starts or is reloaded.
func (c *checker) daemon() {
	conn, err := libvirtd.Dial(c.ctx, c.connect)
	if err != nil {
		c.say(levelNote, "libvirt", "%s", hooks.OneLine(err))
	} else {
		conn.Close()
		c.say(levelOK, "libvirt", "%s answers", c.connect)
	}
	for _, name := range []string{"libvirtd", "virtqemud"} {
		text, err := os.ReadFile("/run/" + name + ".pid")
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			continue
		}
		started, err := processStart(pid)
		if err != nil {
			continue // it is not running any more
		}
		c.eventPort(name, pid)
		if installed := firstHook(); installed.After(started) {
			c.say(levelNote, name, "it was started at %s, before its first hook was installed at %s; unless it was reloaded since: systemctl reload %s",
				started.Format(time.DateTime), installed.Format(time.DateTime), name)
		} else {
			c.say(levelOK, name, "it was started after the hook was installed")
		}
	}
}

// firstHook returns when the oldest of the executable qemu hooks got there.
func firstHook() time.Time {
	files, _ := filepath.Glob(filepath.Join(hooksDir, "qemu.d", "*")) // the pattern is well-formed
	first := time.Time{}
	for _, f := range append(files, filepath.Join(hooksDir, "qemu")) {
		if fi, err := os.Stat(f); err == nil && executable(f) {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				at := time.Unix(st.Ctim.Unix())
				if first.IsZero() || at.Before(first) {
					first = at
				}
			}
		}
	}
	return first
}

// processStart returns when a process was started: field 22 of /proc/PID/stat, in
// clock ticks since boot (proc(5)).
func processStart(pid int) (time.Time, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return time.Time{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}, err
	}
	boot := time.Now().Add(-time.Duration(now.Nano()))
	const hertz = 100 // USER_HZ, the same on all of Go's Linux architectures
	return boot.Add(time.Duration(ticks) * time.Second / hertz), nil
}

func (c *checker) uplinks() {
	cfg, err := config.Load(c.config)
	if err != nil {
		c.say(levelFault, "config", "%v", err)
		return
	}
	fi, err := os.Stat(c.config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.say(levelOK, "config", "no %s: the defaults hold", c.config)
	case err != nil:
		c.say(levelFault, "config", "%v", err)
	case !rootOwned(fi):
		c.say(levelFault, "config", "%s can be written by others than root: chown root:root, chmod 644", c.config)
	case len(cfg.Faults()) > 0:
	default:
		c.say(levelOK, "config", "%s, with %d uplink(s) and %d profile(s)", c.config, len(cfg.Uplinks), len(cfg.Profiles))
	}
	for _, fault := range cfg.Faults() {
		c.say(levelFault, "config", "%v", fault)
	}
	k, err := link.Open()
	if err != nil {
		c.say(levelFault, "kernel", "%v", err)
		return
	}
	defer k.Close()
	for _, name := range cfg.UplinkNames() {
		about := "uplink " + name
		l, err := hooks.FindUplink(c.ctx, k, cfg.Uplinks[name])
		switch {
		case err != nil:
			c.say(levelFault, about, "%v; mend [uplink.%s] in %s", err, name, c.config)
		case !l.Up:
			c.say(levelNote, about, "%s is down; it is set up with its first guest", l.Name)
		default:
			c.say(levelOK, about, "%s, MTU %d", l.Name, l.MTU)
		}
		if err == nil {
			c.usable(k, about, l)
			c.bridges(k, cfg.Uplinks[name], l)
			c.qbg(name, l.Name)
		}
	}
}

// usable says why no macvtap can be made on an uplink's device, and what to use in its
// place. A card whose virtual functions the guests get needs none on itself, and a port of
// a switch none where they get ports of that: bridges tells of a Linux bridge's.
func (c *checker) usable(k *link.Conn, about string, l link.Link) {
	if l.Port != nil {
		return
	}
	obstacles, err := k.Lower(c.ctx, l.Name, "bridge", k.Elsewhere(c.ctx))
	if err != nil {
		c.say(levelNote, about, "%v", err)
		return
	}
	level := levelFault
	if vfs, err := hooks.VFs(c.ctx, k, c.records(), l); err == nil && len(vfs) > 0 {
		level = levelNote
	}
	if master, err := k.ByIndex(c.ctx, l.Master); err == nil && master.Kind == "openvswitch" {
		level = levelNote
	}
	for _, o := range obstacles {
		if o.Errno != 0 {
			c.say(level, about, "no macvtap can be made on %s: %s", l.Name, o)
		}
	}
}

// kernel checks that the drivers for macvtap and VLAN are there, built in or as a
// module: rtnetlink loads them when they are first asked for.
func (c *checker) kernel() {
	for _, d := range []struct{ module, sys, without string }{
		{"macvtap", "/sys/class/macvtap", "no direct NIC can start"},
		{"8021q", "/proc/net/vlan", "no VLAN sub-interface can be made"},
	} {
		loaded := false
		for _, p := range []string{d.sys, "/sys/module/" + d.module} {
			if _, err := os.Stat(p); err == nil {
				loaded = true
			}
		}
		switch {
		case loaded:
			c.say(levelOK, "driver", "%s is there", d.module)
		case inModules(d.module):
			c.say(levelOK, "driver", "%s is loaded when it is needed", d.module)
		case d.module == "macvtap":
			c.say(levelFault, "driver", "this kernel has no %s: %s", d.module, d.without)
		default:
			c.say(levelNote, "driver", "this kernel has no %s: %s", d.module, d.without)
		}
	}
}

// inModules looks a module up in the running kernel's lists.
func inModules(module string) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		f, err := os.Open(filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]), list))
		if err != nil {
			continue
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if path, _, _ := strings.Cut(lines.Text(), ":"); strings.HasPrefix(filepath.Base(path), module+".ko") {
				return true
			}
		}
	}
	return false
}

// helperPath is where the setuid helper is installed.
const helperPath = "/usr/libexec/qemu-direct-helper"

func (c *checker) helper() {
	fi, err := os.Stat(helperPath)
	if errors.Is(err, fs.ErrNotExist) {
		c.say(levelOK, "helper", "%s is not installed; guests of root do not need it", helperPath)
		return
	}
	if err != nil {
		c.say(levelFault, "helper", "%v", err)
		return
	}
	switch {
	case !rootOwned(fi):
		c.say(levelFault, "helper", "%s can be written by others than root: chown root:kvm, chmod 4750", helperPath)
	case fi.Mode()&os.ModeSetuid == 0: // file capabilities are not enough for it
		c.say(levelFault, "helper", "%s is not setuid: chmod 4750 %s", helperPath, helperPath)
	default:
		c.say(levelOK, "helper", "%s, mode %04o", helperPath, fi.Mode().Perm()|setuidBit(fi))
	}
}

func setuidBit(fi os.FileInfo) os.FileMode {
	if fi.Mode()&os.ModeSetuid != 0 {
		return 0o4000
	}
	return 0
}

func (c *checker) leftovers() {
	if os.Geteuid() != 0 {
		c.say(levelNote, "leftovers", "not looked for: that needs root")
		return
	}
	lines, err := c.collect(c.ctx, true)
	switch {
	case err != nil:
		c.say(levelFault, "leftovers", "%s", hooks.OneLine(err))
	case len(lines) > 0:
		c.say(levelNote, "leftovers", "%d of domains that are not running: look with libvirt-direct gc --dry-run, remove with gc", len(lines))
	default:
		c.say(levelOK, "leftovers", "none")
	}
}
