//go:build vm

package integration

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"libvirt-direct/internal/link"
	"libvirt-direct/internal/link/linktest"
	"libvirt-direct/internal/poll"
)

// What package link says of a device's users and of a macvtap on it, against a kernel
// that has bonds, teams, Open vSwitch, VLANs and ipvlans.
func TestUsesOfModules(t *testing.T) {
	if !inMachine() {
		t.Skip("this is for the test machine: go test -tags vm -exec testvm")
	}
	out, err := exec.CommandContext(t.Context(), "modprobe", "openvswitch").CombinedOutput()
	require.NoError(t, err, "%s", out)
	host := func(t *testing.T) linktest.Host { return linktest.NewNetns(t) }
	linktest.Run(t, host, linktest.Modules())
}

// A device on which a program has opened RDMA is used, although the network stack shows nothing.
func TestUseByRDMA(t *testing.T) {
	if !inMachine() {
		t.Skip("this is for the test machine: go test -tags vm -exec testvm")
	}
	out, err := exec.CommandContext(t.Context(), "modprobe", "-a", "rdma_rxe", "ib_uverbs").CombinedOutput()
	require.NoError(t, err, "%s", out)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "roce"}, PeerName: "rocep"}
	require.NoError(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { require.NoError(t, netlink.LinkDel(veth)) })
	require.NoError(t, netlink.RdmaLinkAdd("rxe0", "rxe", "roce"))
	c, err := link.Open()
	require.NoError(t, err)
	defer c.Close()
	uses := func() (found []string) {
		for u := range c.Uses(t.Context(), "roce", nil) {
			found = append(found, string(u.Kind)+": "+u.Evidence)
		}
		return found
	}
	require.Empty(t, uses())

	f := openVerbs(t)
	require.Equal(t, []string{"rdma: RDMA device rxe0 on it is in use (programs: 1, connections: 0)"}, uses())
	require.NoError(t, f.Close())
	// The kernel tears a context down when the last descriptor is gone.
	require.NoError(t, poll.Backoff(t.Context(), time.Millisecond, 50*time.Millisecond, func() (bool, error) { return len(uses()) == 0, nil }))
}

// openVerbs opens the first RDMA device as a program does: IB_USER_VERBS_CMD_GET_CONTEXT of
// include/uapi/rdma/ib_user_verbs.h.
func openVerbs(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/infiniband/uverbs0", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() }) // or the network device below it could not go
	// Where the kernel writes a descriptor for events and a number of vectors: not on a stack that moves.
	reply, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Munmap(reply)) }()
	var cmd bytes.Buffer
	require.NoError(t, binary.Write(&cmd, binary.NativeEndian, struct {
		Command           uint32
		InWords, OutWords uint16
		Response          uint64
	}{0, 4, 2, uint64(uintptr(unsafe.Pointer(&reply[0])))}))
	_, err = f.Write(cmd.Bytes())
	require.NoError(t, err)
	require.NoError(t, os.NewFile(uintptr(binary.NativeEndian.Uint32(reply)), "events").Close())
	return f
}
