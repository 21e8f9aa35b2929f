package main

import (
	"bufio"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"libvirt-direct/vdp"
	"libvirt-direct/vdp/control"
)

const (
	aVSI  = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"
	aDone = `{"vsi":{"id":"` + aVSI + `","manager":11,"type":1193047,"version":2,"filters":[{"mac":"52:54:00:01:02:03","vid":100}]}}`
)

// fakeVDPD answers each request with the lines for its operation, and returns the
// requests that it got.
func fakeVDPD(t *testing.T, answers map[string]string) (socket string, got chan string) {
	socket, got = filepath.Join(t.TempDir(), "control"), make(chan string, 10)
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			var r control.Request
			_ = json.Unmarshal([]byte(line), &r)
			got <- strings.TrimSpace(line)
			_, _ = c.Write([]byte(answers[r.Op] + "\n"))
			c.Close()
		}
	}()
	return socket, got
}

func TestVSICommands(t *testing.T) {
	t.Setenv("TZ", "UTC")
	list := `{"vsis":[{"uplink":"eth0","vsi":` + aDone[len(`{"vsi":`):len(aDone)-1] + `,"mode":"associate","state":"lost","owner":"libvirt","error":{"code":"no-answer","message":"the switch does not answer VDP requests"}}]}`
	socket, got := fakeVDPD(t, map[string]string{
		"associate":    aDone,
		"deassociate":  `{}`,
		"preassociate": `{"error":{"code":"refused","message":"refused by the switch: insufficient resources","edition":"2012","status":66}}`,
		"list":         list,
		"show":         list,
		"status":       `{"uplinks":[{"name":"eth0","ifindex":3,"device":"wan0","mac":"02:aa:00:00:00:01","link":false,"edition":"2012","error":{"code":"no-link","message":"uplink is down"},"timers":{"ecp_ack_ms":2.56,"ecp_retries":3,"answer_ms":15755.52,"keepalive_ms":10485.76},"vsis":1,"established":0,"sent":{"lldp":3,"ecp":4},"received":{"lldp":5,"ecp":6}}]}`,
		"subscribe":    `{}` + "\n" + `{"event":{"time":"2026-01-02T03:04:05.6Z","uplink":"eth0","type":"lost","mode":"associate",` + aDone[1:len(aDone)-1] + `,"error":{"code":"deassociated","message":"de-associated by the switch"}}}`,
	})
	associate := []string{"associate", "--uplink", "eth0", "--manager", "11", "--type", "1193047", "--type-version", "2", "--mac", "52:54:00:01:02:03", "--vlan", "100", aVSI}
	for _, test := range []struct {
		args                 []string
		request, out, errOut string
		code                 int
	}{
		{
			args: associate, request: `{"op":"associate","uplink":"eth0",` + aDone[1:],
			out: aVSI + ": associate granted, 52:54:00:01:02:03 VLAN 100\n",
		},
		{
			args: append([]string{"associate", "--mode", "preassociate"}, associate[1:]...), request: `{"op":"preassociate","uplink":"eth0",` + aDone[1:],
			errOut: "libvirt-direct: preassociate VSI " + aVSI + " on eth0: refused by the switch: insufficient resources\n", code: 1,
		},
		{args: []string{"disassociate", aVSI}, request: `{"op":"deassociate","id":"` + aVSI + `"}`},
		{
			args: []string{"list", "--uplink", "eth0"}, request: `{"op":"list","uplink":"eth0"}`,
			out: "UPLINK  VSI                                   STATE                                           MODE       FILTERS\n" +
				"eth0    " + aVSI + "  lost (the switch does not answer VDP requests)  associate  52:54:00:01:02:03 VLAN 100\n",
		},
		{
			args: []string{"show", aVSI}, request: `{"op":"show","id":"` + aVSI + `"}`,
			out: "VSI " + aVSI + " on eth0\n  state    lost (the switch does not answer VDP requests)\n  mode     asked for associate, reached nothing\n" +
				"  manager  11\n  type     1193047, version 2\n  filters  52:54:00:01:02:03 VLAN 100\n  owner    libvirt\n",
		},
		{
			args: []string{"uplinks"}, request: `{"op":"status"}`,
			out: "eth0 (now wan0): link down, edition 2012\n  NOT READY  uplink is down\n  switch     has sent no EVB TLV\n  frames     LLDP 3 sent, 5 received; ECP 4 sent, 6 received\n" +
				"  timers     ECP acknowledgement 2.56ms, 3 retries; VDP answer 15755.52ms; keepalive 10485.76ms\n  VSIs       1, 0 of them established\n",
		},
	} {
		out, errOut, code := cli(t, nil, append([]string{"vsi", "--socket", socket}, test.args...)...)
		require.Equal(t, test.request, <-got)
		require.Equal(t, test.out, out)
		require.Equal(t, test.errOut, errOut)
		require.Equal(t, test.code, code)
	}

	// vdpd's end is a failure, after what it has told before.
	out, errOut, code := cli(t, nil, "vsi", "--socket", socket, "events", "--json")
	<-got
	var e control.Event
	require.NoError(t, json.Unmarshal([]byte(out), &e))
	require.Equal(t, "lost", e.Type)
	require.ErrorIs(t, e.Error, vdp.ErrBridgeDeassociated)
	require.Equal(t, "libvirt-direct: vdpd closed the connection: vdpd does not run: systemctl start vdpd\n", errOut)
	require.Equal(t, 1, code)
	require.Regexp(t, `^\d\d:\d\d:\d\d eth0 lost `+aVSI+` associate 52:54:00:01:02:03 VLAN 100 \(de-associated by the switch\)$`, eventLine(&e))

	_, errOut, code = cli(t, nil, "vsi", "--socket", socket+"x", "list")
	require.Equal(t, "libvirt-direct: list: vdpd does not run: systemctl start vdpd\n", errOut)
	require.Equal(t, 1, code)
}

// What is out of the ordinary has lines of its own.
func TestPrintUplink(t *testing.T) {
	t.Setenv("TZ", "UTC")
	var out strings.Builder
	(&uplink{
		Uplink: control.Uplink{
			Name: "eth0", Ifindex: 3, Edition: "2012",
			Switch: &control.Switch{Source: "02:bb:00:00:00:01", Chassis: "leaf1", Port: "7"},
			Timers: &control.Timers{
				ECPAck: 2.56, ECPRetries: 3, Answer: 62914.56, Keepalive: 10485.76,
				Peer: &control.Exponents{Retries: 3, RTE: 8, RWD: 25, RKA: 24}, Used: &control.Exponents{Retries: 3, RTE: 8, RWD: 22, RKA: 23},
			},
			Pins:   []string{"chassis=leaf1", "02:bb:00:00:00:02"},
			Others: []control.Agent{{Source: "02:cc:00:00:00:01", Group: "01:80:c2:00:00:0e", Chassis: "x", Port: "y"}},
			Echoes: 12,
		},
		Spoofers: []string{"VFs 1 and 3 of eth0 can speak as the switch: spoof check is off"},
	}).print(&out)
	require.Equal(t, "eth0: link down, edition 2012\n"+
		"  switch     chassis leaf1, port 7, address 02:bb:00:00:00:01; reflective relay off\n"+
		"  CONFLICT   chassis x, port y, address 02:cc:00:00:00:01, to 01:80:c2:00:00:0e, sends EVB TLVs too\n"+
		"  pins       chassis=leaf1, 02:bb:00:00:00:02\n"+
		"  spoofing   VFs 1 and 3 of eth0 can speak as the switch: spoof check is off\n"+
		"  frames     LLDP 0 sent, 0 received; ECP 0 sent, 0 received\n"+
		"  echoes     12 of this host's own frames came back, and did not count\n"+
		"  timers     ECP acknowledgement 2.56ms, 3 retries; VDP answer 62914.56ms; keepalive 10485.76ms\n"+
		"  limits     the switch asks for more than is used: vdp_rwd 25 → 22, vdp_rka 24 → 23\n"+
		"  VSIs       0, 0 of them established\n", out.String())

	b, err := json.Marshal(uplink{Spoofers: []string{"x"}})
	require.NoError(t, err)
	require.Contains(t, string(b), `"name":""`, "vdpd's own answer, and one key more")
	require.Contains(t, string(b), `"spoofers":["x"]`)
	for _, key := range []string{"pins", "others", "echoes"} {
		require.NotContains(t, string(b), key)
	}
	require.Equal(t, "03:04:05 eth0 conflict from 02:cc:00:00:00:01", eventLine(&control.Event{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local), Uplink: "eth0", Type: "conflict", Source: "02:cc:00:00:00:01",
	}))
	since := control.Agent{Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)}
	require.Contains(t, since.String(), ", since 2026-01-02 03:04:05")
}

func TestVSIUsage(t *testing.T) {
	for want, args := range map[string][]string{
		`unknown command "lst"`: {"lst"},
		`show wants one operand, the VSI's UUID (libvirt: instanceid)`: {"show"},
		`disassociate: "vm1" is no UUID`:                               {"disassociate", "vm1"},
		`associate wants --uplink`:                                     {"associate", aVSI},
		`--manager "256": want a number from 0 to 255`:                 {"associate", "--uplink", "e", "--manager", "256", "--type", "1", "--type-version", "1", "--mac", "x", aVSI},
		`VSI ` + aVSI + `: VID 4095: value out of range`:               {"associate", "--uplink", "e", "--manager", "1", "--type", "1", "--type-version", "1", "--mac", "52:54:00:01:02:03", "--vlan", "4095", aVSI},
	} {
		_, errOut, code := cli(t, nil, append([]string{"vsi"}, args...)...)
		require.Equal(t, exitUsage, code)
		require.Equal(t, "libvirt-direct: "+want+"\nSee libvirt-direct --help.\n", errOut)
	}
}
