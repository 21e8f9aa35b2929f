package ovs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// RunDir is the environment variable by which Open vSwitch's own programs, those that
// libvirt runs among them, find the folder of the socket.
const RunDir = "OVS_RUNDIR"

// The folders of packages, in the order in which they are tried. /var/run is a folder of
// its own on old hosts and in some containers.
const (
	runDir    = "/run/openvswitch"
	varRunDir = "/var/run/openvswitch"
)

// socketName is the socket's name in such a folder.
const socketName = "db.sock"

// Place is where a database's socket is.
type Place struct {
	Socket string
	// From is what says so, "OVS_RUNDIR" for instance; "" where nothing does, and it is
	// looked for where packages have it.
	From string
}

// String is the path, with what says so.
func (p Place) String() string {
	if p.From == "" {
		return p.Socket
	}
	return p.Socket + " (by " + p.From + ")"
}

// Installed reports whether anything says that there is a switch, or a socket is there.
// Most hosts have none.
func (p Place) Installed() bool { return p.From != "" || there(p.Socket) }

func there(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Default is the place where nothing says another: the first of the packages' that is
// there.
func Default() Place {
	if socket := filepath.Join(varRunDir, socketName); !there(Socket) && there(socket) {
		return Place{Socket: socket}
	}
	return Place{Socket: Socket}
}

// InRunDir is the place in a folder of OVS_RUNDIR. by tells whose environment has it.
func InRunDir(dir, by string) Place {
	return Place{Socket: filepath.Join(dir, socketName), From: by}
}

// Elsewhere lists sockets of other switches on this host, where source builds and snaps
// have them. It is for hints: which of several is meant is not for guessing.
func Elsewhere(but Place) (sockets []string) {
	same := func(a, b string) bool {
		first, err1 := os.Stat(a)
		second, err2 := os.Stat(b)
		return a == b || err1 == nil && err2 == nil && os.SameFile(first, second)
	}
	for _, dir := range []string{
		runDir, varRunDir,
		"/usr/local/var/run/openvswitch",
		"/usr/local/run/openvswitch",
		"/var/snap/microovn/common/run/switch",
		"/var/snap/openstack-hypervisor/common/run/openvswitch",
	} {
		socket := filepath.Join(dir, socketName)
		fi, err := os.Stat(socket)
		if err != nil || fi.Mode().Type() != fs.ModeSocket || same(socket, but.Socket) {
			continue
		}
		if !slices.ContainsFunc(sockets, func(known string) bool { return same(known, socket) }) {
			sockets = append(sockets, socket)
		}
	}
	return sockets
}
