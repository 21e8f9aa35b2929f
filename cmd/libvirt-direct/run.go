package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"libvirt-direct/helper/client"
)

func runCommand(o *options) *cobra.Command {
	var nets []string
	var helper string
	c := &cobra.Command{
		Use:   "run --net PROFILE[,mac=MAC][,queues=N][,name=NAME]… -- COMMAND [ARGUMENT…]",
		Short: "Run a program with network descriptors from the helper",
		Long: `run obtains the descriptors of TAP or macvtap devices through the setuid helper and then becomes
COMMAND, which inherits them. It is for what cannot use QEMU's helper=: -sandbox on, several
queues, and programs other than QEMU. In the arguments are replaced

  {fd:NAME}     the descriptor of the network NAME, which is PROFILE unless name= says otherwise
  {fd:NAME:I}   its queue I, counted from 0
  {fds:NAME}    all its queues, with colons between them, as in QEMU's fds=
  {mac:NAME}    the MAC that the guest's NIC must have

The devices go when the last program that holds their descriptors ends, however it ends.`,
		Example: `  libvirt-direct run --net lan -- qemu-system-x86_64 -sandbox on \
    -netdev tap,id=n0,fd={fd:lan} -device virtio-net-pci,netdev=n0,mac={mac:lan} …
  libvirt-direct run --net lan,queues=4 -- qemu-system-x86_64 \
    -netdev tap,id=n0,fds={fds:lan} -device virtio-net-pci,netdev=n0,mq=on,vectors=10,mac={mac:lan} …
  libvirt-direct run --net lan -- cloud-hypervisor --net fd={fd:lan},mac={mac:lan} …`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("run needs a COMMAND behind --")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var wanted []network
			for _, text := range nets {
				n, err := parseNetwork(text)
				if err != nil {
					return usageError{err}
				}
				wanted = append(wanted, n)
			}
			if err := checkReferences(wanted, args); err != nil {
				return usageError{err}
			}
			program, err := exec.LookPath(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := o.deadline(c)
			defer cancel()
			for i := range wanted {
				if err := wanted[i].open(ctx, helper); err != nil {
					return err
				}
			}
			for i := range args {
				args[i] = substitute(wanted, args[i])
			}
			err = unix.Exec(program, args, os.Environ())
			runtime.KeepAlive(wanted) // their finalizers would close what COMMAND inherits
			return fmt.Errorf("%s: %w", program, err)
		},
	}
	// What follows COMMAND is its own, dashes and all.
	c.Flags().SetInterspersed(false)
	c.Flags().StringArrayVar(&nets, "net", nil, "a `NETWORK`: a profile or bridge of the helper's, and options; may be repeated")
	c.Flags().StringVar(&helper, "helper", client.DefaultHelper, "the helper `PROGRAM`")
	return c
}

// network is one --net.
type network struct {
	name    string // in {fd:NAME}
	request client.Request
	files   []*os.File
	fds     []int
	tellMAC bool // the command has {mac:NAME}
	mac     string
}

// parseNetwork reads PROFILE[,mac=MAC][,queues=N][,name=NAME].
func parseNetwork(text string) (network, error) {
	words := strings.Split(text, ",")
	n := network{name: words[0], request: client.Request{Profile: words[0], VNetHdr: true, Queues: 1}}
	if words[0] == "" {
		return n, fmt.Errorf("--net %q names no profile", text)
	}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch key {
		case "mac":
			n.request.MAC, err = net.ParseMAC(value)
		case "queues":
			n.request.Queues, err = decimal(value, 1<<8)
			if err == nil && n.request.Queues < 1 {
				err = errors.New("at least 1")
			}
		case "name":
			n.name = value
		default:
			err = errors.New("known are mac=, queues= and name=")
		}
		if err != nil {
			return n, fmt.Errorf("--net %q: %s: %w", text, w, err)
		}
	}
	if !regexp.MustCompile(`^[\w.-]+$`).MatchString(n.name) {
		return n, fmt.Errorf("--net %q: the name %q needs name= with letters, digits, '.', '_' and '-'", text, n.name)
	}
	return n, nil
}

// reference is {fd:NAME}, {fd:NAME:I}, {fds:NAME} or {mac:NAME}.
func reference() *regexp.Regexp { return regexp.MustCompile(`\{(fds?|mac):([\w.-]+)(?::(\d{1,3}))?\}`) }

// checkReferences notes what a command asks for. It refuses a command that asks for a network it was not given, and one
// that does not use a network it was given: it would hold a device without knowing.
func checkReferences(nets []network, args []string) error {
	used := map[string]bool{}
	for _, m := range reference().FindAllStringSubmatch(strings.Join(args, "\n"), -1) {
		n := find(nets, m[2])
		switch {
		case n == nil:
			return fmt.Errorf("%s: there is no --net of that name", m[0])
		case m[3] != "" && m[1] != "fd":
			return fmt.Errorf("%s: only {fd:…} has a queue number", m[0])
		case m[3] != "" && queue(m[3]) >= n.request.Queues:
			return fmt.Errorf("%s: the network has %d queues", m[0], n.request.Queues)
		}
		if m[1] == "mac" {
			n.tellMAC = true
		} else {
			used[n.name] = true
		}
	}
	for i := range nets {
		if find(nets, nets[i].name) != &nets[i] {
			return fmt.Errorf("two --net are called %s: give one a name=", nets[i].name)
		}
		if !used[nets[i].name] {
			return fmt.Errorf("the command does not use network %s: put {fd:%s} where it takes the descriptor", nets[i].name, nets[i].name)
		}
	}
	return nil
}

func find(nets []network, name string) *network {
	for i := range nets {
		if nets[i].name == name {
			return &nets[i]
		}
	}
	return nil
}

func queue(digits string) int {
	n, _ := strconv.Atoi(digits) // one to three digits
	return n
}

// open obtains the network's descriptors, for COMMAND to inherit.
func (n *network) open(ctx context.Context, helper string) error {
	n.request.Helper = helper
	var err error
	if n.files, err = client.Open(ctx, n.request); err != nil {
		return err
	}
	for _, f := range n.files {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		var ferr error
		err = raw.Control(func(fd uintptr) {
			n.fds = append(n.fds, int(fd))
			_, ferr = unix.FcntlInt(fd, unix.F_SETFD, 0) // not close-on-exec any more
		})
		if err := errors.Join(err, ferr); err != nil {
			return fmt.Errorf("network %s: %w", n.name, err)
		}
	}
	n.mac = n.request.MAC.String()
	if n.request.MAC != nil || !n.tellMAC {
		return nil
	}
	dev, err := client.Inspect(n.files[0])
	if err != nil {
		return fmt.Errorf("network %s: %w", n.name, err)
	}
	if len(dev.MAC) == 0 || dev.MAC[0] == 0xfe { // a TAP in a bridge: the address is the host's end's
		return fmt.Errorf("network %s: on a bridge the guest's MAC is the caller's choice: say --net %s,mac=…", n.name, n.request.Profile)
	}
	n.mac = dev.MAC.String()
	return nil
}

func substitute(nets []network, arg string) string {
	re := reference()
	return re.ReplaceAllStringFunc(arg, func(s string) string {
		m := re.FindStringSubmatch(s)
		n := find(nets, m[2])
		switch m[1] {
		case "mac":
			return n.mac
		case "fds":
			all := make([]string, len(n.fds))
			for i, fd := range n.fds {
				all[i] = strconv.Itoa(fd)
			}
			return strings.Join(all, ":")
		default:
			return strconv.Itoa(n.fds[queue(m[3])])
		}
	})
}
