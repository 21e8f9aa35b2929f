package domaintest

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/hooktest"
	"libvirt-direct/hooks/plan"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/settings"
	"libvirt-direct/xmlfilter"
)

var seed = flag.Int64("seed", -1, "play only this one, and print its document")

// few and many are how many documents are played, and with LONG=1.
const few, many = 2000, 20000

// counts are how many documents did what.
type counts struct{ all, read, changed, refused, remapped, defined int }

func TestSeeds(t *testing.T) {
	rounds, hosts := few, Hosts()
	if os.Getenv("LONG") == "1" {
		rounds = many
	}
	if *seed >= 0 {
		doc := Make(SeedTape(uint64(*seed)))
		fmt.Printf("%s\n%v\n", doc.XML, slices.Sorted(maps.Keys(doc.Features)))
		require.NoError(t, play(doc.XML, hosts, &counts{}))
		return
	}
	var n counts
	with := map[string]int{}
	for seed := range uint64(rounds) {
		doc := Make(SeedTape(seed))
		for f := range doc.Features {
			with[f]++
		}
		if err := play(doc.XML, hosts, &n); err != nil {
			tape := hooktest.Shrink(SeedTape(seed), func(b []byte) bool { return play(Make(b).XML, hosts, &counts{}) != nil })
			doc := Make(tape)
			t.Fatalf("seed %d: %v\nshortened to %q: %v\n%s", seed, err, bytes.TrimRight(tape, "\x00"), play(doc.XML, hosts, &counts{}), doc.XML)
		}
	}
	t.Logf("%+v of documents; features %v", n, with)
	for _, f := range Features() {
		require.GreaterOrEqual(t, with[f]*100, 5*rounds, "documents with %q: %d of %d", f, with[f], rounds)
	}
	for f := range with {
		require.Contains(t, Features(), f)
	}
	require.GreaterOrEqual(t, n.changed*100, 30*n.all, "documents that rewrite changes")
	require.GreaterOrEqual(t, n.remapped*100, 20*n.all, "documents that a migration changes")
	require.GreaterOrEqual(t, n.defined*100, 60*n.all, "documents that libvirt would take")
}

func FuzzDomains(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(SeedTape(seed))
	}
	hosts := Hosts()
	f.Fuzz(func(t *testing.T, tape []byte) {
		doc := Make(tape)
		if err := play(doc.XML, hosts, &counts{}); err != nil {
			t.Fatalf("%v\n%s", err, doc.XML)
		}
	})
}

// play does with a document whatever is done with one, on each host, and returns what is not
// as it must be.
func play(doc []byte, hosts []*Host, n *counts) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	n.all++
	d, err := xmlfilter.Parse(doc)
	if err != nil {
		if !errors.Is(err, xmlfilter.ErrSettings) {
			return fmt.Errorf("parse: %w", err)
		}
		return nil
	}
	n.read++
	ids := map[string]bool{}
	for i := range d.NICs {
		if id := d.NICs[i].ID(); id == "" || ids[id] && !duplicateAlias(d) {
			return fmt.Errorf("two NICs are %q", id)
		} else {
			ids[id] = true
		}
	}
	// Which hosts is the document's to say: all of them would take nine times as long.
	here, there := hosts[len(doc)%5%len(hosts)], hosts[len(doc)/5%len(hosts)]
	rewritten, err := rewrite(d, here)
	switch {
	case err != nil:
		return fmt.Errorf("on host %s: %w", here.Name, err)
	case rewritten == nil:
		n.refused++
		rewritten = d
	case !bytes.Equal(rewritten.Bytes(), doc):
		n.changed++
	}
	remapped := false
	for _, op := range []step.Op{step.Migrate, step.Restore} {
		moved, err := remap(rewritten, there, op)
		if err != nil {
			return fmt.Errorf("from host %s to host %s (%s): %w", here.Name, there.Name, op, err)
		}
		remapped = remapped || moved != nil && !bytes.Equal(moved.Bytes(), rewritten.Bytes())
	}
	if remapped {
		n.remapped++
	}
	if _, err := Define(doc); err == nil {
		n.defined++
	}
	return nil
}

func duplicateAlias(d *xmlfilter.Domain) bool {
	seen := map[string]bool{}
	for _, n := range d.NICs {
		if n.UserAlias() && seen[n.Alias] {
			return true
		}
		seen[n.Alias] = true
	}
	return false
}

// rewrite rewrites a domain on a host and checks all that must hold of it. It returns nil where
// the host refuses it.
func rewrite(d *xmlfilter.Domain, h *Host) (*xmlfilter.Domain, error) {
	if err := explain(d, h); err != nil {
		return nil, err
	}
	changes, err := plan.Rewrite(d, h.Config, h.Survey(d))
	if err != nil {
		var nic *plan.NICError
		if !errors.As(err, &nic) || strings.Contains(err.Error(), "\n") {
			return nil, fmt.Errorf("rewrite: %w", err)
		}
		return nil, nil
	}
	out, err := d.Rewrite(changes)
	if errors.Is(err, xmlfilter.ErrNIC) && duplicateAlias(d) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("rewrite: %w", err)
	}
	after, err := changedTo(d, changes, out)
	if err != nil {
		return nil, fmt.Errorf("rewritten: %w\n%s", err, out)
	}
	if err := oneMeaning(d, after, h); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	if err := explain(after, h); err != nil {
		return nil, err
	}

	again, err := plan.Rewrite(after, h.Config, h.Survey(after))
	if err != nil {
		return nil, fmt.Errorf("rewrite again: %w\n%s", err, out)
	}
	if twice, err := after.Rewrite(again); err != nil || !bytes.Equal(twice, out) {
		return nil, fmt.Errorf("rewritten twice it is another one (%w):\n%s\n%s", err, out, twice)
	}

	before, err := d.Undo()
	if err != nil {
		return nil, fmt.Errorf("undo: %w", err)
	}
	back, err := after.Undo()
	if err != nil || !bytes.Equal(back, before) {
		return nil, fmt.Errorf("undone it is another one (%w):\n%s\n%s", err, out, back)
	}
	return after, afterDefine(d, after, h)
}

// changedTo reads what Rewrite made of a domain: what the changes say, and nothing else, is
// another than before.
func changedTo(d *xmlfilter.Domain, changes []xmlfilter.Change, out []byte) (*xmlfilter.Domain, error) {
	if len(changes) == 0 && !bytes.Equal(out, d.Bytes()) {
		return nil, errors.New("changed without a change")
	}
	after, err := xmlfilter.Parse(out)
	if err != nil {
		return nil, err
	}
	if len(after.NICs) != len(d.NICs) || !slices.EqualFunc(after.Stray, d.Stray, func(a, b xmlfilter.Stray) bool { return a.Key == b.Key }) || after.Wish != d.Wish || after.Name != d.Name || after.UUID != d.UUID {
		return nil, errors.New("another domain")
	}
	touched := map[int]bool{}
	want := make([]settings.NIC, len(d.NICs))
	for i := range d.NICs {
		want[i] = said(&d.NICs[i])
	}
	for _, c := range changes {
		touched[c.NIC] = true
		for name, v := range c.Settings {
			s, _ := settings.Lookup(settings.InNIC, name)
			if v == "" {
				continue
			}
			if err := s.Parse(&want[c.NIC], v); err != nil {
				return nil, err
			}
		}
	}
	for i := range after.NICs {
		if got := said(&after.NICs[i]); !reflect.DeepEqual(got, want[i]) {
			return nil, fmt.Errorf("the settings of %s are %+v, not %+v", &after.NICs[i], got, want[i])
		}
	}
	was, err1 := elsewhere(d.Bytes(), touched)
	is, err2 := elsewhere(out, touched)
	if err1 != nil || err2 != nil || was != is {
		return nil, fmt.Errorf("changed elsewhere (%w, %w)", err1, err2)
	}
	return after, nil
}

func said(n *xmlfilter.NIC) settings.NIC {
	if n.Settings == nil {
		return settings.NIC{}
	}
	return n.Settings.NIC
}

// elsewhere is a document without its metadata, without some interfaces, and without the white
// space around these.
func elsewhere(doc []byte, but map[int]bool) (string, error) {
	if bytes.Contains(doc[:min(len(doc), 60)], []byte("ISO-8859-1")) {
		var utf8 []rune
		for _, b := range doc {
			utf8 = append(utf8, rune(b))
		}
		doc = []byte(string(utf8))
	}
	doc = bytes.TrimPrefix(doc, []byte("\ufeff"))
	dec := xml.NewDecoder(bytes.NewReader(doc))
	dec.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	var out strings.Builder
	at, depth, interfaces, left := 0, 0, 0, 0
	for {
		from := int(dec.InputOffset())
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			out.Write(doc[at:])
			return out.String(), nil
		}
		if err != nil {
			return "", err
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			depth++
			leave := depth == 2 && tok.Name.Local == "metadata"
			if depth == 3 && tok.Name.Local == "interface" {
				leave = but[interfaces]
				interfaces++
			}
			if leave && left == 0 {
				out.Write(bytes.TrimRight(doc[at:from], " \t\r\n"))
				left = depth
			}
		case xml.EndElement:
			if depth == left {
				left, at = 0, int(dec.InputOffset())
			}
			depth--
		}
	}
}

// afterDefine checks that libvirt's own spelling of the rewritten domain says the same, and
// that undoing it leads to what the original would have been.
func afterDefine(d, after *xmlfilter.Domain, h *Host) error {
	original, err := Define(d.Bytes())
	if errors.Is(err, ErrRefused) {
		return nil
	}
	if err != nil {
		return err
	}
	defined, err := Define(after.Bytes())
	if err != nil {
		return fmt.Errorf("libvirt takes the original, and not what rewrite makes of it: %w\n%s", err, after.Bytes())
	}
	x, err := xmlfilter.Parse(original)
	if err != nil {
		return fmt.Errorf("defined: %w\n%s", err, original)
	}
	y, err := xmlfilter.Parse(defined)
	if err != nil {
		return fmt.Errorf("rewritten and defined: %w\n%s", err, defined)
	}
	for i := range after.NICs {
		if got, want := said(&y.NICs[i]), said(&after.NICs[i]); !reflect.DeepEqual(got, want) {
			return fmt.Errorf("defined, the settings of %s are %+v, not %+v\n%s", &y.NICs[i], got, want, defined)
		}
	}
	if again, err := plan.Rewrite(y, h.Config, h.Survey(y)); err != nil || len(again) != 0 {
		return fmt.Errorf("rewritten and defined, it is to be rewritten again: %+v %w\n%s", again, err, defined)
	}
	x1, err := undone(x)
	if err != nil {
		return fmt.Errorf("original defined and undone: %w", err)
	}
	y1, err := undone(y)
	if err != nil {
		return fmt.Errorf("rewritten, defined and undone: %w\n%s", err, defined)
	}
	if a, b := meaning(x1), meaning(y1); a != b {
		return fmt.Errorf("rewritten, defined and undone, it means\n%s\nnot\n%s\n%s", b, a, defined)
	}
	return nil
}

func undone(d *xmlfilter.Domain) (*xmlfilter.Domain, error) {
	doc, err := d.Undo()
	if err != nil {
		return nil, err
	}
	if doc, err = Define(doc); err != nil {
		return nil, err
	}
	return xmlfilter.Parse(doc)
}

// meaning is what a domain says of its NICs, as text.
func meaning(d *xmlfilter.Domain) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %s %v\n", d.Name, d.UUID, d.Type, d.Wish, d.Stray)
	for i := range d.NICs {
		n := d.NICs[i]
		fmt.Fprintf(&b, "%s %s %q %+v %q %s%v %s %d %d %v %v", n.ID(), n.Type, n.Alias, n.Source, n.Target, n.Managed, n.Unmanaged, n.Model, n.Queues, n.MTU, n.RxFilters, n.Bandwidth)
		if n.VLAN != nil {
			fmt.Fprintf(&b, " %+v", *n.VLAN)
		}
		if n.VirtualPort != nil {
			fmt.Fprintf(&b, " %+v", *n.VirtualPort)
		}
		s := said(&n)
		for _, setting := range settings.At(settings.InNIC) {
			if v, set := setting.Text(s); set {
				fmt.Fprintf(&b, " %s=%s", setting.Name, v)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// remap brings a domain to a host; nil where that refuses it.
func remap(d *xmlfilter.Domain, h *Host, op step.Op) (*xmlfilter.Domain, error) {
	changes, _, err := plan.Remap(d, h.Config, h.Survey(d), plan.OriginOf(op))
	if err != nil {
		var nic *plan.NICError
		if !errors.As(err, &nic) || strings.Contains(err.Error(), "\n") {
			return nil, err
		}
		return nil, nil
	}
	out, err := d.Rewrite(changes)
	if errors.Is(err, xmlfilter.ErrNIC) && duplicateAlias(d) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	after, err := changedTo(d, changes, out)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	for i, n := range after.NICs { // its host could do what it does with all else
		if o := d.NICs[i]; n.Type != o.Type || n.Source.Mode != o.Source.Mode || !reflect.DeepEqual(n.VLAN, o.VLAN) || !reflect.DeepEqual(n.VirtualPort, o.VirtualPort) || n.Target != o.Target {
			return nil, fmt.Errorf("more than names is changed:\n%s", out)
		}
	}
	if _, err := after.Undo(); err != nil {
		return nil, fmt.Errorf("undo: %w\n%s", err, out)
	}
	return after, nil
}

// explain explains each operation. That it touches nothing is its own test.
func explain(d *xmlfilter.Domain, h *Host) error {
	for _, op := range []step.Op{"", "rewrite", step.Prepare, step.Start, step.Reconnect, step.Migrate, step.Restore, step.Stopped, step.Release} {
		var b strings.Builder
		if err := hooks.Explain(&b, op, d, h.Config, h.Survey(d)); err != nil && strings.Contains(err.Error(), "two edits") {
			return err
		}
		if b.Len() == 0 {
			return fmt.Errorf("explain %s says nothing", op)
		}
	}
	return nil
}

// oneMeaning checks that a domain's start does what that of the rewritten one does, or is
// refused: what a domain means does not depend on whether somebody has rewritten it.
func oneMeaning(d, after *xmlfilter.Domain, h *Host) error {
	for _, n := range d.NICs {
		switch {
		case n.Type == "bridge" && n.VLAN != nil && n.VirtualPort == nil: // libvirt sets the port's VLAN, from 11.0 on, or refuses it
			return nil
		case n.VirtualPort != nil && n.VirtualPort.Type == "802.1Qbh": // libvirt associates the port, where the card is one that it can do it with
			return nil
		}
	}
	before, err := started(d, h)
	if err != nil {
		return nil // refused: it has to be rewritten, or cannot be had at all
	}
	then, err := started(after, h)
	if err != nil {
		return fmt.Errorf("it starts before rewrite, and then no more: %w", err)
	}
	if a, b := does(d, before, h), does(after, then, h); !slices.Equal(a, b) {
		return fmt.Errorf("its start does before rewrite\n%s\nand then\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	return nil
}

func started(d *xmlfilter.Domain, h *Host) ([]step.Step, error) {
	prepared, err := plan.For(step.Prepare, d, h.Config, h.Survey(d))
	if err != nil {
		return nil, err
	}
	started, err := plan.For(step.Start, d, h.Config, h.Survey(d))
	return slices.Concat(prepared, started), err
}

// does lists what steps do but for names, and on which devices libvirt then makes macvtaps.
func does(d *xmlfilter.Domain, steps []step.Step, h *Host) (lines []string) {
	called := map[string]string{}
	for _, s := range steps {
		switch k := s.Kind.(type) {
		case *step.AltName:
			called[k.Name] = cmp.Or(called[k.Device], k.Device)
		case *step.VLAN:
			called[k.Name] = fmt.Sprintf("VLAN %d of %s", k.ID, k.Parent)
			lines = append(lines, "make or share "+called[k.Name])
		default:
			lines = append(lines, s.String())
		}
	}
	for _, n := range d.NICs {
		if n.Type == "direct" {
			dev := cmp.Or(called[n.Source.Dev], h.devices[n.Source.Dev].Name, n.Source.Dev)
			lines = append(lines, fmt.Sprintf("NIC %d stands on %s, mode %s", n.Index, dev, cmp.Or(n.Source.Mode, "vepa")))
		}
	}
	return lines
}
