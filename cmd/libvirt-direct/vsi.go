package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/link"
	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

// vsiOptions are the flags of the vsi commands.
type vsiOptions struct {
	*options
	socket string
	json   bool
}

func vsiCommand(o *options) *cobra.Command {
	v := &vsiOptions{options: o}
	c := &cobra.Command{
		Use:   "vsi",
		Short: "Show and change what vdpd has associated with the switch (802.1Qbg)",
		Long: `vsi asks vdpd, the host's 802.1Qbg station, for its VSIs: a guest's NIC with a
<virtualport type='802.1Qbg'> is one. It needs root, or vdpd's control_group.`,
		Args: unknownCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVar(&v.socket, "socket", control.DefaultPath, "vdpd's control socket, a `FILE`")
	c.AddCommand(v.uplinks(), v.list(), v.show(), v.associate(), v.disassociate(), v.events())
	for _, sub := range c.Commands() {
		sub.DisableFlagsInUseLine = true
	}
	return c
}

func (o *vsiOptions) client() *control.Client { return control.NewClient(o.socket) }

func (o *vsiOptions) addJSON(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return c
}

func (o *vsiOptions) uplinks() *cobra.Command {
	return o.addJSON(&cobra.Command{
		Use:   "uplinks [--json]",
		Short: "Show vdpd's uplinks: the switch at the other end, the edition in use, the timers",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return report(o.options, c, o.json, o.status, func(w io.Writer, all []uplink) {
				for i := range all {
					all[i].print(w)
				}
			})
		},
	})
}

// uplink is one of vdpd's, with what vdpd does not look at.
type uplink struct {
	control.Uplink
	// Spoofers are the lines of hooks.Spoofers.
	Spoofers []string `json:"spoofers,omitempty"`
}

func (o *vsiOptions) status(ctx context.Context) ([]uplink, error) {
	known, err := o.client().Status(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]uplink, len(known))
	for i := range known {
		all[i].Uplink = known[i]
	}
	// vdpd's own answer is printed whatever the kernel says beside it.
	_ = withKernel(func(k *link.Conn) error {
		for i := range all {
			all[i].Spoofers, _ = hooks.UplinkSpoofers(ctx, k, &all[i].Uplink)
		}
		return nil
	})
	return all, nil
}

func (u *uplink) print(w io.Writer) {
	link := "down"
	switch {
	case u.Ifindex == 0:
		link = "absent"
	case u.Link:
		link = "up since " + u.LinkSince.Local().Format("2006-01-02 15:04:05")
	}
	name := u.Name
	if u.Device != "" && u.Device != u.Name {
		name += " (now " + u.Device + ")"
	}
	fmt.Fprintf(w, "%s: link %s, edition %s\n", name, link, u.Edition)
	if u.Error != nil {
		fmt.Fprintf(w, "  NOT READY  %s\n", u.Error)
	}
	if s := u.Switch; s != nil {
		relay := map[bool]string{true: "on", false: "off"}[s.ReflectiveRelay]
		fmt.Fprintf(w, "  switch     chassis %s, port %s, address %s; reflective relay %s\n", s.Chassis, s.Port, s.Source, relay)
	} else {
		fmt.Fprintf(w, "  switch     has sent no EVB TLV\n")
	}
	for _, a := range u.Others {
		fmt.Fprintf(w, "  CONFLICT   %s, sends EVB TLVs too\n", a)
	}
	if len(u.Pins) > 0 {
		fmt.Fprintf(w, "  pins       %s\n", strings.Join(u.Pins, ", "))
	}
	for _, line := range u.Spoofers {
		fmt.Fprintf(w, "  spoofing   %s\n", line)
	}
	fmt.Fprintf(w, "  frames     LLDP %d sent, %d received; ECP %d sent, %d received\n",
		u.Sent.LLDP, u.Received.LLDP, u.Sent.ECP, u.Received.ECP)
	if u.Echoes > 0 {
		fmt.Fprintf(w, "  echoes     %d of this host's own frames came back, and did not count\n", u.Echoes)
	}
	if t := u.Timers; t != nil {
		fmt.Fprintf(w, "  timers     ECP acknowledgement %gms, %d retries; VDP answer %gms; keepalive %gms\n",
			t.ECPAck, t.ECPRetries, t.Answer, t.Keepalive)
		if limited := t.Limited(); len(limited) > 0 {
			fmt.Fprintf(w, "  limits     the switch asks for more than is used: %s\n", strings.Join(limited, ", "))
		}
	}
	fmt.Fprintf(w, "  VSIs       %d, %d of them established\n", u.VSIs, u.Established)
}

func (o *vsiOptions) list() *cobra.Command {
	var uplink string
	c := o.addJSON(&cobra.Command{
		Use:   "list [--uplink NAME] [--json]",
		Short: "List the VSIs and how far the switch has followed",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return report(o.options, c, o.json, func(ctx context.Context) ([]control.VSIStatus, error) {
				all, err := o.client().List(ctx, uplink)
				if all == nil {
					all = []control.VSIStatus{} // JSON's []
				}
				return all, err
			}, printVSIs)
		},
	})
	c.Flags().StringVar(&uplink, "uplink", "", "only this uplink, an interface's `NAME`")
	return c
}

func printVSIs(w io.Writer, all []control.VSIStatus) {
	if len(all) == 0 {
		fmt.Fprintln(w, "there are no VSIs")
		return
	}
	// Package tabwriter takes a microsecond for a line, and there may be 64,000.
	rows := make([][5]string, 0, 1+len(all))
	rows = append(rows, [5]string{"UPLINK", "VSI", "STATE", "MODE", "FILTERS"})
	for i := range all {
		v := &all[i]
		rows = append(rows, [5]string{v.Uplink, v.VSI.ID, v.StateText(), v.Mode, v.VSI.FilterText()})
	}
	var width [4]int
	for i := range rows {
		for c := range width {
			width[c] = max(width[c], utf8.RuneCountInString(rows[i][c]))
		}
	}
	spaces := strings.Repeat(" ", 2+max(width[0], width[1], width[2], width[3]))
	out := bufio.NewWriterSize(w, 64<<10)
	defer out.Flush()
	for i := range rows {
		for c, cell := range rows[i] {
			_, _ = out.WriteString(cell)
			if c < len(width) {
				_, _ = out.WriteString(spaces[:2+width[c]-utf8.RuneCountInString(cell)])
			}
		}
		_ = out.WriteByte('\n')
	}
}

// oneVSI reads the operand of a command about one VSI.
func oneVSI(c *cobra.Command, args []string) (vdp.ID, error) {
	if len(args) != 1 {
		return vdp.ID{}, usageError{fmt.Errorf("%s wants one operand, the VSI's UUID (libvirt: instanceid)", c.Name())}
	}
	id, err := vdp.ParseUUID(args[0])
	if err != nil {
		return id, usageError{fmt.Errorf("%s: %q is no UUID", c.Name(), args[0])}
	}
	return id, nil
}

func (o *vsiOptions) show() *cobra.Command {
	return o.addJSON(&cobra.Command{
		Use:   "show [--json] UUID",
		Short: "Show one VSI",
		RunE: func(c *cobra.Command, args []string) error {
			id, err := oneVSI(c, args)
			if err != nil {
				return err
			}
			return report(o.options, c, o.json, func(ctx context.Context) ([]control.VSIStatus, error) {
				return o.client().Show(ctx, id)
			}, func(w io.Writer, found []control.VSIStatus) {
				for i := range found {
					v := &found[i]
					fmt.Fprintf(w, "VSI %s on %s\n  state    %s\n  mode     asked for %s, reached %s\n  manager  %s\n  type     %d, version %d\n  filters  %s\n",
						v.VSI.ID, v.Uplink, v.StateText(), v.Mode, cmp.Or(v.Have, "nothing"), v.VSI.Manager, v.VSI.TypeID, v.VSI.TypeVersion, v.VSI.FilterText())
					if v.Owner != "" {
						fmt.Fprintf(w, "  owner    %s\n", v.Owner)
					}
				}
			})
		},
	})
}

// wantedVSI are the flags of associate.
type wantedVSI struct {
	vdp.VSI      // what the flags fill in by themselves
	uplink, mode string
	mac, manager string
	vlan         vlanFlag
}

// modes are what associate can ask for, the usual one first.
func modes() []string {
	return []string{vdp.Associate.String(), vdp.PreAssociate.String(), vdp.PreAssociateRR.String()}
}

func (o *vsiOptions) associate() *cobra.Command {
	var want wantedVSI
	c := o.addJSON(&cobra.Command{
		Use: "associate --uplink NAME --manager ID --type ID --type-version N --mac MAC [--vlan VID] [--mode MODE] [--json] UUID",
		Example: "  libvirt-direct vsi associate --uplink eth0 --manager 11 --type 1193047 --type-version 2 \\\n" +
			"    --mac 52:54:00:01:02:03 --vlan 100 09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f",
		Short: "Ask the switch for a VSI, and wait for its answer",
		RunE: func(c *cobra.Command, args []string) error {
			v, mode, err := want.parse(c, args)
			if err != nil {
				return err
			}
			return report(o.options, c, o.json, func(ctx context.Context) (control.VSI, error) {
				got, err := o.request(ctx, want.uplink, mode, v)
				return control.FromVDP(&got), err
			}, func(w io.Writer, got control.VSI) {
				fmt.Fprintf(w, "%s: %v granted, %s\n", got.ID, mode, got.FilterText())
			})
		},
	})
	flags := c.Flags()
	flags.StringVar(&want.uplink, "uplink", "", "the uplink, an interface's `NAME`")
	flags.StringVar(&want.mode, "mode", modes()[0], "what to ask for, a `MODE`: "+strings.Join(modes(), ", "))
	flags.StringVar(&want.manager, "manager", "", "the VSI manager's `ID`, 0 to 255")
	flags.Uint32Var(&want.TypeID, "type", 0, "the VSI type's `ID`, 24 bits")
	flags.Uint8Var(&want.TypeVersion, "type-version", 0, "the VSI type's version, a number `N`")
	flags.StringVar(&want.mac, "mac", "", "the NIC's `MAC` address")
	flags.Var(&want.vlan, "vlan", "the VLAN `VID`; 0 lets the switch choose")
	complete(c, "mode", modes()...)
	return c
}

// parse returns the VSI and the mode that the command line means, or a usage error.
func (w *wantedVSI) parse(c *cobra.Command, args []string) (v vdp.VSI, mode vdp.Mode, err error) {
	fail := func(format string, args ...any) (vdp.VSI, vdp.Mode, error) {
		return v, mode, usageError{fmt.Errorf(format, args...)}
	}
	v = w.VSI
	if v.ID, err = oneVSI(c, args); err != nil {
		return v, mode, err
	}
	for _, f := range []string{"uplink", "manager", "type", "type-version", "mac"} {
		if !c.Flags().Changed(f) {
			return fail("associate wants --%s", f)
		}
	}
	if mode, err = vdp.ParseMode(w.mode); err != nil || mode == vdp.DeAssociate {
		return fail("--mode %q: want %s", w.mode, strings.Join(modes(), ", "))
	}
	number, err := strconv.ParseUint(w.manager, 0, 8)
	if err != nil {
		return fail("--manager %q: want a number from 0 to 255", w.manager)
	}
	address, err := net.ParseMAC(w.mac)
	if err != nil || len(address) != 6 {
		return fail("--mac %q: want a MAC address", w.mac)
	}
	v.Manager, v.FilterFormat = vdp.ManagerID{uint8(number)}, vdp.FilterMACVID
	v.Filters = []vdp.Filter{{MAC: vdp.MAC(address), VID: uint16(w.vlan)}}
	if err := v.Validate(vdp.EditionAuto); err != nil {
		return v, mode, usageError{err}
	}
	return v, mode, nil
}

func (o *vsiOptions) request(ctx context.Context, uplink string, m vdp.Mode, v vdp.VSI) (vdp.VSI, error) {
	switch m {
	case vdp.PreAssociate:
		return o.client().PreAssociate(ctx, uplink, v)
	case vdp.PreAssociateRR:
		return o.client().PreAssociateRR(ctx, uplink, v)
	}
	return o.client().Associate(ctx, uplink, v)
}

func (o *vsiOptions) disassociate() *cobra.Command {
	var uplink string
	c := &cobra.Command{
		Use:   "disassociate [--uplink NAME] UUID",
		Short: "Take a VSI back from the switch; a guest that uses it loses its network",
		RunE: func(c *cobra.Command, args []string) error {
			id, err := oneVSI(c, args)
			if err != nil {
				return err
			}
			ctx, cancel := o.deadline(c)
			defer cancel()
			return o.client().DeAssociate(ctx, uplink, id)
		},
	}
	c.Flags().StringVar(&uplink, "uplink", "", "only on this uplink, an interface's `NAME`")
	return c
}

func (o *vsiOptions) events() *cobra.Command {
	return o.addJSON(&cobra.Command{
		Use:   "events [--json]",
		Short: "Print what happens to VSIs, until interrupted; with --json one object on each line",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := o.deadline(c)
			defer cancel()
			s, err := o.client().Subscribe(ctx)
			if err != nil {
				return err
			}
			defer s.Close()
			stop := context.AfterFunc(c.Context(), func() { s.Close() })
			defer stop()
			enc := json.NewEncoder(c.OutOrStdout())
			for {
				e, err := s.Next()
				switch {
				case errors.Is(err, net.ErrClosed):
					return nil
				case err != nil:
					return err
				case o.json:
					err = enc.Encode(e)
				default:
					_, err = fmt.Fprintln(c.OutOrStdout(), eventLine(&e))
				}
				if err != nil {
					return err
				}
			}
		},
	})
}

func eventLine(e *control.Event) string {
	words := []string{e.Time.Local().Format(time.TimeOnly), e.Uplink, e.Type}
	if e.VSI != nil {
		words = append(words, e.VSI.ID, e.Mode, e.VSI.FilterText())
	}
	if e.Source != "" {
		words = append(words, "from", e.Source)
	}
	if e.Error != nil {
		words = append(words, "("+e.Error.Error()+")")
	}
	return strings.Join(words, " ")
}
