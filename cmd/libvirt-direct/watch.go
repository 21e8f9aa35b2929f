package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/libvirtd"
	"libvirt-direct/internal/logging"
	"libvirt-direct/xmlfilter"
)

func watchCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "Rewrite domains as soon as they are defined, if they or the host ask for it",
		Long: `watch follows libvirt's events and rewrites each domain that is defined, and those that were
defined while it was away, when its metadata says <ld:nics rewrite='yes'> or its name matches
[watch] domains of the configuration. It never touches another one. Once a minute it removes
the ports that killed guests of the helper and of ifup have left in Open vSwitch. It runs until it
is stopped, and connects again when libvirt restarts.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(o.config)
			if err == nil {
				err = cfg.WatchFault()
			}
			if err != nil {
				return err
			}
			w := &watcher{options: o, log: logging.New("libvirt-direct", c.ErrOrStderr()), said: map[string]string{}}
			for _, fault := range cfg.Faults() {
				w.log.Warn(fault.Error())
			}
			return w.run(c.Context())
		},
	}
}

// watcher is the agent of `watch`.
type watcher struct {
	*options
	log  *slog.Logger
	said map[string]string // the last fault told of each domain, so that it is told once
}

// retry is how long the agent waits before it connects again.
const retry = time.Second

func (w *watcher) run(ctx context.Context) error {
	go w.sweepPorts(ctx)
	told := ""
	for {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if text := hooks.OneLine(err); text != told {
			w.log.Warn("watch: " + text + "; trying again")
			told = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}

// errLost is the end of a connection that had worked.
var errLost = errors.New("libvirt has gone")

// follow rewrites on one connection until it is lost.
func (w *watcher) follow(ctx context.Context) error {
	dial, cancel := context.WithTimeout(ctx, w.timeout)
	conn, err := libvirtd.Dial(dial, w.connect)
	cancel()
	if err != nil {
		return err
	}
	defer conn.Close()
	// Listening begins before looking: nothing falls between.
	defined, err := conn.Defined(ctx)
	if err != nil {
		return err
	}
	list, cancel := context.WithTimeout(ctx, w.timeout)
	domains, err := conn.Domains(list)
	cancel()
	if err != nil {
		return err
	}
	for _, d := range domains {
		w.domain(ctx, conn, d)
	}
	for {
		select {
		case d, ok := <-defined:
			if !ok {
				return errLost
			}
			w.domain(ctx, conn, d)
		case <-conn.Lost():
			return errLost
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *watcher) domain(ctx context.Context, conn *libvirtd.Conn, dom libvirtd.Domain) {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	notes, err := w.redefine(ctx, conn, dom, false, func(ctx context.Context, rec hooks.Records, d *xmlfilter.Domain) ([]byte, []string, error) {
		cfg, err := config.Load(w.config)
		if err == nil && d.Wish == "" {
			err = cfg.WatchFault()
		}
		if err != nil {
			return nil, nil, err
		}
		if d.Wish == "no" || d.Wish != "yes" && !cfg.Watch.Wants(d.Name) {
			out, err := d.Rewrite(nil) // as it is
			return out, nil, err
		}
		return w.repaired(nil, w.rewritten)(ctx, rec, d)
	})
	text := ""
	if err != nil && !errors.Is(err, libvirtd.ErrNoDomain) { // it may be undefined already
		text = fmt.Sprintf("watch: domain %q was not rewritten: %s", dom.Name, hooks.OneLine(err))
	}
	if text != "" && w.said[dom.UUID] != text {
		w.log.Warn(text, "domain", dom.Name)
	}
	w.said[dom.UUID] = text
	for _, n := range notes {
		w.log.Info(fmt.Sprintf("rewrote %q: %s", dom.Name, n), "domain", dom.Name)
	}
}
