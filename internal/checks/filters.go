package checks

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"libvirt-direct/hooks"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/link"
	"libvirt-direct/internal/netfilter"
)

// filters says which rules of this host keep guests' frames from passing. macvtaps take their
// frames before IP's rules see them, so that there those of the family netdev alone count,
// and tc; a bridge's frames meet its own family's, and IP's with br_netfilter.
func filters(ctx context.Context, env *Env) []Finding {
	if os.Geteuid() != 0 {
		return []Finding{finding(Note, "filter", "not looked for: that needs root")}
	}
	cfg, err := config.Load(env.Config)
	if err != nil {
		return nil // configuration says so
	}
	k, err := link.Open()
	if err != nil {
		return nil // uplinks says so
	}
	defer k.Close()
	p, err := guestPaths(ctx, k, cfg)
	if err != nil {
		return []Finding{finding(Note, "filter", "%v", err)}
	}
	return findFilters(ctx, k, p)
}

// findFilters looks for what drops frames on these ways.
func findFilters(ctx context.Context, k *link.Conn, p paths) (found []Finding) {
	rules, err := netfilter.Tables()
	if err != nil {
		found = append(found, finding(Note, "filter", "%v", err))
	}
	legacy, err := legacyRules(ctx)
	if err != nil {
		found = append(found, finding(Note, "filter", "%s", hooks.OneLine(err)))
	}
	rules = append(rules, legacy...)
	for _, d := range p.devices {
		found = append(found, onDevice(rules, d)...)
		found = append(found, byTC(d)...)
		found = append(found, byXDP(ctx, k, d.Name)...)
	}
	for _, b := range p.bridges {
		found = append(found, inBridge(rules, b)...)
		found = append(found, routedFilters(rules, b.name, callsIP("/", b.name))...)
	}
	return found
}

// paths are what guests' frames pass on this host.
type paths struct {
	devices []link.Link // of macvtaps and bridges, down to the cards
	bridges []guestBridge
}

// guestBridge is a Linux bridge with guests, and a pair of its ports between which their
// frames pass: outside is another guest's where the bridge leads nowhere.
type guestBridge struct{ name, outside, guest string }

// guestPaths finds what guests' frames pass: below macvtaps, in bridges with taps, and on
// uplinks, which are to have guests.
func guestPaths(ctx context.Context, k kernel, cfg *config.Config) (p paths, err error) {
	links, err := k.All(ctx)
	if err != nil {
		return p, err
	}
	var start []link.Link
	for _, l := range links {
		if l.Kind == "macvtap" && !l.ParentElsewhere {
			start = append(start, of(links, func(p link.Link) bool { return p.Index == l.Parent })...)
		}
	}
	var meant []int // bridges that are uplinks
	for _, name := range cfg.UplinkNames() {
		if l, err := hooks.FindUplink(ctx, k, cfg.Uplinks[name]); err == nil {
			start = append(start, l)
			meant = append(meant, l.Index, l.Master)
		}
	}
	for _, br := range links {
		if br.Kind != "bridge" {
			continue
		}
		ports := of(links, func(l link.Link) bool { return l.Master == br.Index })
		taps := of(ports, func(l link.Link) bool { return l.Kind == "tun" })
		outside := of(ports, func(l link.Link) bool { return l.Kind != "tun" })
		if len(taps) == 0 && !slices.Contains(meant, br.Index) {
			continue
		}
		b := guestBridge{name: br.Name, guest: "vnet0", outside: "vnet1"}
		if len(taps) > 0 {
			b.guest, b.outside = taps[0].Name, taps[len(taps)-1].Name
		}
		if len(outside) > 0 {
			b.outside = outside[0].Name
		}
		p.bridges = append(p.bridges, b)
		start = append(start, outside...)
	}
	p.devices = below(links, start)
	return p, nil
}

func of(links []link.Link, wanted func(link.Link) bool) (some []link.Link) {
	for _, l := range links {
		if wanted(l) {
			some = append(some, l)
		}
	}
	return some
}

// below are devices with all on which they stand, by which the frames come and go: a VLAN's
// parent and the ports of a bond or a bridge, but no guest's tap.
func below(links, devices []link.Link) (all []link.Link) {
	for queue := devices; len(queue) > 0; queue = queue[1:] {
		d := queue[0]
		if slices.ContainsFunc(all, func(l link.Link) bool { return l.Index == d.Index }) {
			continue
		}
		all = append(all, d)
		queue = append(slices.Clone(queue), of(links, func(l link.Link) bool {
			parent := l.Index == d.Parent && !d.ParentElsewhere && d.Kind != "veth"
			return parent || l.Master == d.Index && l.Kind != "tun"
		})...)
	}
	return all
}

// onDevice says what the rules of a device itself do, before anything else has its frames.
func onDevice(rules netfilter.Rules, d link.Link) (found []Finding) {
	for _, c := range rules {
		if !c.Base || !slices.Contains(c.Devices, d.Name) {
			continue
		}
		frame, which := netfilter.Frame{In: d.Name}, "that come in by "+d.Name
		if c.Family == netfilter.Netdev && c.Hook == netfilter.Egress {
			frame, which = netfilter.Frame{Out: d.Name}, "that leave by "+d.Name
		}
		found = append(found, ofFate(rules.Fate(c, frame), "frames "+which+", guests' among them,", c.Show(), "")...)
	}
	return found
}

// inBridge says what the rules of bridges do in one.
func inBridge(rules netfilter.Rules, b guestBridge) (found []Finding) {
	for _, c := range rules {
		if !c.Base || c.Family != netfilter.Bridge {
			continue
		}
		worst := netfilter.Passes
		for _, way := range [][2]string{{b.outside, b.guest}, {b.guest, b.outside}} {
			f := netfilter.Frame{In: way[0], Out: way[1], InBridge: b.name, OutBridge: b.name}
			switch c.Hook {
			case netfilter.Prerouting:
				f.Out, f.OutBridge = "", ""
			case netfilter.Forward, netfilter.Postrouting:
			default:
				continue // frames for this host and from it
			}
			worst = max(worst, rules.Fate(c, f))
		}
		found = append(found, ofFate(worst, "frames of guests in bridge "+b.name, c.Show(), "")...)
	}
	return found
}

// called says how br_netfilter is told to give a bridge's frames to the rules of IPv4 and of
// IPv6, as the command that ends it; "" where it does not.
type called struct{ v4, v6 string }

// callsIP looks that up below a root.
func callsIP(root, bridge string) called {
	set := func(path string) bool {
		text, err := os.ReadFile(filepath.Join(root, path))
		return err == nil && strings.TrimSpace(string(text)) == "1"
	}
	ends := func(program string) string {
		switch {
		case set("proc/sys/net/bridge/bridge-nf-call-" + program):
			return "sysctl net.bridge.bridge-nf-call-" + program + "=0"
		case set("sys/class/net/" + bridge + "/bridge/nf_call_" + program):
			return "ip link set " + bridge + " type bridge nf_call_" + program + " 0"
		}
		return ""
	}
	if _, err := os.Stat(filepath.Join(root, "proc/sys/net/bridge")); err != nil {
		return called{} // br_netfilter is not loaded
	}
	return called{ends("iptables"), ends("ip6tables")}
}

// routedFilters says what the rules for IP, such as Docker's policy for FORWARD, do with the
// frames of a bridge. What they drop by what frames have in them may well be meant.
func routedFilters(rules netfilter.Rules, bridge string, calls called) (found []Finding) {
	for _, c := range rules {
		var frame netfilter.Frame
		match, option := "", ""
		switch c.Hook {
		case netfilter.Prerouting: // where they go is not known yet
			frame.In, match, option = bridge, "iifname "+bridge, "-i "+bridge
		case netfilter.Forward:
			frame = netfilter.Frame{In: bridge, Out: bridge, Bridged: true}
			match, option = "iifname "+bridge+" oifname "+bridge, "-i "+bridge+" -o "+bridge
		case netfilter.Postrouting:
			frame = netfilter.Frame{Out: bridge, Bridged: true}
			match, option = "oifname "+bridge, "-o "+bridge
		default:
			continue
		}
		packets, program, ends := "IPv4", "iptables", calls.v4
		switch c.Family {
		case netfilter.IPv4:
		case netfilter.IPv6:
			packets, program, ends = "IPv6", "ip6tables", calls.v6
		case netfilter.Inet:
			packets, ends = "IP", cmp.Or(calls.v4, calls.v6)
		default:
			continue
		}
		if !c.Base || ends == "" {
			continue
		}
		if fate := rules.Fate(c, frame); fate >= netfilter.MostDropped {
			how := "accept " + match + " there"
			if program, is := iptables(c, program); is {
				how = program + " -I " + userChain(rules, c) + " " + option + " -j ACCEPT"
			}
			found = append(found, ofFate(fate, packets+" packets of guests in bridge "+bridge, c.Show(),
				"br_netfilter is loaded and shows them to it: "+how+", or: "+ends)...)
		}
	}
	return found
}

// iptables is the command that changes a chain, where it is one of iptables.
func iptables(c netfilter.Chain, program string) (command string, is bool) {
	program = c.Program(program)
	if c.Table != "filter" {
		program += " -t " + c.Table
	}
	return program, c.Family != netfilter.Inet && slices.Contains([]string{"PREROUTING", "FORWARD", "POSTROUTING"}, c.Name)
}

// userChain is where a person's own rules belong: Docker has a chain for them.
func userChain(rules netfilter.Rules, forward netfilter.Chain) string {
	const docker = "DOCKER-USER"
	if slices.ContainsFunc(rules, func(c netfilter.Chain) bool { return c.Beside(forward) && c.Name == docker }) {
		return docker
	}
	return forward.Name
}

// ofFate says what becomes of frames. That some are dropped may be meant, and that none
// passes is not.
func ofFate(fate netfilter.Fate, frames, show, advice string) []Finding {
	level, which := Note, ""
	switch fate {
	case netfilter.Passes:
		return nil
	case netfilter.SomeDropped:
		which = "some "
	case netfilter.MostDropped:
		which = "all but some "
	case netfilter.Dropped:
		level, which = Fault, "all "
	}
	if advice != "" {
		advice = "; " + advice
	}
	return []Finding{finding(level, "filter", "%s%s are dropped: %s shows the rule or the policy%s", which, frames, show, advice)}
}

// patience is for programs that list rules.
const patience = 5 * time.Second

// legacyRules reads what iptables and ebtables keep themselves, beside nf_tables. Their
// programs load the modules that they lack, and so run only where there are rules already.
func legacyRules(ctx context.Context) (all netfilter.Rules, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, l := range []struct {
		family   netfilter.Family
		tables   string // lists those that there are
		table    string
		programs []string
		show     string
	}{
		{netfilter.IPv4, "/proc/thread-self/net/ip_tables_names", "filter", []string{"iptables-legacy-save", "iptables-save"}, "iptables-legacy"},
		{netfilter.IPv6, "/proc/thread-self/net/ip6_tables_names", "filter", []string{"ip6tables-legacy-save", "ip6tables-save"}, "ip6tables-legacy"},
		{netfilter.Bridge, "/proc/modules", "ebtable_filter", []string{"ebtables-legacy-save", "ebtables-save"}, "ebtables-legacy"},
	} {
		text, readErr := os.ReadFile(l.tables)
		if errors.Is(readErr, fs.ErrNotExist) || !slices.Contains(strings.Fields(string(text)), l.table) {
			continue
		}
		for _, program := range l.programs {
			out, runErr := exec.CommandContext(ctx, program).Output()
			if errors.Is(runErr, exec.ErrNotFound) {
				continue
			}
			if runErr != nil {
				err = errors.Join(err, runErr)
			}
			all = append(all, netfilter.ParseSave(l.family, l.show, out)...)
			break
		}
	}
	return all, err
}

// byXDP says that a program has a device's frames first.
func byXDP(ctx context.Context, k *link.Conn, name string) (found []Finding) {
	for u := range k.Uses(ctx, name, nil) {
		if u.Kind == link.UseXDP {
			found = append(found, finding(Note, "filter", "guests' frames on %s pass an XDP program first, which may drop them: if guests miss some: ip link set %[1]s xdp off", name))
		}
	}
	return found
}
