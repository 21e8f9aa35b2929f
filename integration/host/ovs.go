package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"libvirt-direct/internal/poll"

	"golang.org/x/sys/unix"
)

// OVSSocket is where a Peer's ovsdb-server listens, inside.
const OVSSocket = "/run/openvswitch/db.sock"

// An OVS is an Open vSwitch inside a Peer, with its datapath in user space: what it
// needs of the kernel is no more than tap devices.
type OVS struct {
	peer         *Peer
	db, vswitchd *process
}

// StartOVS starts ovsdb-server with an empty database, and ovs-vswitchd. Both end with
// the Peer.
func (p *Peer) StartOVS(ctx context.Context) (*OVS, error) {
	o := &OVS{peer: p}
	_, err := p.Run(ctx, "sh", "-c", `mkdir -p /run/openvswitch /etc/openvswitch /var/log/openvswitch && rm -f /run/openvswitch/conf.db &&
		ovsdb-tool create /run/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema`)
	if err != nil {
		return nil, err
	}
	if err := o.StartDB(ctx); err != nil {
		return nil, err
	}
	if _, err := p.Run(ctx, "ovs-vsctl", "--no-wait", "init"); err != nil {
		return nil, err
	}
	return o, o.StartSwitch(ctx)
}

// StartDB starts ovsdb-server, with the database as it was.
func (o *OVS) StartDB(ctx context.Context) (err error) {
	o.db, err = o.start(ctx, "ovsdb-server", "ovsdb-server", "--pidfile", "/run/openvswitch/conf.db", "--remote=punix:"+OVSSocket)
	return err
}

// StartSwitch starts ovs-vswitchd.
func (o *OVS) StartSwitch(ctx context.Context) (err error) {
	o.vswitchd, err = o.start(ctx, "ovs-vswitchd", "ovs-vswitchd", "--pidfile", "unix:"+OVSSocket, "--disable-system")
	return err
}

// start starts a daemon and waits until it answers at its control socket, ctl, as
// ovs-appctl takes it.
func (o *OVS) start(ctx context.Context, name, ctl string, args ...string) (*process, error) {
	args = append(args, "--no-chdir", "-vconsole:err", "-vsyslog:off")
	cmd := o.peer.Command(context.WithoutCancel(ctx), name, args...)
	cmd.Env = append(cmd.Env, "OVN_RUNDIR=/run/openvswitch") // ovn-controller's socket has no other option
	cmd.Stderr = o.peer.log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	proc, err := startProcess(cmd, func(r io.Reader) { io.Copy(o.peer.log, r) })
	if err != nil {
		return nil, fmt.Errorf("%s: start %s: %w", o.peer.opts.Name, name, err)
	}
	ctx, cancel := proc.lifetime(ctx, name)
	defer cancel()
	var silent error
	err = poll.Until(ctx, 10*time.Millisecond, func() (bool, error) {
		_, silent = o.peer.Run(ctx, "ovs-appctl", "-t", ctl, "version")
		return silent == nil, nil
	})
	if err != nil {
		proc.Close()
		return nil, fmt.Errorf("%s: %s did not come up: %w", o.peer.opts.Name, name, errors.Join(err, silent))
	}
	return proc, nil
}

// KillDB kills ovsdb-server, as a crash would.
func (o *OVS) KillDB() error { return o.db.Close() }

// KillSwitch kills ovs-vswitchd, as a crash would.
func (o *OVS) KillSwitch() error { return o.vswitchd.Close() }

// AddBridge makes a bridge in user space, up.
func (o *OVS) AddBridge(ctx context.Context, name string) error {
	if _, err := o.Vsctl(ctx, "add-br", name, "--", "set", "Bridge", name, "datapath_type=netdev"); err != nil {
		return err
	}
	return o.peer.ip(ctx, "link set "+name+" up\n")
}

// Vsctl runs ovs-vsctl and returns what it prints, without the last line break.
func (o *OVS) Vsctl(ctx context.Context, args ...string) (string, error) {
	out, err := o.peer.Run(ctx, "ovs-vsctl", append([]string{"--timeout=30"}, args...)...)
	return strings.TrimSuffix(out, "\n"), err
}
