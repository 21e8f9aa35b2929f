// Command libvirt-direct is what a person types: it explains, rewrites, shows, checks
// and cleans up what the libvirt hook does unseen.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/libvirtd"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/state"
	"libvirt-direct/internal/version"
	"libvirt-direct/xmlfilter"
)

// Exit codes, as in the manual.
const (
	exitFault = 1 // what was asked for failed, or check found a fault
	exitUsage = 2 // the command line is wrong
)

// usageError is a mistake in the command line.
type usageError struct{ error }

// errFound makes check exit with 1 without a message of its own: it has printed all.
var errFound = errors.New("faults were found")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFound):
		return exitFault
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "libvirt-direct: %s\nSee libvirt-direct --help.\n", hooks.OneLine(err))
		return exitUsage
	default:
		fmt.Fprintf(stderr, "libvirt-direct: %s\n", hooks.OneLine(err))
		return exitFault
	}
}

// options are the flags that several commands share.
type options struct {
	config  string
	journal string
	connect string
	timeout time.Duration
}

func command() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:           "libvirt-direct",
		Short:         "Guests attached directly to the host's network",
		Long:          "libvirt-direct explains, rewrites, shows, checks and cleans up what its libvirt hook does\nunseen during virsh start and virsh shutdown, for guests with <interface type='direct'>.",
		Version:       version.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetVersionTemplate("libvirt-direct {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&o.config, "config", config.Path, "the host's configuration `FILE`")
	flags.StringVar(&o.journal, "journal", state.DefaultDir, "the journal's `DIRECTORY`")
	flags.StringVar(&o.connect, "connect", libvirtd.DefaultURI, "libvirt `URI`")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up after this long")
	root.AddCommand(explainCommand(o), rewriteCommand(o), statusCommand(o), checkCommand(o), gcCommand(o), watchCommand(o))
	return root
}

// noArgs refuses operands, as a usage error.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no %q", c.CommandPath(), args[0])}
	}
	return nil
}

// deadline bounds a command.
func (o *options) deadline(c *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Context(), o.timeout)
}

// maxXML bounds a domain document on standard input.
const maxXML = 16 << 20

// readDomain reads a domain's XML from standard input.
func readDomain(c *cobra.Command) (*xmlfilter.Domain, []byte, error) {
	if f, ok := c.InOrStdin().(*os.File); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode()&os.ModeCharDevice != 0 {
			fmt.Fprintln(c.ErrOrStderr(), "reading a domain's XML from the terminal; end with Ctrl-D")
		}
	}
	doc, err := io.ReadAll(io.LimitReader(c.InOrStdin(), maxXML+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read the domain XML: %w", err)
	}
	if len(doc) > maxXML {
		return nil, nil, fmt.Errorf("the domain XML is larger than %d MiB", maxXML>>20)
	}
	d, err := xmlfilter.Parse(doc)
	return d, doc, err
}

// view is what Plan and Rewrite need of this host.
type view struct {
	cfg  *config.Config
	host hooks.Host
}

func (o *options) survey(ctx context.Context, d *xmlfilter.Domain) (view, error) {
	cfg, err := config.Load(o.config)
	if err != nil {
		return view{}, err
	}
	k, err := link.Open()
	if err != nil {
		return view{}, err
	}
	defer k.Close()
	host, err := hooks.Survey(ctx, k, cfg, d)
	return view{cfg, host}, err
}

func explainCommand(o *options) *cobra.Command {
	var op string
	c := &cobra.Command{
		Use:     "explain [--op OPERATION] < domain.xml",
		Short:   "Say what the hook would do for a domain, and touch nothing",
		Example: "  virsh dumpxml --inactive vm1 | libvirt-direct explain",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			known := []string{"rewrite", "prepare", "start", "started", "stopped", "release", "migrate", "restore", "reconnect"}
			if op != "" && !slices.Contains(known, op) {
				return usageError{fmt.Errorf("--op %q: want one of %v", op, known)}
			}
			d, _, err := readDomain(c)
			if err != nil {
				return err
			}
			ctx, cancel := o.deadline(c)
			defer cancel()
			v, err := o.survey(ctx, d)
			if err != nil {
				return err
			}
			return hooks.Explain(c.OutOrStdout(), hooks.Op(op), d, v.cfg, v.host)
		},
	}
	c.Flags().StringVar(&op, "op", "", "only this `OPERATION` of the hook: rewrite, prepare, start, stopped, release, migrate, restore, reconnect")
	return c
}
