package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
)

// ifupOwner stands in the ports that ifup makes. They are no domain's.
const ifupOwner = "ifup"

// asScript returns the command line that a program's arguments mean. QEMU calls a
// script with the device's name and nothing else, so that what else there is to say
// stands in the script's name: a link called ifup-NAME is `ifup --on NAME`.
func asScript(args []string) []string {
	name := filepath.Base(args[0])
	if name, ok := strings.CutPrefix(name, "ifup-"); ok {
		return append([]string{"ifup", "--on", name}, args[1:]...)
	}
	if strings.HasPrefix(name, "ifdown-") || name == "ifdown" {
		return append([]string{"ifdown"}, args[1:]...)
	}
	return args[1:]
}

func ifupCommand(o *options) *cobra.Command {
	var on string
	var vlan int
	c := &cobra.Command{
		Use:   "ifup --on NAME [--vlan VID] DEVICE",
		Short: "Make a tap a port of Open vSwitch, as QEMU's script=",
		Long: `ifup is for QEMU's -netdev tap,script=, which calls a program with the name of the tap device that
it has made. NAME is a profile of the configuration whose uplink is a bridge of Open vSwitch,
an uplink, or the bridge itself. Since QEMU can say nothing but the device, a symbolic link called
ifup-NAME does the same as --on NAME.

The port is there, and the switch has made it, when ifup ends. A guest that is killed leaves its
port behind; the next ifup, gc and watch remove it.`,
		Example: `  ln -s /usr/bin/libvirt-direct /etc/qemu/ifup-fabric
  ln -s /usr/bin/libvirt-direct /etc/qemu/ifdown-fabric
  qemu-system-x86_64 -netdev tap,id=n0,script=/etc/qemu/ifup-fabric,downscript=/etc/qemu/ifdown-fabric …`,
		Args: oneDevice,
		RunE: func(c *cobra.Command, args []string) error {
			if on == "" {
				return usageError{errors.New("ifup needs --on NAME, or to be called as ifup-NAME")}
			}
			if vlan < 0 || vlan > 4094 {
				return usageError{fmt.Errorf("--vlan %d: want 1 to 4094", vlan)}
			}
			ctx, cancel := o.deadline(c)
			defer cancel()
			return o.ifup(ctx, args[0], on, vlan)
		},
	}
	c.Flags().StringVar(&on, "on", "", "profile, uplink or bridge by its `NAME`")
	c.Flags().IntVar(&vlan, "vlan", 0, "tag, instead of the profile's `VID`")
	return c
}

func ifdownCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "ifdown DEVICE",
		Short: "Remove the port that ifup made, as QEMU's downscript=",
		Long:  "ifdown removes a port that ifup has made, and no other. One that is gone is no error.",
		Args:  oneDevice,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := o.deadline(c)
			defer cancel()
			db := hooks.FindSwitch(o.config)
			defer db.Close()
			_, err := db.Detach(ctx, args[0], ifupOwner)
			return err
		},
	}
}

func oneDevice(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("%s takes the name of one device", c.Name())}
	}
	if !config.ValidIfname(args[0]) {
		return usageError{fmt.Errorf("%s: %q is no device name", c.Name(), args[0])}
	}
	return nil
}

func (o *options) ifup(ctx context.Context, device, on string, vlan int) error {
	cfg, err := config.Load(o.config)
	if err != nil {
		return err
	}
	k, err := link.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	port, err := ifupPort(ctx, k, cfg, on, vlan)
	if err != nil {
		return err
	}
	port.Name = device
	tap, err := k.ByName(ctx, device)
	if err != nil {
		return err
	}
	db := hooks.FindSwitch(o.config)
	defer db.Close()
	if _, err := hooks.SweepPorts(ctx, k, db); err != nil {
		return err
	}
	if err := k.DisableIPv6(ctx, device); err != nil {
		return err
	}
	if err := k.SetUp(ctx, tap.Index, true); err != nil {
		return err
	}
	if err := db.Attach(ctx, port); err != nil {
		_, undoErr := db.Detach(context.WithoutCancel(ctx), device, ifupOwner)
		return errors.Join(err, undoErr)
	}
	return nil
}

// ifupPort is the port that a profile, an uplink or a bridge means.
func ifupPort(ctx context.Context, k step.Kernel, cfg *config.Config, on string, vlan int) (ovs.Port, error) {
	profile, there := cfg.Profiles[on]
	if !there {
		profile = &config.Profile{}
	}
	// A bridge that an uplink with a faulty section could mean is not for guessing.
	if err := errors.Join(cfg.ProfileFault(on), cfg.UplinkFault(cmp.Or(profile.Uplink, on))); err != nil {
		return ovs.Port{}, err
	}
	if vlan == 0 {
		vlan = profile.VLAN
	}
	uplink := cfg.UplinkCalled(on)
	if there {
		uplink = cfg.Uplinks[profile.Uplink]
	}
	bridge := on
	switch {
	case uplink != nil:
		l, err := hooks.FindUplink(ctx, k, uplink)
		if err != nil {
			return ovs.Port{}, fmt.Errorf("uplink %q: %w", uplink.Name, err)
		}
		bridge = l.Name
	case there:
		return ovs.Port{}, fmt.Errorf("profile %q names no uplink; add uplink = \"…\" to [profile.%s] in %s", on, on, config.Path)
	}
	return plan.ProfilePort(bridge, ifupOwner, profile, uplink, vlan)
}

// sweepTime is how often watch looks for ports whose guest has been killed.
const sweepTime = time.Minute

// sweepPorts removes what killed guests of the helper and of ifup have left in Open
// vSwitch, until the context ends.
func (w *watcher) sweepPorts(ctx context.Context) {
	tick := time.NewTicker(sweepTime)
	defer tick.Stop()
	for {
		for _, name := range w.sweepOnce(ctx) {
			w.log.Info("removed Open vSwitch port " + name + ", whose guest is gone")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweepOnce leaves what fails to the next time: most hosts have no Open vSwitch.
func (w *watcher) sweepOnce(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	k, err := link.Open()
	if err != nil {
		return nil
	}
	defer k.Close()
	db := hooks.FindSwitch(w.config)
	defer db.Close()
	removed, err := hooks.SweepPorts(ctx, k, db)
	if err != nil && !errors.Is(err, ovs.ErrUnreachable) && ctx.Err() == nil {
		w.log.Warn("watch: " + hooks.OneLine(err))
	}
	return removed
}
