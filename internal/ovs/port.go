package ovs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Port is a port with its one interface, as it is to be. Fields with a zero value are
// left to Open vSwitch. Its JSON stands in journals.
type Port struct {
	Name   string `json:"name"`
	Bridge string `json:"bridge,omitempty"`
	Owner  string `json:"owner,omitempty"`

	// IDs are the Interface's external_ids; Type is the Interface's type.
	IDs  map[string]string `json:"ids,omitempty"`
	Type string            `json:"type,omitempty"`

	VLAN *VLAN `json:"vlan,omitempty"`
	// Protected keeps the guest from other protected ports of the bridge.
	Protected bool `json:"protected,omitempty"`
	// MTU is what the device shall get (mtu_request), in octets.
	MTU int `json:"mtu,omitempty"`
	// IngressRate and IngressBurst bound what the guest sends, in kbit/s and kbit.
	IngressRate  int `json:"ingress_rate,omitempty"`
	IngressBurst int `json:"ingress_burst,omitempty"`
	// QoS bounds what the guest receives.
	QoS *QoS `json:"qos,omitempty"`
	// Mirror is the port that gets a copy of the guest's frames, both ways.
	Mirror string `json:"mirror,omitempty"`
}

// VLAN is a Port's part in VLANs. Without a Mode, Open vSwitch takes a Tag for an access
// port and Trunks for a trunk.
type VLAN struct {
	Mode   string `json:"mode,omitempty"` // vlan_mode: "native-tagged", "dot1q-tunnel" …
	Tag    *int   `json:"tag,omitempty"`
	Trunks []int  `json:"trunks,omitempty"`
}

// QoS is a queueing discipline with one queue. Rates are in bit/s; 0 is no bound.
type QoS struct {
	Type    string `json:"type"` // "linux-htb", "linux-hfsc"
	MinRate int    `json:"min_rate,omitempty"`
	MaxRate int    `json:"max_rate,omitempty"`
}

func (q *QoS) config() map[string]string {
	m := map[string]string{}
	if q.MinRate > 0 {
		m["min-rate"] = strconv.Itoa(q.MinRate)
	}
	if q.MaxRate > 0 {
		m["max-rate"] = strconv.Itoa(q.MaxRate)
	}
	return m
}

// found is what is there of a port before a change.
type found struct {
	port, iface string // UUIDs, "" where there is none
	owner       string
	ifaceID     string
	qos         []string // the port's rows with our keys
	mirrors     []string
	output      string // UUID of the port that a mirror shall lead to
}

// ours is the condition for rows that belong to a port of an owner's.
func (p *Port) ours() [3]any {
	return [3]any{"external_ids", "includes", mapOf(p.keys())}
}

func (p *Port) keys() map[string]string { return map[string]string{OwnerKey: p.Owner, portKey: p.Name} }

// find looks a port up. What it asks does not grow with the number of ports.
func (s *session) find(ctx context.Context, p *Port) (f found, err error) {
	sel := func(table string, conds [][3]any, columns ...string) op {
		return op{"op": "select", "table": table, "where": conds, "columns": columns}
	}
	res, err := s.transact(ctx,
		sel("Port", byName(p.Name), "_uuid", "external_ids"), sel("Interface", byName(p.Name), "_uuid", "external_ids"),
		sel("QoS", where(p.ours()), "_uuid"), sel("Mirror", where(p.ours()), "_uuid"),
		sel("Port", byName(p.Mirror), "_uuid"))
	if err != nil {
		return f, err
	}
	ids := func(r result) (all []string) {
		for _, row := range r.Rows {
			one, bad := row.id()
			all, err = append(all, one), cmp.Or(err, bad)
		}
		return all
	}
	id := func(r result) string {
		if all := ids(r); len(all) > 0 {
			return all[0]
		}
		return ""
	}
	f.port, f.iface, f.output = id(res[0]), id(res[1]), id(res[4])
	f.qos, f.mirrors = ids(res[2]), ids(res[3])
	if err != nil || f.port == "" {
		return f, err
	}
	external, err := res[0].Rows[0].strings("external_ids")
	f.owner = external[OwnerKey]
	if err != nil || f.iface == "" {
		return f, err
	}
	external, err = res[1].Rows[0].strings("external_ids")
	f.ifaceID = external["iface-id"]
	return f, err
}

// Attach makes a port in one transaction, as libvirt does, with the owner's key beside
// what libvirt sets, and waits until ovs-vswitchd has made the interface. The port is
// transient: it does not outlive a reboot of the host (ovs-ctl(8)). A port of that name which the same owner has
// becomes as p says; any other is an error matching ErrTaken.
//
// On ErrInterface, ErrSwitch and ErrNoAnswer the port may be there: Detach it.
func (db *DB) Attach(ctx context.Context, p Port) error {
	return db.change(ctx, p, func(f found) ([]op, error) {
		if f.port != "" && f.owner != p.Owner {
			return nil, ErrTaken
		}
		iface := op{"external_ids": mapOf(p.IDs), "type": p.Type}
		p.tune(iface)
		port := op{
			"external_ids": mapOf(map[string]string{OwnerKey: p.Owner}),
			"other_config": mapOf(map[string]string{"transient": "true"}),
			"qos":          setOf[int](),
			"protected":    p.Protected,
		}
		p.tag(port)
		// A bridge that is not there would otherwise have the port vanish without a word.
		ops := []op{awaitRow("Bridge", byName(p.Bridge), 0)}
		if f.port != "" {
			ops = append(ops, op{"op": "update", "table": "Interface", "where": byUUID(f.iface), "row": iface},
				op{"op": "update", "table": "Port", "where": byUUID(f.port), "row": port})
		} else {
			iface["name"], port["name"], port["interfaces"] = p.Name, p.Name, newRow("i")
			ops = append(ops, op{"op": "insert", "table": "Interface", "uuid-name": "i", "row": iface},
				op{"op": "insert", "table": "Port", "uuid-name": "p", "row": port},
				mutate("Bridge", byName(p.Bridge), "ports", "insert", newRow("p")))
		}
		return ops, nil
	})
}

// Amend sets on a port that somebody else has made what p says, the owner's key, and that
// it is transient. It leaves alone what p does not say, but for the owner's earlier QoS
// and Mirror. It waits as Attach does. A port that is not there is an error matching ErrNoPort.
func (db *DB) Amend(ctx context.Context, p Port) error {
	return db.change(ctx, p, func(f found) ([]op, error) {
		if f.port == "" {
			return nil, ErrNoPort
		}
		iface, port := op{}, op{}
		p.tune(iface)
		if p.VLAN != nil {
			p.tag(port)
		}
		if p.Protected {
			port["protected"] = true
		}
		at, of := byUUID(f.port), byUUID(f.iface)
		ops := []op{
			mutate("Port", at, "external_ids", "delete", setOf(OwnerKey)),
			mutate("Port", at, "external_ids", "insert", mapOf(map[string]string{OwnerKey: p.Owner})),
			mutate("Port", at, "other_config", "insert", mapOf(map[string]string{"transient": "true"})), // libvirt 9.0 does not
		}
		if len(p.IDs) > 0 {
			old := slices.Sorted(maps.Keys(p.IDs))
			if id, said := p.IDs["iface-id"]; said && id != f.ifaceID {
				old = append(old, "ovn-installed", "ovn-installed-ts") // of another logical port
			}
			ops = append(ops, mutate("Interface", of, "external_ids", "delete", setOf(old...)),
				mutate("Interface", of, "external_ids", "insert", mapOf(p.IDs)))
		}
		if len(iface) > 0 {
			ops = append(ops, op{"op": "update", "table": "Interface", "where": of, "row": iface})
		}
		if len(port) > 0 {
			ops = append(ops, op{"op": "update", "table": "Port", "where": at, "row": port})
		}
		return ops, nil
	})
}

// tune sets an Interface's columns.
func (p *Port) tune(iface op) {
	for column, v := range map[string]int{
		"mtu_request": p.MTU, "ingress_policing_rate": p.IngressRate, "ingress_policing_burst": p.IngressBurst,
	} {
		if v != 0 {
			iface[column] = v
		}
	}
}

// tag sets a Port's VLAN columns.
func (p *Port) tag(port op) {
	v := p.VLAN
	if v == nil {
		v = &VLAN{}
	}
	port["tag"], port["vlan_mode"], port["trunks"] = setOf[int](), setOf[int](), setOf(v.Trunks...)
	if v.Tag != nil {
		port["tag"] = *v.Tag
	}
	if v.Mode != "" {
		port["vlan_mode"] = v.Mode
	}
}

func mutate(table string, conds [][3]any, column, how string, value any) op {
	return op{"op": "mutate", "table": table, "where": conds, "mutations": [][3]any{{column, how, value}}}
}

// awaitRow waits until there is a row, for so many milliseconds.
func awaitRow(table string, conds [][3]any, patience time.Duration) op {
	return op{
		"op": "wait", "table": table, "where": conds, "columns": []string{"_uuid"}, "until": "!=", "rows": []op{},
		"timeout": patience.Milliseconds(),
	}
}

// change runs what plan says as one transaction, with the QoS and Mirror that p wants,
// and waits for ovs-vswitchd.
func (db *DB) change(ctx context.Context, p Port, plan func(found) ([]op, error)) error {
	err := db.do(ctx, func(s *session) error {
		f, err := s.find(ctx, &p)
		if err != nil {
			return err
		}
		if p.Mirror != "" && f.output == "" {
			return fmt.Errorf("mirror to %q: %w", p.Mirror, ErrNoPort)
		}
		ops, err := plan(f)
		if err != nil {
			return err
		}
		self := any(newRow("p"))
		if f.port != "" {
			self = uuidOf(f.port)
		}
		ops = append(ops, p.dropExtras(f)...)
		ops = append(ops, p.extras(f, self)...)
		next, err := s.commit(ctx, "attach", &p, ops)
		if timedOut(err) {
			return fmt.Errorf("%w: %q", ErrNoBridge, p.Bridge)
		}
		if err != nil {
			return err
		}
		return s.made(ctx, p.Name, next)
	})
	if err != nil {
		return fmt.Errorf("port %s: %w", p.Name, err)
	}
	return nil
}

// dropExtras removes the rows that belong to the port. QoS and Queue live by themselves;
// a Mirror goes when no bridge has it.
func (p *Port) dropExtras(f found) []op {
	var ops []op
	for _, id := range f.qos {
		ops = append(ops, op{"op": "update", "table": "Port", "where": where([3]any{"qos", "==", uuidOf(id)}), "row": op{"qos": setOf[int]()}})
	}
	for _, id := range f.mirrors {
		ops = append(ops, mutate("Bridge", where([3]any{"mirrors", "includes", uuidOf(id)}), "mirrors", "delete", uuidOf(id)))
	}
	return append(ops, op{"op": "delete", "table": "QoS", "where": where(p.ours())},
		op{"op": "delete", "table": "Queue", "where": where(p.ours())})
}

// extras makes the port's QoS and Mirror.
func (p *Port) extras(f found, self any) []op {
	var ops []op
	if q := p.QoS; q != nil {
		keys := mapOf(p.keys())
		total := map[string]string{}
		if q.MaxRate > 0 {
			total["max-rate"] = strconv.Itoa(q.MaxRate)
		}
		ops = append(ops,
			op{"op": "insert", "table": "Queue", "uuid-name": "u", "row": op{"other_config": mapOf(q.config()), "external_ids": keys}},
			op{"op": "insert", "table": "QoS", "uuid-name": "q", "row": op{
				"type": q.Type, "other_config": mapOf(total), "external_ids": keys,
				"queues": [2]any{"map", [][2]any{{0, newRow("u")}}},
			}},
			op{"op": "update", "table": "Port", "where": byName(p.Name), "row": op{"qos": newRow("q")}})
	}
	if p.Mirror != "" {
		ops = append(ops,
			op{"op": "insert", "table": "Mirror", "uuid-name": "m", "row": op{
				"name": "libvirt-direct-" + p.Name, "select_src_port": self, "select_dst_port": self,
				"output_port": uuidOf(f.output), "external_ids": mapOf(p.keys()),
			}},
			mutate("Bridge", where([3]any{"ports", "includes", self}), "mirrors", "insert", newRow("m")))
	}
	return ops
}

// commit runs a transaction that ovs-vswitchd shall take up, and returns the number that
// cur_cfg has once it has.
func (s *session) commit(ctx context.Context, verb string, p *Port, ops []op) (next int, err error) {
	ops = append(ops,
		mutate("Open_vSwitch", where(), "next_cfg", "+=", 1),
		op{"op": "comment", "comment": fmt.Sprintf("libvirt-direct: %s %s for %s", verb, p.Name, p.Owner)},
		op{"op": "select", "table": "Open_vSwitch", "where": where(), "columns": []string{"next_cfg"}})
	res, err := s.transact(ctx, ops...)
	if err != nil {
		return 0, err
	}
	rows := res[len(res)-1].Rows
	if len(rows) != 1 {
		return 0, fmt.Errorf("%w: %d rows in table Open_vSwitch", ErrReply, len(rows))
	}
	next, _, err = rows[0].number("next_cfg")
	return next, err
}

// remaining is what is left of a deadline, less what the answer needs.
func remaining(ctx context.Context) time.Duration {
	const otherwise = time.Minute
	end, ok := ctx.Deadline()
	if !ok {
		return otherwise
	}
	left := time.Until(end)
	return max(0, left-min(left/10, 100*time.Millisecond))
}

// made waits until ovs-vswitchd has taken a change up, and returns what it says of the
// interface.
func (s *session) made(ctx context.Context, name string, next int) error {
	res, err := s.transact(ctx,
		awaitRow("Open_vSwitch", where([3]any{"cur_cfg", ">=", next}), remaining(ctx)),
		op{"op": "select", "table": "Interface", "where": byName(name), "columns": []string{"ofport", "error"}})
	switch {
	case timedOut(err), errors.Is(err, ErrNoAnswer):
		return ErrSwitch
	case err != nil:
		return err
	case len(res[1].Rows) != 1:
		return ErrNoPort // removed meanwhile
	}
	why, err := res[1].Rows[0].text("error")
	if err != nil {
		return err
	}
	number, there, err := res[1].Rows[0].number("ofport")
	switch {
	case err != nil:
		return err
	case why != "":
		return fmt.Errorf("%w: %s", ErrInterface, why)
	case !there || number < 0:
		return fmt.Errorf("%w: ofport %d", ErrInterface, number)
	}
	return nil
}

// Installed waits until ovn-controller has bound a port's interface and installed its
// flows (external_ids:ovn-installed). Otherwise the error matches ErrNotInstalled.
func (db *DB) Installed(ctx context.Context, name string) error {
	return db.do(ctx, func(s *session) error {
		_, err := s.transact(ctx, awaitRow("Interface", where(
			[3]any{"name", "==", name},
			[3]any{"external_ids", "includes", mapOf(map[string]string{"ovn-installed": "true"})},
		), remaining(ctx)))
		if timedOut(err) || errors.Is(err, ErrNoAnswer) {
			return fmt.Errorf("port %s: %w", name, ErrNotInstalled)
		}
		return err
	})
}

// Detach removes a port of an owner's, with its QoS and Mirror, and reports whether the
// port was there. One that is somebody else's stays. It does not wait for ovs-vswitchd.
func (db *DB) Detach(ctx context.Context, name, owner string) (was bool, err error) {
	p := Port{Name: name, Owner: owner}
	err = db.do(ctx, func(s *session) error {
		f, err := s.find(ctx, &p)
		if err != nil {
			return err
		}
		mine := f.port != "" && f.owner == owner
		if !mine && len(f.qos) == 0 && len(f.mirrors) == 0 {
			return nil
		}
		ops := p.dropExtras(f)
		if mine {
			was = true
			ops = append(ops, mutate("Bridge", where([3]any{"ports", "includes", uuidOf(f.port)}), "ports", "delete", uuidOf(f.port)))
		}
		_, err = s.commit(ctx, "detach", &p, ops)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("port %s: %w", name, err)
	}
	return was, nil
}
