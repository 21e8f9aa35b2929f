package host

import (
	"context"
	"fmt"
)

// StartOVNCentral starts OVN's databases and ovn-northd beside an Open vSwitch. The
// hypervisors reach the southbound one at TCP port 6642.
func (o *OVS) StartOVNCentral(ctx context.Context) error {
	for _, db := range []string{"nb", "sb"} {
		_, err := o.peer.Run(ctx, "sh", "-c", `mkdir -p /run/ovn /var/log/ovn /var/lib/ovn &&
			ovsdb-tool create /run/ovn/`+db+`.db /usr/share/ovn/ovn-`+db+`.ovsschema`)
		if err != nil {
			return err
		}
		args := []string{"/run/ovn/" + db + ".db", "--remote=punix:/run/ovn/ovn" + db + "_db.sock"}
		if db == "sb" {
			args = append(args, "--remote=ptcp:6642")
		}
		if err := o.startOVN(ctx, "ovsdb-server", "/run/ovn/"+db, args...); err != nil {
			return err
		}
	}
	return o.startOVN(ctx, "ovn-northd", "/run/ovn/northd",
		"--ovnnb-db=unix:/run/ovn/ovnnb_db.sock", "--ovnsb-db=unix:/run/ovn/ovnsb_db.sock")
}

// JoinOVN makes the host a hypervisor of the OVN at the address central, with geneve
// tunnels from its own address, which must be one of a bridge of Open vSwitch: so it
// takes its datapath in user space.
func (o *OVS) JoinOVN(ctx context.Context, central, own string) error {
	_, err := o.Vsctl(ctx, "set", "Open_vSwitch", ".", "external_ids:system-id="+o.peer.opts.Name,
		"external_ids:ovn-remote=tcp:"+central+":6642", "external_ids:ovn-encap-type=geneve", "external_ids:ovn-encap-ip="+own,
		"external_ids:ovn-bridge-datapath-type=netdev")
	if err != nil {
		return err
	}
	if _, err := o.peer.Run(ctx, "mkdir", "-p", "/run/ovn", "/var/log/ovn"); err != nil {
		return err
	}
	_, err = o.start(ctx, "ovn-controller", "ovn-controller", "--pidfile", "unix:"+OVSSocket)
	return err
}

func (o *OVS) startOVN(ctx context.Context, program, base string, args ...string) error {
	_, err := o.start(ctx, program, base+".ctl", append(args, "--unixctl="+base+".ctl", "--pidfile="+base+".pid")...)
	return err
}

// Nbctl runs ovn-nbctl on the central host.
func (o *OVS) Nbctl(ctx context.Context, args ...string) error {
	_, err := o.peer.Run(ctx, "ovn-nbctl", append([]string{"--timeout=30", "--wait=hv", "--db=unix:/run/ovn/ovnnb_db.sock"}, args...)...)
	if err != nil {
		return fmt.Errorf("ovn-nbctl: %w", err)
	}
	return nil
}
