//go:build integration

package ovs

import (
	"bytes"
	"context"
	"encoding/hex"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/integration/host"
)

// guest makes a port whose other end is NAME1 and has the MAC 52:54:00:00:00:LAST.
func (w *world) guest(p Port, last string) {
	w.tb.Helper()
	for _, args := range [][]string{
		{"link", "add", "name", p.Name, "type", "veth", "peer", "name", p.Name + "1", "address", "52:54:00:00:00:" + last},
		{"link", "set", "dev", p.Name, "up"}, {"link", "set", "dev", p.Name + "1", "up"},
	} {
		_, err := w.peer.Run(w.ctx, "ip", args...)
		require.NoError(w.tb, err)
	}
	p.Bridge, p.Owner = "br0", owner
	require.NoError(w.tb, w.db.Attach(w.ctx, p))
}

// shout sends a broadcast from a port's other end until it is seen somewhere.
func (w *world) shout(name string, seen *host.Capture, match func([]byte) bool) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	shout := w.peer.Command(ctx, "busybox", "arping", "-D", "-q", "-I", name+"1", "10.0.0.9")
	require.NoError(w.tb, shout.Start())
	_, err := seen.Wait(ctx, match)
	cancel()
	_ = shout.Wait()
	require.NoError(w.tb, err)
}

// from matches frames of a source address, with a tag if there is one to be.
func from(last, tag string) func([]byte) bool {
	want, _ := hex.DecodeString("525400000000"[:10] + last + tag)
	return func(frame []byte) bool { return len(frame) > 6 && bytes.HasPrefix(frame[6:], want) }
}

// The columns do to frames what is said of them.
func TestFramesFollowTheColumns(t *testing.T) {
	w := newWorld(t)
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Fatal(err)
	}
	tunnel, isolated := 110, 120
	w.guest(Port{Name: "trunk"}, "01")
	w.guest(Port{Name: "ids"}, "02")
	w.guest(Port{Name: "a", VLAN: &VLAN{Mode: "dot1q-tunnel", Tag: &tunnel}, Mirror: "ids"}, "0a")
	w.guest(Port{Name: "b", VLAN: &VLAN{Tag: &isolated}, Protected: true}, "0b")
	w.guest(Port{Name: "c", VLAN: &VLAN{Tag: &isolated}, Protected: true}, "0c")
	w.guest(Port{Name: "d", VLAN: &VLAN{Tag: &isolated}}, "0d")
	at := map[string]*host.Capture{}
	for _, name := range []string{"trunk", "ids", "c", "d"} {
		var err error
		at[name], err = w.peer.Capture(w.ctx, name+"1")
		require.NoError(t, err)
		t.Cleanup(func() { at[name].Close() })
	}
	w.shout("a", at["trunk"], from("0a", "88a8"+"006e"))
	w.shout("a", at["ids"], from("0a", ""))
	w.shout("b", at["trunk"], from("0b", "8100"+"0078"))
	w.shout("b", at["d"], from("0b", "0806"))
	w.shout("d", at["c"], from("0d", "0806")) // by when what b sent would have come
	for _, frame := range at["c"].Frames() {
		require.False(t, from("0b", "")(frame), "protected ports do not reach each other")
		require.False(t, from("0a", "")(frame), "nor does another VLAN")
	}
}
