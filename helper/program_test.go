//go:build integration || vm

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const roleVar = "QEMU_DIRECT_HELPER_ROLE"

// play runs this test program as another one.
func play(role string) int {
	switch role {
	case "receive":
		return receive(os.Args[1:])
	case "ask":
		return askFor(os.Args[1:])
	}
	return 2
}

// receive stands for a virtual machine monitor other than QEMU: it prints the one frame of EtherType 0x88b5 that it reads from the descriptor it is told.
func receive(args []string) int {
	var fd int
	var mac string
	if _, err := fmt.Sscanf(strings.Join(args, " "), "--net fd=[%d],mac=%s", &fd, &mac); err != nil {
		fmt.Fprintln(os.Stderr, args, err)
		return 2
	}
	f := os.NewFile(uintptr(fd), "net")
	if err := f.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	for {
		b := make([]byte, 2048)
		n, err := f.Read(b)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		const header = 10 // struct virtio_net_hdr
		if b = b[header:n]; len(b) > 14 && b[12] == 0x88 && b[13] == 0xb5 && net.HardwareAddr(b[:6]).String() == mac {
			text, _, _ := strings.Cut(string(b[14:]), ".")
			fmt.Printf("%s from %s: %s\n", mac, net.HardwareAddr(b[6:12]), text)
			return 0
		}
	}
}

// askFor runs the helper with one end of a pair of sockets that this program has made.
func askFor(args []string) int {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(pair[1]), "socket")}
	_ = cmd.Run()
	return 0
}
