// Command vdpd is a resident IEEE 802.1Qbg station. It takes lldpad's place
// for libvirt's <virtualport type='802.1Qbg'>: libvirt finds it by
// /run/lldpad.pid and talks to it as it would to lldpad.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"libvirt-direct/vdp/vdpd/internal/daemon"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "vdpd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("vdpd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", daemon.DefaultConfigFile, "configuration `file`")
	check := flags.Bool("check", false, "check the configuration and exit")
	debug := flags.Bool("debug", false, "log every frame that is ignored, and why")
	var uplinks []daemon.Uplink
	flags.Func("uplink", "run a station on this `interface`, with defaults; instead of the file's uplinks", func(s string) error {
		uplinks = append(uplinks, daemon.Uplink{Name: s})
		return nil
	})
	stateFile := flags.String("state", "", "state `file`, instead of the file's")
	pidFile := flags.String("pid-file", "", "pid `file` for libvirt, instead of the file's")
	socket := flags.String("control", "", "control `socket`, instead of the file's")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	c, err := daemon.ReadConfig(*path)
	if err != nil {
		return err
	}
	if uplinks != nil {
		c.Uplinks = uplinks
	}
	if *stateFile != "" {
		c.StateFile = *stateFile
	}
	if *pidFile != "" {
		c.PidFile = *pidFile
	}
	if *socket != "" {
		c.ControlSocket = *socket
	}
	if *check {
		return nil
	}
	level := slog.LevelInfo
	if *debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	d, err := daemon.New(c, log)
	if err != nil {
		return err
	}
	if err := dropPrivileges(); err != nil {
		return err
	}
	tell := func(state string) {
		if err := notify(state); err != nil {
			log.Warn("systemd not notified", "err", err)
		}
	}
	tell("READY=1")
	context.AfterFunc(ctx, func() { tell("STOPPING=1") })
	return d.Run(ctx)
}

// notify tells systemd, if it asked to be told.
func notify(state string) error {
	_, err := systemd.SdNotify(false, state)
	return err
}
