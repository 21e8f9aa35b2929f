package host

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Snapshot is what of a namespace's network must be the same after as before:
// each link by name, with its attributes, addresses and /dev/tap node. What
// counts or follows (statistics, carrier, neighbours) is left out.
type Snapshot map[string]Link

// A Link is a network interface by attribute, as printed: "mac", "mtu",
// "kind". What it does not have is absent.
type Link map[string]string

// Snapshot takes a Snapshot.
func (p *Peer) Snapshot(ctx context.Context) (Snapshot, error) {
	links, err := p.Run(ctx, "ip", "-details", "-json", "link", "show")
	if err != nil {
		return nil, err
	}
	addrs, err := p.Run(ctx, "ip", "-json", "addr", "show")
	if err != nil {
		return nil, err
	}
	s, err := parseSnapshot([]byte(links), []byte(addrs))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.opts.Name, err)
	}
	if err := p.addTaps(s); err != nil {
		return nil, fmt.Errorf("%s: %w", p.opts.Name, err)
	}
	return s, nil
}

// addTaps adds the nodes below the shared /dev that belong to links of s.
func (p *Peer) addTaps(s Snapshot) error {
	// This class of sysfs holds what is in the mount's own network namespace.
	taps, err := filepath.Glob(p.Path("/sys/class/macvtap/tap*"))
	if err != nil {
		return err
	}
	for _, t := range taps {
		dev, err := os.ReadFile(filepath.Join(t, "dev"))
		if err != nil {
			return err
		}
		target, err := os.Readlink(t) // ../../devices/virtual/net/NIC/macvtap/tapN
		if err != nil {
			return err
		}
		nic := filepath.Base(filepath.Dir(filepath.Dir(target)))
		node := "/dev/" + filepath.Base(t)
		link, ok := s[nic]
		if !ok {
			link = Link{}
			s[nic] = link
		}
		link["tap"] = node
		var st unix.Stat_t
		if err := unix.Stat(p.Path(node), &st); err != nil {
			link["tap"] += " (" + err.Error() + ")"
		} else if is := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)); is != strings.TrimSpace(string(dev)) {
			link["tap"] += " (another namespace's)"
		}
	}
	return nil
}

// ipLink is what is read of ip(8)'s JSON.
type ipLink struct {
	Name        string          `json:"ifname"`
	Index       int             `json:"ifindex"`
	Parent      string          `json:"link"`
	ParentIndex int             `json:"link_index"`
	Master      string          `json:"master"`
	Flags       []string        `json:"flags"`
	MTU         int             `json:"mtu"`
	MAC         string          `json:"address"`
	Alias       string          `json:"ifalias"`
	AltNames    []string        `json:"altnames"`
	Promiscuity int             `json:"promiscuity"`
	AllMulti    int             `json:"allmulti"`
	VFs         json.RawMessage `json:"vfinfo_list"`
	Info        struct {
		Kind string          `json:"info_kind"`
		Data json.RawMessage `json:"info_data"`
	} `json:"linkinfo"`
	Addrs []struct {
		Local  string `json:"local"`
		Prefix int    `json:"prefixlen"`
	} `json:"addr_info"`
}

// parseSnapshot reads the output of "ip -details -json link show" and of
// "ip -json addr show".
func parseSnapshot(links, addrs []byte) (Snapshot, error) {
	var ls, as []ipLink
	if err := json.Unmarshal(links, &ls); err != nil {
		return nil, fmt.Errorf("read ip link's output: %w", err)
	}
	if err := json.Unmarshal(addrs, &as); err != nil {
		return nil, fmt.Errorf("read ip addr's output: %w", err)
	}
	s := Snapshot{}
	for _, l := range ls {
		s[l.Name] = l.attributes()
	}
	for _, a := range as {
		var have []string
		for _, addr := range a.Addrs {
			have = append(have, fmt.Sprintf("%s/%d", addr.Local, addr.Prefix))
		}
		if l, ok := s[a.Name]; ok && have != nil {
			slices.Sort(have)
			l["addresses"] = strings.Join(have, " ")
		}
	}
	return s, nil
}

func (l ipLink) attributes() Link {
	out := Link{
		"index":       fmt.Sprint(l.Index),
		"mtu":         fmt.Sprint(l.MTU),
		"promiscuity": fmt.Sprint(l.Promiscuity),
		"allmulti":    fmt.Sprint(l.AllMulti),
		"up":          fmt.Sprint(slices.Contains(l.Flags, "UP")),
	}
	parent := l.Parent
	if parent == "" && l.ParentIndex != 0 { // in another namespace
		parent = fmt.Sprint("index ", l.ParentIndex)
	}
	// A bridge's data are timers and counters.
	var mode struct {
		Mode string `json:"mode"`
	}
	json.Unmarshal(l.Info.Data, &mode) // absent, or of a kind without mode
	slices.Sort(l.AltNames)
	for k, v := range map[string]string{
		"kind": l.Info.Kind, "mode": mode.Mode, "parent": parent, "master": l.Master, "mac": l.MAC,
		"alias": l.Alias, "altnames": strings.Join(l.AltNames, " "), "vfs": string(l.VFs),
	} {
		if v != "" {
			out[k] = v
		}
	}
	return out
}

// Diff says how after differs from s, one link per line; "" is no difference.
func (s Snapshot) Diff(after Snapshot) string {
	var b strings.Builder
	for _, name := range sortedKeys(s, after) {
		was, had := s[name]
		is, has := after[name]
		switch {
		case !has:
			fmt.Fprintf(&b, "- %s:%s\n", name, was)
		case !had:
			fmt.Fprintf(&b, "+ %s:%s\n", name, is)
		case !maps.Equal(was, is):
			fmt.Fprintf(&b, "~ %s:", name)
			for _, k := range sortedKeys(was, is) {
				if was[k] != is[k] {
					fmt.Fprintf(&b, " %s %q -> %q", k, was[k], is[k])
				}
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// String lists the attributes, each after a space.
func (l Link) String() string {
	var b strings.Builder
	for _, k := range sortedKeys(l) {
		fmt.Fprintf(&b, " %s=%s", k, l[k])
	}
	return b.String()
}

func sortedKeys[V any, M ~map[string]V](ms ...M) []string {
	all := map[string]bool{}
	for _, m := range ms {
		for k := range m {
			all[k] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
