package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/graph"
	"libvirt-direct/internal/topology"
	"libvirt-direct/vdp/control"
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
			t, missing, err := topology.Collect(ctx, topology.Sources{Config: o.config, Records: o.records(), Libvirt: o.connect, Station: socket})
			if err != nil {
				return err
			}
			for _, err := range missing {
				fmt.Fprintf(c.ErrOrStderr(), "libvirt-direct: the picture lacks something: %s\n", hooks.OneLine(err))
			}
			g := t.Graph()
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
