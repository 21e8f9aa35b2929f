package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"libvirt-direct/hooks"
	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/journal"
)

const (
	uuid   = "aaaaaaaa-0000-4000-8000-000000000001"
	secret = "geheim"
	doc    = "<domain type='kvm'><name>vm</name><uuid>" + uuid + "</uuid>" +
		"<metadata><ld:nics xmlns:ld='urn:libvirt-direct:1'><ld:nic mac='52:54:00:00:00:01' allmulticast='yes'/></ld:nics></metadata>" +
		"<devices><graphics type='vnc' passwd='" + secret + "'/>" +
		"<interface type='direct'><mac address='52:54:00:00:00:01'/><source dev='nica' mode='vepa'/></interface></devices></domain>"
	port = "<hookData><network><name>pool</name></network><networkport><owner><name>" + secret + "</name></owner>" +
		"<plug type='direct' dev='nica' mode='vepa'/></networkport></hookData>"
)

// brokenKernel panics whatever it is asked.
type brokenKernel struct{ step.Kernel }

// started is a hook on a host whose journal holds a device of the domain.
func started(t *testing.T) *hooks.Hook {
	t.Helper()
	h := &hooks.Hook{
		Config:     func() (*config.Config, error) { return config.Parse("test.toml", nil) },
		Kernel:     func() (step.Kernel, func(), error) { return brokenKernel{}, func() {}, nil },
		Journal:    journal.Existing(filepath.Join(t.TempDir(), "journal")),
		Privileged: true,
	}
	require.NoError(t, h.Journal.Make())
	j := &journal.Journal{UUID: uuid, Name: "vm"}
	for _, kind := range []step.Kind{
		&step.Macvtap{Name: "ldt0", Lower: "nica", Mode: "vepa", MAC: "52:54:00:00:00:01", Index: 7},
		&step.LinkUp{Device: "ldt0", Index: 7},
	} {
		text, err := json.Marshal(step.Step{NIC: "52:54:00:00:00:01", Kind: kind})
		require.NoError(t, err)
		resource, _ := kind.Resource()
		j.Entries = append(j.Entries, journal.Entry{Resource: resource, Gen: 1, Phase: journal.Done, Step: text})
	}
	require.NoError(t, h.Journal.Save(j))
	return h
}

// call is one call of the program by libvirt.
func call(h *hooks.Hook, program, op, stdin string) (code int, stderr, log string) {
	var out, logged bytes.Buffer
	p := process{
		stdin: strings.NewReader(stdin), stdout: &bytes.Buffer{}, stderr: &out,
		log: slog.New(slog.NewTextHandler(&logged, nil)),
	}
	h.Log = p.log
	code = p.run([]string{program, "vm", op, "begin", "-"}, h)
	return code, out.String(), logged.String()
}

// libvirt kills a running guest whose reconnect hook fails, and an exit status of the
// Go runtime's is no answer of ours.
func TestPanics(t *testing.T) {
	const program = "/etc/libvirt/hooks/qemu"
	codes := map[step.Op]int{
		step.Prepare: 1, step.Start: 1, step.Migrate: 1, step.Restore: 1,
		step.Stopped: 0, step.Release: 0, step.Reconnect: 0,
	}
	for name, c := range map[string]struct {
		spoil func(h *hooks.Hook)
		said  string
	}{
		"a kind of step": {func(*hooks.Hook) {}, "invalid memory address or nil pointer dereference"},
		// What is panicked with could quote the domain's XML.
		"the configuration": {func(h *hooks.Hook) {
			h.Config = func() (*config.Config, error) { panic("cannot read " + doc) }
		}, "panic of type string"},
	} {
		for op, want := range codes {
			t.Run(name+" "+string(op), func(t *testing.T) {
				h := started(t)
				c.spoil(h)
				code, stderr, log := call(h, program, string(op), doc)
				require.Equal(t, want, code)
				require.Regexp(t, `^libvirt-direct: `+string(op)+`: internal error: .*`+c.said+` \(\S+\.go:\d+\); please report it.*\n$`, stderr)
				require.Equal(t, 1, strings.Count(stderr, "\n"), "one line")
				require.Contains(t, log, c.said)
				require.Contains(t, log, "hooks.(*Hook).Run", "the stack")
				require.NotContains(t, stderr+log, secret)

				// Nothing stays locked.
				_, _, again := call(h, program, string(op), doc)
				require.NotContains(t, again, journal.ErrLocked.Error())
			})
		}
	}

	h := started(t)
	code, stderr, _ := call(h, program, string(step.Started), doc)
	require.Zero(t, code)
	require.Empty(t, stderr)

	code, stderr, log := call(h, "/etc/libvirt/hooks/network", string(step.PortCreated), port)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "internal error")
	require.NotContains(t, stderr+log, secret)
}

// An error is no panic: it fails each operation but reconnect.
func TestErrors(t *testing.T) {
	h := started(t)
	broken := doc[:len(doc)-1]
	for op, want := range map[step.Op]int{step.Prepare: 1, step.Release: 1, step.Restore: 1, step.Reconnect: 0} {
		code, stderr, log := call(h, "/etc/libvirt/hooks/qemu", string(op), broken)
		require.Equal(t, want, code, op)
		require.Contains(t, log, "unexpected EOF\" ", op)
		if want == 1 {
			require.Regexp(t, `^libvirt-direct: `+string(op)+`: domain "vm": .*\n$`, stderr)
		}
	}
}

func TestCallsByAPerson(t *testing.T) {
	for args, want := range map[string]int{"": 2, "--help": 0, "--version": 0, "vm": 2} {
		var stderr bytes.Buffer
		p := process{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &stderr}
		require.Equal(t, want, p.run(append([]string{"qemu"}, strings.Fields(args)...), nil), args)
		require.Contains(t, stderr.String(), "run by libvirt")
	}
	require.Zero(t, process{}.run([]string{"/etc/libvirt/hooks/qemu.d/direct.dpkg-old", "vm", "prepare", "begin", "-"}, nil))
}

// Where no log takes the notes they are on standard error, but never beside an error.
func TestNotesThatNoLogTakes(t *testing.T) {
	for doc, want := range map[string]string{doc: "note\n", doc[1:]: ""} {
		notes, stderr := bytes.NewBufferString("note\n"), &bytes.Buffer{}
		p := process{
			stdin: strings.NewReader(doc), stdout: &bytes.Buffer{}, stderr: stderr, notes: notes, log: slog.New(slog.DiscardHandler),
		}
		h := started(t)
		require.NoError(t, h.Journal.Forget(uuid))
		code := p.run([]string{"/etc/libvirt/hooks/qemu", "vm", "release", "begin", "-"}, h)
		if want != "" {
			require.Zero(t, code)
			require.Equal(t, want, stderr.String())
			continue
		}
		require.Equal(t, 1, code)
		require.Equal(t, 1, strings.Count(stderr.String(), "\n"), stderr)
		require.NotContains(t, stderr.String(), "note\n")
	}
}
