package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/graph"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/libvirtd"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/ovs"
	"libvirt-direct/vdp/control"
	"libvirt-direct/xmlfilter"
)

func graphCommand(o *options) *cobra.Command {
	var format, socket string
	formats := []string{"dot", "svg", "mermaid"}
	c := &cobra.Command{
		Use:   "graph [--format FORMAT]",
		Short: "Draw how the guests' NICs are put together, down to the switch port",
		Long: `graph draws what runs now, from left to right: guests, their taps and macvtaps, VLAN sub-interfaces
and bridges, Open vSwitch's among them, virtual and physical functions, VSIs, and the switch ports that vdpd knows by LLDP. What
is wrong has a red border. It asks libvirt, the kernel, the journal, Open vSwitch and vdpd, and says on
standard error which of them did not answer. Devices in other network namespaces, such as the helper's
invisible macvtaps, are not seen.`,
		Example: "  libvirt-direct graph | dot -Tpdf >nics.pdf\n  libvirt-direct graph --format svg >nics.svg",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !slices.Contains(formats, format) {
				return usageError{fmt.Errorf("--format %q: want %s", format, strings.Join(formats, ", "))}
			}
			ctx, cancel := o.deadline(c)
			defer cancel()
			s, missing, err := o.look(ctx, socket)
			if err != nil {
				return err
			}
			for _, err := range missing {
				fmt.Fprintf(c.ErrOrStderr(), "libvirt-direct: the picture lacks something: %s\n", hooks.OneLine(err))
			}
			g := s.graph()
			text := ""
			switch format {
			case "dot":
				text = graph.DOT(g)
			case "svg":
				text = graph.SVG(g)
			case "mermaid":
				text = graph.Mermaid(g)
			}
			_, err = fmt.Fprint(c.OutOrStdout(), text)
			return err
		},
	}
	c.Flags().StringVar(&format, "format", formats[0], "the picture's `FORMAT`: "+strings.Join(formats, ", "))
	c.Flags().StringVar(&socket, "socket", control.DefaultPath, "vdpd's control socket, a `FILE`")
	complete(c, "format", formats...)
	return c
}

// look collects a scene. What cannot be asked is left out of it, and missing says why.
func (o *options) look(ctx context.Context, socket string) (s *scene, missing []error, err error) {
	s = &scene{uplinks: map[string]string{}}
	k, err := link.Open()
	if err != nil {
		return nil, nil, err
	}
	defer k.Close()
	if s.links, err = k.All(ctx); err != nil {
		return nil, nil, err
	}
	s.held, err = hooks.Status(ctx, k, nil, journal.Existing(o.journal))
	if errors.Is(err, fs.ErrPermission) {
		missing = append(missing, err)
	} else if err != nil {
		return nil, nil, err
	}
	if s.pfs, err = o.physicalFunctions(ctx, k, ""); err != nil {
		return nil, nil, err
	}
	cfg, err := config.Load(o.config)
	if err != nil {
		return nil, nil, err
	}
	for _, fault := range cfg.Faults() {
		missing = append(missing, fault)
	}
	for _, name := range cfg.UplinkNames() {
		l, err := hooks.FindUplink(ctx, k, cfg.Uplinks[name])
		if err != nil {
			missing = append(missing, fmt.Errorf("uplink %s: %w", name, err))
			continue
		}
		s.uplinks[l.Name] = name
	}
	if err := s.askLibvirt(ctx, o.connect); err != nil {
		missing = append(missing, err)
	}
	if _, err := os.Stat(ovs.Socket); err == nil { // most hosts have none
		db := ovs.Open("")
		defer db.Close()
		if s.bridges, err = db.Bridges(ctx); err != nil {
			missing = append(missing, err)
		}
	}
	vdpd := control.NewClient(socket)
	s.stations, err = vdpd.Status(ctx)
	if err == nil {
		s.vsis, err = vdpd.List(ctx, "")
	}
	if err != nil && !errors.Is(err, control.ErrNoDaemon) { // most hosts have none
		missing = append(missing, err)
	}
	return s, missing, nil
}

func (s *scene) askLibvirt(ctx context.Context, uri string) error {
	conn, err := libvirtd.Dial(ctx, uri)
	if err != nil {
		return err
	}
	defer conn.Close()
	running, err := conn.Running(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(running, func(a, b libvirtd.Domain) int { return cmp.Compare(a.Name, b.Name) })
	var failed []error
	for _, r := range running {
		text, err := conn.LiveXML(ctx, r)
		if errors.Is(err, libvirtd.ErrNoDomain) { // it has ended meanwhile
			continue
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		d, err := xmlfilter.Parse([]byte(text))
		if err != nil && !errors.Is(err, xmlfilter.ErrSettings) {
			failed = append(failed, fmt.Errorf("domain %q: %w", r.Name, err))
			continue
		}
		s.guests = append(s.guests, d)
	}
	s.libvirt = len(failed) == 0
	return errors.Join(failed...)
}
