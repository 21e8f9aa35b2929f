package realhost

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/step"
	"libvirt-direct/integration/host"
	"libvirt-direct/internal/ovs"
)

// Switch is a hooktest.SwitchHost with Open vSwitch in user space.
type Switch struct {
	t    *testing.T
	ctx  context.Context
	peer *host.Peer
	ovs  *host.OVS
}

var _ hooktest.SwitchHost = (*Switch)(nil)

// NewSwitch makes an empty br0 in an Open vSwitch that runs in a peer, in place of one
// that an earlier test has left.
func NewSwitch(ctx context.Context, t *testing.T, peer *host.Peer, o *host.OVS) *Switch {
	t.Helper()
	s := &Switch{t, ctx, peer, o}
	s.vsctl("--if-exists", "del-br", "br0")
	require.NoError(t, o.AddBridge(ctx, "br0"))
	return s
}

// Switch is a connection to it.
func (s *Switch) Switch() step.Switch { return ovs.Open(s.peer.Path(host.OVSSocket)) }

// Away has not even a folder for its socket, so that nobody waits for its restart.
func (s *Switch) Away() step.Switch { return ovs.Open(s.peer.Path("/run/nothing/db.sock")) }

func (s *Switch) vsctl(args ...string) string {
	s.t.Helper()
	out, err := s.ovs.Vsctl(s.ctx, args...)
	require.NoError(s.t, err)
	return out
}

// Tap makes a tap device that ends with the test.
func (s *Switch) Tap(name string) {
	s.t.Helper()
	_, err := s.peer.Run(s.ctx, "ip", "tuntap", "add", name, "mode", "tap")
	require.NoError(s.t, err)
	s.t.Cleanup(func() {
		_, err := s.peer.Run(s.ctx, "ip", "link", "del", name)
		require.NoError(s.t, err)
	})
}

// Port makes a port as libvirt does.
func (s *Switch) Port(name string, tag int, ids map[string]string) {
	s.t.Helper()
	args := []string{"add-port", "br0", name, fmt.Sprintf("tag=%d", tag), "--", "set", "Interface", name, "type=\"\""}
	for k, v := range ids {
		args = append(args, "external_ids:"+k+"="+v)
	}
	s.vsctl(args...)
}

// Bind plays ovn-controller.
func (s *Switch) Bind(name string) {
	s.t.Helper()
	s.vsctl("set", "Interface", name, "external_ids:ovn-installed=true")
}

// Shown is what `ovs-vsctl list` says, of the port, its interface, QoS and mirror.
func (s *Switch) Shown(name string) (p ovs.Port, ok bool) {
	s.t.Helper()
	port := s.row("Port", "name="+name)
	if port == nil {
		return ovs.Port{}, false
	}
	iface := s.row("Interface", "name="+name)
	ids := pairs(iface["external_ids"])
	delete(ids, "ovn-installed")
	p = ovs.Port{
		Name: name, Bridge: s.vsctl("port-to-br", name), Owner: pairs(port["external_ids"])[ovs.OwnerKey],
		MTU: number(iface["mtu_request"]), Protected: port["protected"] == true,
		IngressRate: number(iface["ingress_policing_rate"]), IngressBurst: number(iface["ingress_policing_burst"]),
	}
	if len(ids) > 0 {
		p.IDs = ids
	}
	v := ovs.VLAN{}
	for _, n := range set(port["trunks"]) {
		v.Trunks = append(v.Trunks, number(n))
	}
	slices.Sort(v.Trunks)
	if tags := set(port["tag"]); len(tags) > 0 {
		tag := number(tags[0])
		v.Tag = &tag
	}
	if modes := set(port["vlan_mode"]); len(modes) > 0 {
		v.Mode = modes[0].(string)
	}
	if v.Tag != nil || v.Trunks != nil || v.Mode != "" {
		p.VLAN = &v
	}
	if qos := s.row("QoS", "external_ids:libvirt-direct-port="+name); qos != nil {
		require.Equal(s.t, qos["_uuid"], port["qos"])
		p.QoS = &ovs.QoS{Type: qos["type"].(string)}
		if rate := pairs(qos["other_config"])["max-rate"]; rate != "" {
			n, err := strconv.Atoi(rate)
			require.NoError(s.t, err)
			p.QoS.MaxRate = n
		}
	} else {
		require.Empty(s.t, set(port["qos"]))
	}
	if m := s.row("Mirror", "name=libvirt-direct-"+name); m != nil {
		require.Equal(s.t, port["_uuid"], m["select_src_port"])
		id := m["output_port"].([]any)[1].(string)
		p.Mirror = strings.Trim(s.vsctl("get", "Port", id, "name"), `"`)
	}
	return p, true
}

// row is the row of a table that a condition finds, nil for none, as RFC 7047 encodes it.
func (s *Switch) row(table, condition string) map[string]any {
	s.t.Helper()
	var found struct {
		Headings []string
		Data     [][]any
	}
	require.NoError(s.t, json.Unmarshal([]byte(s.vsctl("--format=json", "find", table, condition)), &found))
	if len(found.Data) == 0 {
		return nil
	}
	require.Len(s.t, found.Data, 1)
	row := map[string]any{}
	for i, column := range found.Headings {
		row[column] = found.Data[0][i]
	}
	return row
}

// set is a column's values, which are a set but where there is one.
func set(v any) []any {
	if tagged, ok := v.([]any); ok && len(tagged) == 2 && tagged[0] == "set" {
		return tagged[1].([]any)
	}
	if v == nil {
		return nil
	}
	return []any{v}
}

func number(v any) int {
	for _, n := range set(v) {
		return int(n.(float64))
	}
	return 0
}

func pairs(v any) map[string]string {
	all := map[string]string{}
	tagged, ok := v.([]any)
	if !ok || len(tagged) != 2 || tagged[0] != "map" {
		return all
	}
	for _, pair := range tagged[1].([]any) {
		p := pair.([]any)
		all[p[0].(string)] = p[1].(string)
	}
	return all
}
