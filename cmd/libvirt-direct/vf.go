package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/topology"
)

func vfCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "vf",
		Short: "Show and set SR-IOV virtual functions",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q of vf: want show, set or reset", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(vfShowCommand(o), vfSetCommand(o), vfResetCommand(o))
	return c
}

func printPFs(w io.Writer, pfs []topology.PF) {
	for _, pf := range pfs {
		fmt.Fprintf(w, "%s", pf.Name)
		if pf.Driver != "" {
			fmt.Fprintf(w, " (driver %s)", pf.Driver)
		}
		fmt.Fprintf(w, ": %d virtual functions\n", len(pf.VFs))
		for _, v := range pf.VFs {
			fmt.Fprintf(w, "  VF %d (%s): ", v.Number, v.Device)
			switch {
			case v.Owner != "":
				fmt.Fprintf(w, "domain %q", v.Owner)
			case v.Netdev != "" && v.Used != "":
				fmt.Fprintf(w, "%s, not held by us: %s", v.Netdev, v.Used)
			case v.Netdev != "":
				fmt.Fprintf(w, "%s, held by nobody", v.Netdev)
			case v.Driver != "":
				fmt.Fprintf(w, "driver %s, not held by us", v.Driver)
			default:
				fmt.Fprint(w, "no driver")
			}
			fmt.Fprintln(w)
			if text := v.Wanted.String(); text != "" {
				fmt.Fprintf(w, "    wanted: %s\n", text)
			}
			if text := v.Read.String(); text != "" {
				fmt.Fprintf(w, "    read:   %s\n", text)
			} else {
				fmt.Fprintln(w, "    read:   the driver does not say")
			}
		}
	}
}

func vfShowCommand(o *options) *cobra.Command {
	var asJSON *bool
	c := &cobra.Command{
		Use:   "show [PF] [--json]",
		Short: "Show virtual functions: who has them, what is wanted, what the driver says",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("vf show takes one PF, and there is %q", args[1])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			only := ""
			if len(args) > 0 {
				only = args[0]
			}
			return report(o, c, *asJSON, func(ctx context.Context) ([]topology.PF, error) {
				k, err := link.Open()
				if err != nil {
					return nil, err
				}
				defer k.Close()
				return topology.PhysicalFunctions(ctx, k, o.records(), only)
			}, func(w io.Writer, pfs []topology.PF) {
				if len(pfs) == 0 {
					fmt.Fprintln(w, "no network device has virtual functions; echo N >/sys/class/net/PF/device/sriov_numvfs makes some")
				}
				printPFs(w, pfs)
			})
		},
	}
	asJSON = jsonFlag(c)
	return c
}

func vfSetCommand(o *options) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "set PF VF ATTRIBUTE=VALUE...",
		Short: "Set attributes of a virtual function",
		Long: `set writes the attributes one after the other, reads each back, and undoes what it has written when
the driver refuses one. They are mac, vlan, qos, proto (802.1Q, 802.1ad), trust, spoofchk, queryrss
(on, off), minrate, maxrate (Mbit/s) and linkstate (auto, enable, disable).`,
		Example: "  libvirt-direct vf set ens1f0 3 vlan=42 qos=3 trust=on",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 3 {
				return usageError{errors.New("vf set wants PF VF ATTRIBUTE=VALUE, one or more")}
			}
			return nil
		},
		ValidArgsFunction: completeVFSet,
		RunE: func(c *cobra.Command, args []string) error {
			want, err := parseVFSettings(args[2:])
			if err != nil {
				return usageError{err}
			}
			return o.setVF(c, args[0], args[1], force, func(link.VFSettings) (link.VFSettings, []string) { return want, nil })
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also while a guest has it")
	return c
}

func vfResetCommand(o *options) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "reset PF VF",
		Short: "Take a virtual function's settings back to those of a new one",
		Long: `reset takes away the MAC and the VLAN that the PF has given the VF and the bounds of its rate, and sets
trust off, spoofchk on and linkstate auto, as far as the driver has these.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError{errors.New("vf reset wants PF VF")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return o.setVF(c, args[0], args[1], force, func(now link.VFSettings) (link.VFSettings, []string) {
				// What the driver does not report it does not have.
				return link.FreshVF().Only(func(attr string) bool { _, said := now.Value(attr); return said }), link.VFAttrs()
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also while a guest has it")
	return c
}

// setVF sets what choose returns for the VF as it is now.
func (o *options) setVF(c *cobra.Command, pf, number string, force bool, choose func(link.VFSettings) (want link.VFSettings, optional []string)) error {
	n, err := decimal(number, 1<<16-1)
	if err != nil {
		return usageError{fmt.Errorf("VF %q: want its number", number)}
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s needs root", c.CommandPath())
	}
	ctx, cancel := o.deadline(c)
	defer cancel()
	k, err := link.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	l, err := k.ByName(ctx, pf)
	if err != nil {
		return err
	}
	now, err := k.VF(ctx, l, n)
	if err != nil {
		return err
	}
	owned, err := hooks.VFs(ctx, k, o.records(), l)
	if err != nil {
		return err
	}
	for _, u := range owned {
		nobody := plan.Snapshot{}
		if err := nobody.Available(u, true); u.Number == n && errors.Is(err, step.ErrInUse) && !force {
			return fmt.Errorf("%w; or say --force", err)
		}
	}
	want, optional := choose(now.VFSettings)
	warnings, err := k.SetVF(ctx, l, n, want, optional...)
	for _, w := range warnings {
		fmt.Fprintf(c.ErrOrStderr(), "warning: %s\n", hooks.OneLine(w))
	}
	return err
}

// The parts of a VF's VLAN that are written as attributes of their own.
const (
	attrQoS   = "qos"
	attrProto = "proto"
)

// vfSetNames lists what vf set takes.
func vfSetNames() []string {
	names := []string{link.AttrMAC, link.AttrVLAN, attrQoS, attrProto}
	for _, a := range link.VFAttributes() {
		if !slices.Contains(names, a.Name) {
			names = append(names, a.Name)
		}
	}
	return names
}

// parseVFSettings reads "vlan=42", "trust=on" …
func parseVFSettings(args []string) (link.VFSettings, error) {
	var s link.VFSettings
	vlan := link.VFVLAN{Proto: link.Dot1Q}
	attrs := link.VFAttributes()
	given := map[string]bool{}
	for _, arg := range args {
		name, v, _ := strings.Cut(arg, "=")
		if given[name] {
			return s, fmt.Errorf("%s: %s is given twice", arg, name)
		}
		given[name] = true
		var err error
		switch name {
		case link.AttrVLAN:
			vlan.ID, err = decimal(v, 4094)
			s.VLAN = &vlan
		case attrQoS:
			vlan.QoS, err = decimal(v, 7)
			s.VLAN = &vlan
		case attrProto:
			vlan.Proto = v
			s.VLAN = &vlan
		default:
			i := slices.IndexFunc(attrs, func(a link.VFAttribute) bool { return a.Name == name })
			if i < 0 {
				names := vfSetNames()
				last := len(names) - 1
				return s, fmt.Errorf("%q is no attribute: want %s or %s, each with =VALUE", name, strings.Join(names[:last], ", "), names[last])
			}
			err = attrs[i].Parse(&s, v)
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", arg, err)
		}
	}
	return s, s.Check()
}

// completeVFSet offers the attributes that are not on the line yet, with their values.
func completeVFSet(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) < 2 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	values := map[string][]string{attrProto: {link.Dot1Q, link.Dot1AD}}
	for _, a := range link.VFAttributes() {
		values[a.Name] = a.Values
	}
	var offers []string
	for _, name := range vfSetNames() {
		if slices.ContainsFunc(args[2:], func(arg string) bool { return strings.HasPrefix(arg, name+"=") }) {
			continue
		}
		if values[name] == nil {
			offers = append(offers, name+"=")
		}
		for _, v := range values[name] {
			offers = append(offers, name+"="+v)
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
