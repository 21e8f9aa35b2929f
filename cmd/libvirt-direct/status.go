package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/libvirtd"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/topology"
)

// hostStatus is what status prints as JSON.
type hostStatus struct {
	Domains []hooks.DomainStatus `json:"domains"`
	PFs     []topology.PF        `json:"physical_functions"`
}

func statusCommand(o *options) *cobra.Command {
	var asJSON *bool
	var claims bool
	c := &cobra.Command{
		Use:   "status [--claims] [--json]",
		Short: "Show what is held for running guests, from the journal and the kernel side by side",
		Long: `status shows what the hook holds for each domain, beside what the kernel shows of it, and the
host's virtual functions. With --claims it lists each claim instead: who has which device, by
what generation, how far that has come, and what the kernel shows of its use.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if claims {
				err = report(o, c, *asJSON, o.claims, printClaims)
			} else {
				err = report(o, c, *asJSON, o.status, printStatus)
			}
			if errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("status needs root: %w", err)
			}
			return err
		},
	}
	asJSON = jsonFlag(c)
	c.Flags().BoolVar(&claims, "claims", false, "list each claim with its evidence")
	return c
}

func (o *options) status(ctx context.Context) (hostStatus, error) {
	k, err := link.Open()
	if err != nil {
		return hostStatus{}, err
	}
	defer k.Close()
	sw := hooks.FindSwitch(o.config)
	defer sw.Close()
	domains, err := hooks.Status(ctx, k, sw, journal.Existing(o.journal))
	if err != nil {
		return hostStatus{}, err
	}
	pfs, err := topology.PhysicalFunctions(ctx, k, o.records(), "")
	return hostStatus{domains, pfs}, err
}

func printStatus(w io.Writer, host hostStatus) {
	if len(host.Domains) == 0 {
		fmt.Fprintln(w, "nothing is held")
	}
	for _, d := range host.Domains {
		if d.Error != "" {
			fmt.Fprintf(w, "domain %s: %s\n", d.UUID, d.Error)
			continue
		}
		fmt.Fprintf(w, "domain %q (%s) since %s\n", d.Name, d.UUID, d.Since.Local().Format("2006-01-02 15:04:05"))
		for _, h := range d.Held {
			fmt.Fprintf(w, "  NIC %s: %s\n", h.NIC, h.Holds())
			if h.Difference != "" {
				fmt.Fprintf(w, "    BUT: %s\n", h.Difference)
			}
		}
	}
	printPFs(w, host.PFs)
}

func (o *options) claims(ctx context.Context) ([]hooks.ClaimStatus, error) {
	k, err := link.Open()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	return hooks.AllClaims(ctx, k, o.records())
}

func printClaims(w io.Writer, all []hooks.ClaimStatus) {
	if len(all) == 0 {
		fmt.Fprintln(w, "nothing is claimed")
	}
	for _, c := range all {
		printClaim(w, c)
	}
}

func printClaim(w io.Writer, c hooks.ClaimStatus) {
	if c.Resource == "" {
		fmt.Fprintf(w, "domain %s: %s\n", c.UUID, c.Error)
		return
	}
	fmt.Fprintf(w, "%s: domain %q (%s), NIC %s, %s", c.Resource, c.Name, c.UUID, c.NIC, c.Phase)
	if c.Gen > 0 {
		fmt.Fprintf(w, ", generation %d", c.Gen)
	}
	switch {
	case c.Reserved:
		fmt.Fprint(w, ", reserved for a start")
	case !c.Holds:
		fmt.Fprint(w, ", void: another claim is above it")
	case c.Stale:
		fmt.Fprint(w, ", stale: the kernel shows no use")
	}
	fmt.Fprintln(w)
	if c.Evidence != "" {
		fmt.Fprintf(w, "  the kernel: %s\n", c.Evidence)
	}
	if c.Error != "" {
		fmt.Fprintf(w, "  not undone yet: %s\n", c.Error)
	}
}

func gcCommand(o *options) *cobra.Command {
	var dry bool
	var forget string
	c := &cobra.Command{
		Use:   "gc [--dry-run | --forget UUID]",
		Short: "Finish or undo what domains have left that are not running any more",
		Long: `gc goes over the journals of domains that libvirt does not have running or starting, and over
devices that carry our mark and that no journal names, and removes what is left of them. A
domain counts as running as long as its QEMU process is there, whatever libvirt knows of it.
It also removes TAP devices that a user of qemu-direct-helper made persistent and left.

With --forget it drops what the journal says of one domain, even if that cannot be read, undoes
nothing, and says what is not put back.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := o.deadline(c)
			defer cancel()
			if os.Geteuid() != 0 {
				return errors.New("gc needs root")
			}
			if forget != "" {
				return o.forget(ctx, c.OutOrStdout(), forget, dry)
			}
			lines, err := o.collect(ctx, dry)
			for _, l := range lines {
				fmt.Fprintln(c.OutOrStdout(), l)
			}
			if err == nil && len(lines) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "nothing is left over")
			}
			return err
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would be done")
	c.Flags().StringVar(&forget, "forget", "", "drop the journal of the domain with this `UUID`, and undo nothing")
	return c
}

func (o *options) forget(ctx context.Context, w io.Writer, uuid string, dry bool) error {
	if dry || !journal.IsUUID(uuid) {
		return usageError{fmt.Errorf("gc --forget %q: want a domain's UUID, and no --dry-run", uuid)}
	}
	lost, err := hooks.Forget(ctx, journal.Existing(o.journal), uuid)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "forgot domain %s; not done, and nobody's to do now:\n", uuid)
	for _, l := range lost {
		fmt.Fprintf(w, "  %s\n", l)
	}
	return nil
}

func (o *options) collect(ctx context.Context, dry bool) ([]string, error) {
	k, err := link.Open()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	dir := journal.Existing(o.journal)
	if !dry {
		if dir, err = journal.Open(o.journal); err != nil {
			return nil, err
		}
	}
	alive, dial, closeAlive := o.liveness(ctx)
	defer closeAlive()
	// A daemon that does not answer is to hold up nobody who waits for a lock of ours.
	if uuids, err := dir.Domains(); err == nil && len(uuids) > 0 {
		if err := dial(); err != nil {
			return nil, err
		}
	}
	gc := &hooks.Collector{
		Kernel: k, Station: hooks.OpenStation, OVS: hooks.OpenSwitch(o.config), Dir: dir, Libvirt: hooks.LibvirtFolder(hooks.LibvirtDir),
		Alive: alive, Taps: k.Taps, DryRun: dry,
	}
	return gc.Run(ctx)
}

// liveness returns how to tell whether a domain is alive. It is as long as its QEMU,
// whose pid file a killed daemon leaves; a daemon that runs knows also of a domain that
// is being started. Without daemon nothing is being started; one that is there and
// does not answer is an error. It is dialled, which may wake it, with the first domain that
// is asked for, or by dial.
func (o *options) liveness(ctx context.Context) (alive func(context.Context, string, string) (bool, error), dial func() error, end func()) {
	hangUp := func() {}
	daemon := sync.OnceValues(func() (*libvirtd.Conn, error) {
		conn, err := libvirtd.Dial(ctx, o.connect)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, nil
		}
		if err == nil {
			hangUp = conn.Close
		}
		return conn, err
	})
	alive = func(ctx context.Context, uuid, _ string) (bool, error) {
		conn, err := daemon()
		if err != nil {
			return false, err
		}
		if alive, err := qemuAlive(uuid); err != nil || alive || conn == nil {
			return alive, err
		}
		return conn.Active(ctx, uuid)
	}
	dial = func() error {
		_, err := daemon()
		return err
	}
	return alive, dial, func() { hangUp() }
}

// qemuAlive looks for a QEMU process of that domain by libvirt's pid files.
func qemuAlive(uuid string) (bool, error) {
	files, err := filepath.Glob("/run/libvirt/qemu/*.pid")
	if err != nil {
		return false, err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			continue // no pid file of libvirt's
		}
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(cmdline), uuid) {
			return true, nil
		}
	}
	return false, nil
}
