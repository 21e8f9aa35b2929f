//go:build integration

package main_test

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"libvirt-direct/vdp"
)

// A wire is what a test decides about between station and switch.
type wire struct {
	station, bridge *packet.Conn
	cut             atomic.Bool // the test ends
}

// wire puts one between the host's ends, which are made again. Each frame is given to
// pass, which sends it on, or does not.
func (h *host) wire(pass func(w *wire, toSwitch bool, frame []byte)) {
	h.Helper()
	ns := h.namespace("vdpw")
	h.sh("ip", "-n", h.a, "link", "del", stationIf)
	for _, end := range []struct{ ns, name, mac, inner string }{
		{h.a, stationIf, hostMAC.String(), "w0"}, {h.b, bridgeIf, switchMAC.String(), "w1"},
	} {
		h.sh("ip", "-n", end.ns, "link", "add", end.name, "address", end.mac, "type", "veth", "peer", "name", end.inner, "netns", ns)
		h.sh("ip", "-n", end.ns, "link", "set", end.name, "up")
		h.sh("ip", "-n", ns, "link", "set", end.inner, "up")
	}
	w := &wire{}
	w.station, _ = h.listen(ns, "w0")
	w.bridge, _ = h.listen(ns, "w1")
	var readers sync.WaitGroup
	h.Cleanup(func() {
		w.cut.Store(true)
		w.station.Close()
		w.bridge.Close()
		readers.Wait()
	})
	for _, from := range []*packet.Conn{w.station, w.bridge} {
		require.NoError(h, from.SetPromiscuous(true))
		readers.Go(func() {
			b := make([]byte, 2048)
			for {
				n, _, err := from.ReadFrom(b)
				switch {
				case err == nil:
					pass(w, from == w.station, b[:n])
				case !errors.Is(err, unix.ENETDOWN):
					return // the test ends
				}
			}
		})
	}
}

// carry sends a frame on.
func (w *wire) carry(t *testing.T, toSwitch bool, frame []byte) {
	to := w.station
	if toSwitch {
		to = w.bridge
	}
	_, err := to.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])})
	if err != nil && !errors.Is(err, unix.ENETDOWN) && !w.cut.Load() {
		t.Errorf("wire: %v", err)
	}
}

// isECP reports whether a frame has an ECPDU.
func isECP(frame []byte) bool {
	typ := binary.BigEndian.Uint16(frame[12:])
	return typ == vdp.EtherTypeECP || typ == vdp.EtherTypeECPDraft
}
