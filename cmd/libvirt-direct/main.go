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
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
	"libvirt-direct/internal/libvirtd"
	"libvirt-direct/internal/link"
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
	os.Exit(run(ctx, asScript(os.Args), os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	addCobras(root)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFound):
		return exitFault
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "libvirt-direct: interrupted")
		return exitFault
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintf(stderr, "libvirt-direct: %s (see --timeout)\n", hooks.OneLine(err))
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
		Args:          unknownCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if o.timeout <= 0 {
				return usageError{fmt.Errorf("--timeout %v: want more than 0, such as 10s", o.timeout)}
			}
			return nil
		},
	}
	root.SetVersionTemplate("libvirt-direct {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&o.config, "config", config.Path, "the host's configuration `FILE`")
	flags.StringVar(&o.journal, "journal", journal.DefaultDir, "the journal's `DIRECTORY`")
	flags.StringVar(&o.connect, "connect", libvirtd.DefaultURI, "libvirt `URI`")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up after this `TIME`, such as 10s")
	root.AddCommand(explainCommand(o), rewriteCommand(o), statusCommand(o), checkCommand(o), gcCommand(o), watchCommand(o), runCommand(o), vfCommand(o), vsiCommand(o), ifupCommand(o), ifdownCommand(o), graphCommand(o))
	for _, c := range root.Commands() {
		c.DisableFlagsInUseLine = true
	}
	return root
}

// addCobras adds cobra's own commands, which take a wrong word for a question, and
// makes it an error there too. completion keeps the output that root has now.
func addCobras(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			c.Args, c.RunE = unknownCommand, func(c *cobra.Command, _ []string) error { return c.Help() }
		case "help":
			c.Run, c.RunE = nil, func(_ *cobra.Command, args []string) error {
				about, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return usageError{fmt.Errorf("no help about %q", strings.Join(args, " "))}
				}
				return about.Help()
			}
		}
	}
}

// unknownCommand refuses operands where a command's name belongs.
func unknownCommand(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command %q", args[0])}
	}
	return nil
}

// noArgs refuses operands, as a usage error.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no operand, and there is %q", c.Name(), args[0])}
	}
	return nil
}

// complete offers words for a flag's value in a shell.
func complete(c *cobra.Command, flag string, words ...string) {
	// It fails for a flag that is not there or has words already: neither can be.
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// deadline bounds a command.
func (o *options) deadline(c *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Context(), o.timeout)
}

// maxXML bounds a domain document on standard input.
const maxXML = 16 << 20

// readDomain reads a domain's XML from standard input.
func readDomain(c *cobra.Command) (*xmlfilter.Domain, error) {
	if f, ok := c.InOrStdin().(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			fmt.Fprintln(c.ErrOrStderr(), "reading a domain's XML from the terminal; end with Ctrl-D")
		}
	}
	doc, err := io.ReadAll(io.LimitReader(c.InOrStdin(), maxXML+1))
	if err != nil {
		return nil, fmt.Errorf("read the domain XML: %w", err)
	}
	if len(doc) > maxXML {
		return nil, fmt.Errorf("the domain XML is larger than %d MiB", maxXML>>20)
	}
	return xmlfilter.Parse(doc)
}

// view is what Plan and Rewrite need of this host.
type view struct {
	cfg  *config.Config
	host plan.Snapshot
}

func (o *options) survey(ctx context.Context, rec hooks.Records, d *xmlfilter.Domain) (view, error) {
	cfg, err := config.Load(o.config)
	if err != nil {
		return view{}, err
	}
	v := view{cfg: cfg}
	err = withKernel(func(k *link.Conn) (err error) {
		rec.AskSwitch(ctx, cfg, d, hooks.OpenSwitch(o.config))
		v.host, err = hooks.Survey(ctx, k, cfg, rec, d)
		return err
	})
	return v, err
}

// withKernel lets f ask the kernel.
func withKernel(f func(*link.Conn) error) error {
	k, err := link.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	return f(k)
}

// records are where it is written down who has what on this host.
func (o *options) records() hooks.Records {
	return hooks.Records{Journal: journal.Existing(o.journal), Libvirt: hooks.LibvirtFolder(hooks.LibvirtDir)}
}

func explainCommand(o *options) *cobra.Command {
	var op string
	known := []string{"rewrite", "prepare", "start", "started", "stopped", "release", "migrate", "restore", "reconnect"}
	c := &cobra.Command{
		Use:     "explain [--op OPERATION] < domain.xml",
		Short:   "Say what the hook would do for a domain, and touch nothing",
		Example: "  virsh dumpxml --inactive vm1 | libvirt-direct explain",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("op") && !slices.Contains(known, op) {
				return usageError{fmt.Errorf("--op %q: want %s", op, strings.Join(known, ", "))}
			}
			d, err := readDomain(c)
			if err != nil {
				return err
			}
			ctx, cancel := o.deadline(c)
			defer cancel()
			cfg, err := config.Load(o.config)
			if err != nil {
				return err
			}
			rec := o.records()
			others := rec.Known()
			// What rewrite would give its NICs names devices, too. Why it would not, Explain says.
			looked, _, _ := hooks.Repair(d, cfg, others)
			v, err := o.survey(ctx, rec, looked)
			v.host.Known = others
			if err == nil {
				err = withKernel(func(k *link.Conn) error { return hooks.SurveySpoofers(ctx, k, d, v.cfg, &v.host) })
			}
			if err != nil {
				return err
			}
			return hooks.Explain(c.OutOrStdout(), step.Op(op), d, v.cfg, v.host)
		},
	}
	c.Flags().StringVar(&op, "op", "", "only this `OPERATION` of the hook: "+strings.Join(known, ", "))
	complete(c, "op", known...)
	return c
}
