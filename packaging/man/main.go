// Command man renders the manual pages from docs/: what a page says is said there,
// and held true by the tests of what it is about.
//
//	go run ./packaging/man -docs docs -o bin/man
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"

	"libvirt-direct/internal/version"
)

func main() {
	docs := flag.String("docs", "docs", "the `folder` of the documents")
	out := flag.String("o", "bin/man", "the `folder` for the pages")
	flag.Parse()
	date, err := released(os.Getenv("SOURCE_DATE_EPOCH"), time.Now())
	if err == nil {
		err = write(*docs, *out, date)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

// released is the date in the pages: that of the sources where the environment says
// it (reproducible-builds.org), or else today.
func released(epoch string, now time.Time) (time.Time, error) {
	if epoch == "" {
		return now.UTC(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

func write(docs, out string, date time.Time) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, p := range pages() {
		doc, err := os.ReadFile(filepath.Join(docs, p.doc))
		if err != nil {
			return err
		}
		roff, err := p.render(string(doc), date)
		if err != nil {
			return fmt.Errorf("%s: %w", p.file(), err)
		}
		if err := os.WriteFile(filepath.Join(out, p.file()), roff, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// page is a manual page made of a document, or of some of its sections.
type page struct {
	name     string
	section  int
	about    string // for whatis(1): words that begin in lower case
	synopsis string // Markdown
	doc      string // a file of docs/
	// only are the titles of the sections that the page has; none means all but
	// those of other pages.
	only []string
}

func pages() []page {
	helperConf := []string{"/etc/libvirt-direct/helper.conf", "bridge.conf", "NAME and MAC"}
	return []page{
		{"libvirt-direct", 1, "guests attached directly to the host's network", "**libvirt-direct** *COMMAND* [*OPTION*]…", "commands.md", nil},
		{"libvirt-direct.toml", 5, "the host's uplinks and profiles for libvirt-direct", "*/etc/libvirt-direct/config.toml*", "config.md", nil},
		{"libvirt-direct-metadata", 7, "what a libvirt domain says of its NICs to libvirt-direct", "`<ld:nics xmlns:ld='urn:libvirt-direct:1'>`", "metadata.md", nil},
		{"libvirt-direct-bridges", 7, "what the hook does for bridge ports and libvirt's networks", "`<ld:nic isolated= learning= hairpin= bpduguard= flood= mcastflood= neighsuppress= locked= vlan= trunk= native=/>`", "bridges-and-networks.md", nil},
		{"libvirt-direct-openvswitch", 7, "what the hook does for ports of Open vSwitch and OVN", "`<ld:nic vlan= trunk= native= ifaceid= profile=/>`", "openvswitch.md", nil},
		{"libvirt-direct-hook", 8, "what libvirt runs at every step in a domain's life", "*/etc/libvirt/hooks/qemu* *DOMAIN* *OPERATION* *SUB-OPERATION* *EXTRA* \\< *domain.xml*", "hook.md", nil},
		{"qemu-direct-helper", 8, "network devices for guests of ordinary users", "**qemu-direct-helper** [**--use-vnet**] **--br=***NAME*[*/MAC*] **--fd=***N* [**--queues=***N*]\n\n**qemu-direct-helper** **--list**", "helper.md", nil},
		{"qemu-direct-helper.conf", 5, "who may have which network devices for guests", "*/etc/libvirt-direct/helper.conf*", "helper.md", helperConf},
		{"vdpd", 8, "IEEE 802.1Qbg station: associates guests' NICs with the switch", "**vdpd** [*OPTION*]…", "802.1Qbg.md", nil},
		{"vdpd.toml", 5, "the uplinks on which vdpd runs a station", "*/etc/libvirt-direct/vdpd.toml*", "802.1Qbg.md", []string{"The host"}},
	}
}

func (p page) file() string { return fmt.Sprintf("%s.%d", p.name, p.section) }

// taken reports whether another page of the same document has a section.
func (p page) taken(title string) bool {
	for _, other := range pages() {
		if other.doc == p.doc && other.name != p.name && slices.Contains(other.only, title) {
			return true
		}
	}
	return false
}

// render makes the page of a document.
func (p page) render(doc string, date time.Time) ([]byte, error) {
	intro, sections := split(doc)
	var b strings.Builder
	fmt.Fprintf(&b, "%% \"%s\" \"%d\" \"%s\" \"libvirt-direct %s\" \"libvirt-direct\"\n", strings.ToUpper(p.name), p.section, date.Format(time.DateOnly), version.Version)
	fmt.Fprintf(&b, "# NAME\n\n%s - %s\n\n# SYNOPSIS\n\n%s\n\n", p.name, p.about, p.synopsis)
	if p.only == nil {
		fmt.Fprintf(&b, "# DESCRIPTION\n\n%s\n", intro)
	}
	// "<nic>" would be taken for HTML.
	heading := func(title string) string {
		return strings.ReplaceAll(strings.ReplaceAll(title, `\<`, "<"), "<", `\<`)
	}
	found := 0
	for _, s := range sections {
		switch {
		case p.only == nil && !p.taken(s.title):
			fmt.Fprintf(&b, "# %s\n\n%s\n", heading(s.title), s.text)
		case slices.Contains(p.only, s.title):
			title := heading(s.title)
			if found == 0 {
				title = "DESCRIPTION"
			}
			fmt.Fprintf(&b, "# %s\n\n%s\n", title, s.text)
			found++
		}
	}
	if found != len(p.only) {
		return nil, errors.New("its sections are not in " + p.doc)
	}
	b.WriteString("# SEE ALSO\n\n")
	var others []string
	for _, o := range pages() {
		if o.file() != p.file() {
			others = append(others, fmt.Sprintf("**%s**(%d)", o.name, o.section))
		}
	}
	b.WriteString(strings.Join(others, ", ") + "\n")
	// Lines with code and paths would have holes if they were stretched.
	return bytes.Replace(md2man.Render([]byte(b.String())), []byte("\n.SH NAME"), []byte(".ad l\n.SH NAME"), 1), nil
}
