package lldpad

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"libvirt-direct/internal/noevb"
	"libvirt-direct/vdp"
)

// A Report says whether VSIs can be associated on a port, and what to do about
// it if not.
type Report struct {
	Port string
	// Edition is the one that lldpad is configured for on the port, and Switch
	// the one of the switch's EVB TLV; EditionAuto stands for none.
	Edition, Switch vdp.Edition
	// VSIs are those that lldpad holds, as Query says it, but for the draft,
	// where they are those that failed and nobody asks for.
	VSIs []vdp.VSIStatus
	// Err is nil if the port is ready. Otherwise it matches ErrNoDaemon, ErrNoReply,
	// ErrNoPort, ErrPortNotConfigured, ErrNeedsReload, ErrNoLink or
	// ErrWaitingForSwitch, or of a port that is ready, the switch's last
	// negative answer that lldpad remembers: an *OpError with a
	// *vdp.RefusedError or vdp.ErrNoAnswer. lldpad remembers only what it has
	// not reported to whoever asked for the VSI.
	Err error
	// Fix are the commands of a shell, in order, that fix what can be fixed
	// on this host; none where it is up to the switch.
	Fix []string
}

// Check finds out how an lldpad in the caller's network namespace stands with
// a port. It changes nothing, but it starts lldpad where systemd listens for
// it. The error says why it could not be found out: ErrImpostor,
// ErrPermission or ErrMalformed, in an *OpError.
func Check(ctx context.Context, port string) (Report, error) {
	c, err := newClient(controlAddr, 0)
	if err != nil {
		return Report{}, &OpError{Op: "check", Port: port, Err: err}
	}
	defer c.Close()
	return c.Check(ctx, port)
}

// Check is as the function Check.
func (c *Client) Check(ctx context.Context, port string) (Report, error) {
	r, err := c.inspect(ctx, port)
	if err == nil && r.err == nil {
		switch r.engine {
		case vdp.Edition2012:
			r.VSIs, err = c.query2012(ctx, port)
		case vdp.EditionDraft:
			r.VSIs, err = c.failedDraft(ctx, &r)
		}
		for _, v := range r.VSIs {
			if v.Err != nil && r.err == nil {
				r.err = &OpError{Op: v.Mode.String(), Port: port, VSI: v.VSI.ID, Err: v.Err}
			}
		}
	}
	r.Err = r.err
	switch {
	case errors.Is(err, ErrNoDaemon):
		r.Err, r.Fix = err, []string{"systemctl enable --now lldpad.socket lldpad.service"}
	case errors.Is(err, ErrNoReply) && ctx.Err() == nil:
		r.Err, r.Fix = ErrNoReply, []string{"systemctl restart lldpad.service"}
	case err != nil:
		return Report{}, &OpError{Op: "check", Port: port, Err: err}
	}
	r.Port = port
	return r.Report, nil
}

// An inspection is what a request needs to know of a port.
type inspection struct {
	Report
	pid     uint32 // lldpad's rtnetlink port id
	ifindex int
	engine  vdp.Edition // the one that runs on the port, EditionAuto for none
	err     error
}

// inspect asks lldpad without side effects.
func (c *Client) inspect(ctx context.Context, port string) (inspection, error) {
	var (
		r       inspection
		running bool
		err     error
	)
	r.Port = port
	if r.pid, err = c.conn.ping(ctx); err != nil {
		return r, err
	}
	if r.ifindex, running, err = c.netlink.link(ctx, port); err != nil {
		if errors.Is(err, ErrNoPort) {
			r.err, err = err, nil
		}
		return r, err
	}
	p, err := c.readPort(ctx, port)
	if err != nil {
		if errors.Is(err, ErrNoPort) {
			r.err, err = err, nil
		}
		return r, err
	}
	r.engine, r.Edition, r.Switch = p.engine, p.edition(), p.neighbor()
	r.Fix, r.err = p.diagnose(port, r.Edition, r.Switch)
	switch waits := r.err == ErrWaitingForSwitch; {
	case !running && (r.err == nil || waits):
		r.err, r.Fix = ErrNoLink, []string{"ip link set " + port + " up"}
	case waits:
		r.err = fmt.Errorf("%w: %s", ErrWaitingForSwitch, p.waiting(port))
	}
	return r, nil
}

// A portConfig is what lldpad says of a port.
type portConfig struct {
	admin  string            // adminStatus
	evb    map[string]string // settings of the 2012 edition, nil where its engine is not there
	draft  map[string]string // settings of the draft's EVB TLV
	vdp    map[string]string // settings of the draft's VDP, nil where its engine is not there
	engine vdp.Edition

	heard       bool // an LLDPDU of the switch's
	remoteEVB   *vdp.EVB
	localEVB    *vdp.EVB
	remoteDraft *vdp.EVBDraft
	localDraft  *vdp.EVBDraft
}

func (c *Client) readPort(ctx context.Context, port string) (portConfig, error) {
	p := portConfig{}
	body, err := c.conn.do(ctx, command{module: moduleAll, verb: verbGetLLDP, op: opArg, port: port, args: []arg{{name: "adminStatus"}}})
	if err != nil {
		return p, err
	}
	args, err := parseArgs(body)
	if err != nil {
		return p, err
	}
	for _, a := range args {
		if a.name == "adminStatus" {
			p.admin = a.value
		}
	}
	for tlv, to := range map[uint32]*map[string]string{tlvEVB: &p.evb, tlvEVBDraft: &p.draft, tlvVDPDraft: &p.vdp} {
		if body, ok, err := c.optional(ctx, command{module: moduleAll, verb: verbGetTLV, op: opConfig | opLocal, port: port, tlv: tlv}); err != nil {
			return p, err
		} else if !ok {
			continue
		} else if *to, err = parseTLVArgs(body); err != nil {
			return p, err
		}
	}
	if p.vdp != nil {
		p.engine = vdp.EditionDraft
	}
	// Few VSIs are de-associating at any time: a short answer.
	_, ok, err := c.optional(ctx, command{module: moduleVDP22, verb: verbGetTLV, op: opConfig | opLocal, port: port, tlv: uint32(vdp.DeAssociate)})
	if err != nil {
		return p, err
	}
	if ok {
		p.engine = vdp.Edition2012
	}
	return p, c.readTLVs(ctx, port, &p)
}

// readTLVs reads the EVB TLVs. lldpad keeps the switch's even where it sends
// none itself.
func (c *Client) readTLVs(ctx context.Context, port string, p *portConfig) error {
	read := func(op, tlv uint32, unmarshal func([]byte) error) (bool, error) {
		body, ok, err := c.optional(ctx, command{module: moduleAll, verb: verbGetTLV, op: op, port: port, tlv: tlv})
		if err != nil || !ok {
			return false, err
		}
		b, err := parseTLV(body)
		if err != nil || b == nil {
			return false, err
		}
		return unmarshal(b) == nil, nil // a TLV that nobody can read is as good as none
	}
	var err error
	if p.heard, err = read(opNeighbor, tlvChassis, func([]byte) error { return nil }); err != nil {
		return err
	}
	var remoteEVB, localEVB vdp.EVB
	var remote, local vdp.EVBDraft
	if ok, err := read(opNeighbor, tlvEVB, remoteEVB.UnmarshalBinary); err != nil {
		return err
	} else if ok {
		p.remoteEVB = &remoteEVB
	}
	if ok, err := read(opLocal, tlvEVB, localEVB.UnmarshalBinary); err != nil {
		return err
	} else if ok {
		p.localEVB = &localEVB
	}
	if ok, err := read(opNeighbor, tlvEVBDraft, remote.UnmarshalBinary); err != nil {
		return err
	} else if ok {
		p.remoteDraft = &remote
	}
	if ok, err := read(opLocal, tlvEVBDraft, local.UnmarshalBinary); err != nil {
		return err
	} else if ok {
		p.localDraft = &local
	}
	return nil
}

// optional is do for what lldpad may not have; that it has it not is no error.
func (c *Client) optional(ctx context.Context, cmd command) (body string, ok bool, err error) {
	body, err = c.conn.do(ctx, cmd)
	if errors.Is(err, ErrNoPort) || errors.Is(err, ErrRejected) {
		// lldpad asks all modules, and the status is that of the one that
		// failed even if another one has answered.
		return body, len(body) > 8, nil
	}
	return body, err == nil, err
}

const capsVDP = vdp.CapECP | vdp.CapVDP

// waiting says where to look while the switch has not agreed. lldpad keeps no times.
func (p *portConfig) waiting(port string) string {
	at := noevb.Port{Name: port}
	switch offers := p.remoteDraft != nil && p.remoteDraft.SupportedCapabilities&capsVDP == capsVDP; {
	case p.remoteEVB != nil && p.remoteEVB.Role != vdp.RoleBridge:
		at.Heard = &noevb.LLDPDU{Flaw: noevb.NotABridge}
	case p.remoteEVB != nil || offers:
		at.Heard = &noevb.LLDPDU{Flaw: "lldpad has not answered yet"}
	case p.remoteDraft != nil:
		at.Heard = &noevb.LLDPDU{Flaw: noevb.NoVDP}
	case p.heard:
		at.Heard = &noevb.LLDPDU{}
	}
	return at.Causes()
}

func (p *portConfig) edition() vdp.Edition {
	switch {
	case p.draft["enableTx"] == "yes":
		return vdp.EditionDraft
	case p.evb["enableTx"] == "yes":
		return vdp.Edition2012
	}
	return vdp.EditionAuto
}

func (p *portConfig) neighbor() vdp.Edition {
	switch {
	case p.remoteEVB != nil && p.remoteEVB.Role == vdp.RoleBridge:
		return vdp.Edition2012
	case p.remoteDraft != nil:
		return vdp.EditionDraft
	}
	return vdp.EditionAuto
}

// diagnose says what is wrong with a port's configuration or switch, and how
// to fix it.
func (p *portConfig) diagnose(port string, ed, sw vdp.Edition) ([]string, error) {
	// Only where nothing else helps, and last (trap 16).
	reload := []string{"kill -HUP $(lldptool ping)"}
	if ed == vdp.EditionAuto {
		ed = sw
		if ed == vdp.EditionAuto {
			ed = vdp.Edition2012 // takes effect without a reload
		}
		return p.configure(port, ed), ErrPortNotConfigured
	}
	if p.admin != "rxtx" {
		return p.configure(port, ed), ErrPortNotConfigured
	}
	heard := p.remoteEVB != nil
	if ed == vdp.EditionDraft {
		heard = p.remoteDraft != nil
	}
	if sw != vdp.EditionAuto && !heard {
		return p.configure(port, sw), fmt.Errorf("%w: lldpad is set to the %v edition, the switch speaks %v", ErrPortNotConfigured, ed, sw)
	}
	if ed == vdp.EditionDraft {
		caps := p.draft["capabilities"]
		switch {
		case !strings.Contains(caps, "ecp"), !strings.Contains(caps, "vdp"),
			p.vdp != nil && (p.vdp["enableTx"] != "yes" || p.vdp["role"] != "station"):
			return p.configure(port, ed), ErrPortNotConfigured
		case p.engine == vdp.Edition2012:
			// The engine of the 2012 edition takes each port a second after the
			// port appears, and does not leave it (lldp_evb22.c:evb22_timer;
			// trap 1).
			return reload, ErrNeedsReload
		case p.remoteDraft == nil || p.remoteDraft.SupportedCapabilities&capsVDP != capsVDP,
			p.localDraft == nil || p.localDraft.Capabilities&capsVDP != capsVDP:
			return nil, ErrWaitingForSwitch
		}
		return nil, nil
	}
	switch {
	case p.evb["evbmode"] != "station":
		return p.configure(port, ed), ErrPortNotConfigured
	case p.engine != vdp.Edition2012:
		return reload, ErrNeedsReload
	case sw != vdp.Edition2012, p.localEVB == nil:
		return nil, ErrWaitingForSwitch
	}
	return nil, nil
}

// configure returns the commands that make a port a station. All settings are
// of the nearest customer bridge's agent; without -g ncb they are refused.
func (p *portConfig) configure(port string, ed vdp.Edition) []string {
	var fix []string
	set := func(tlv, setting string) {
		fix = append(fix, "lldptool -T -i "+port+" -g ncb -V "+tlv+" -c "+setting)
	}
	if p.admin != "rxtx" {
		fix = append(fix, "lldptool -L -i "+port+" -g ncb adminStatus=rxtx")
	}
	// While one of the editions sends its TLV, lldpad refuses enableTx=yes of
	// anything else (lldp_evb22_cmds.c:test_arg_tlvtxenable; trap 2).
	if p.draft["enableTx"] == "yes" {
		set("evbCfg", "enableTx=no")
	}
	if p.evb["enableTx"] == "yes" && ed == vdp.EditionDraft {
		set("evb", "enableTx=no")
	}
	if ed == vdp.EditionDraft {
		set("vdp", "enableTx=yes")
		set("vdp", "role=station")
		set("evbCfg", "fmode=reflectiverelay")
		set("evbCfg", "capabilities=rte,ecp,vdp")
		set("evbCfg", "enableTx=yes")
		// VDP's settings are read once, when the engine starts.
		return append(fix, "kill -HUP $(lldptool ping)")
	}
	set("evb", "evbmode=station")
	set("evb", "evbrrreq=yes")
	set("evb", "enableTx=yes")
	if p.engine != vdp.Edition2012 || p.evb["evbmode"] != "station" {
		fix = append(fix, "kill -HUP $(lldptool ping)")
	}
	return fix
}

// failedDraft returns the VSIs that have come to an end without anybody having
// asked for the result. Those are found without side effects; then the result
// is taken (traps 3 and 5).
func (c *Client) failedDraft(ctx context.Context, r *inspection) ([]vdp.VSIStatus, error) {
	failed, err := c.exited(ctx, r.Port)
	if err != nil || len(failed) == 0 {
		return nil, err
	}
	// Whoever waits for one, asks more often than this; libvirt 8 times a second.
	select {
	case <-time.After(300 * time.Millisecond):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	still, err := c.exited(ctx, r.Port)
	if err != nil {
		return nil, err
	}
	for id := range failed {
		if !still[id] {
			delete(failed, id)
		}
	}
	if len(failed) == 0 {
		return nil, nil
	}
	ports, err := c.netlink.status(ctx, r.pid, r.ifindex)
	if err != nil {
		return nil, err
	}
	var out []vdp.VSIStatus
	for _, p := range ports {
		status := vdp.Status(p.Response)
		if !failed[p.ID] || !p.Done || status.Reason() == vdp.ReasonSuccess {
			continue
		}
		out = append(out, vdp.VSIStatus{
			VSI: vdp.VSI{ID: p.ID}, Mode: vdp.Associate, State: vdp.StateLost, Status: status,
			Err: &vdp.RefusedError{Edition: vdp.EditionDraft, Status: status},
		})
	}
	return out, nil
}

// exited returns the VSIs of the draft in lldpad's state exit.
func (c *Client) exited(ctx context.Context, port string) (map[vdp.ID]bool, error) {
	body, ok, err := c.optional(ctx, command{module: moduleAll, verb: verbGetTLV, op: opConfig | opLocal, port: port, tlv: tlvVDPDraft})
	if err != nil || !ok {
		return nil, err
	}
	args, err := parseTLVArgs(body)
	if err != nil {
		return nil, err
	}
	ids := make(map[vdp.ID]bool)
	for id, state := range parseModes(args["mode"]) {
		if state == '6' {
			ids[id] = true
		}
	}
	return ids, nil
}

// parseModes finds the states in lldpad's list of the draft's VSIs:
// state,manager,type,version,uuid,2,mac,vlan and so on without a separator
// between entries, so that a VLAN ends in the next one's state. States have
// one digit, and so the fourth field before a UUID ends in its state. The list
// is cut at 256 octets (VDP_BUF_SIZE). This is trap 13.
func parseModes(s string) map[vdp.ID]byte {
	states := make(map[vdp.ID]byte)
	fields := strings.Split(s, ",")
	for i, f := range fields {
		if i < 4 || len(f) != 36 || fields[i-4] == "" {
			continue
		}
		if id, err := vdp.ParseUUID(f); err == nil {
			states[id] = fields[i-4][len(fields[i-4])-1]
		}
	}
	return states
}
