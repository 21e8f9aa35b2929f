package netfilter

import (
	"bufio"
	"bytes"
	"strings"
)

// ebtables is the program of the bridge's own rules of before nf_tables.
const ebtables = "ebtables-legacy"

// ParseSave reads what iptables-save, ip6tables-save or ebtables-save print of a family's
// rules; program is the one that shows a chain of them. What it does not know concerns no
// ordinary frame.
func ParseSave(family Family, program string, text []byte) Rules {
	hooks := map[string]int{"PREROUTING": Prerouting, "FORWARD": Forward, "POSTROUTING": Postrouting}
	var all Rules
	table := ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			words := strings.Fields(line[1:])
			if len(words) < 2 {
				continue
			}
			hook, base := hooks[words[0]]
			base = base && words[1] != "-"
			all = append(all, Chain{Family: family, Table: table, Name: words[0], Base: base, Hook: hook, Drops: base && words[1] == "DROP", legacy: program})
		case strings.HasPrefix(line, "-A "):
			words := strings.Fields(line)
			for i := range all {
				if len(words) > 2 && all[i].Table == table && all[i].Name == words[1] {
					all[i].rules = append(all[i].rules, savedRule(words[2:]))
				}
			}
		}
	}
	return all
}

func savedRule(words []string) (r rule) {
	fields := map[string]field{"-i": in, "-o": out, "--logical-in": inBridge, "--logical-out": outBridge}
	not := false
	for i := 0; i < len(words); i++ {
		w, next := words[i], ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		f, device := fields[w]
		switch {
		case w == "!":
			not = true
			continue
		case device:
			if next == "!" && i+2 < len(words) { // as older releases say it
				not, next, i = true, words[i+2], i+1
			}
			name, prefix := strings.CutSuffix(next, "+")
			r.when = append(r.when, condition{field: f, names: []deviceName{{name, prefix}}, not: not})
			i++
		case w == "-m" && (next == "comment" || next == "physdev"):
			i++
		case w == "--comment":
			i += quoted(words[i+1:])
		case w == "--physdev-is-bridged":
			r.when = append(r.when, condition{field: bridged, not: not})
		case w == "-j" || w == "-g":
			r.target(next, w == "-g")
			return r // what follows are the target's options
		default:
			r.unknown = true
		}
		not = false
	}
	return r
}

// quoted is how many words a quoted text has.
func quoted(words []string) int {
	if len(words) == 0 || !strings.HasPrefix(words[0], `"`) {
		return min(1, len(words))
	}
	for i, w := range words {
		if strings.HasSuffix(w, `"`) && !strings.HasSuffix(w, `\"`) && (i > 0 || len(w) > 1) {
			return i + 1
		}
	}
	return len(words)
}

func (r *rule) target(name string, goes bool) {
	switch name {
	case "ACCEPT":
		r.verdict = accept
	case "DROP", "REJECT":
		r.verdict = drop
	case "RETURN":
		r.verdict = comeBack
	case "", "CONTINUE", "LOG", "NFLOG", "MARK", "CONNMARK":
	default:
		r.verdict, r.chain = jumpTo, name
		if goes {
			r.verdict = goTo
		}
	}
}
