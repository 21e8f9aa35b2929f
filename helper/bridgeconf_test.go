//go:build integration

package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

const denial = "access denied by acl file"

// A deny line holds for the bridge, whichever of its names it has and the stranger uses.
func TestDenyUnderAnotherName(t *testing.T) {
	bridge(t, "mgmt")
	run(t, "ip", "link", "property", "add", "dev", "mgmt", "altname", "br-mgmt", "altname", "management-of-the-whole-host")
	run(t, "ip", "link", "set", "mgmt", "alias", "office")
	for _, denied := range []string{"mgmt", "br-mgmt", "management-of-the-whole-host", "office"} {
		acl(t, "allow all\ndeny "+denied+"\n")
		for _, asked := range []string{"mgmt", "br-mgmt"} {
			requireRefused(t, ask(t, asked), denial)
		}
	}
	acl(t, "allow all\ndeny br-other\n")
	for _, asked := range []string{"mgmt", "br-mgmt"} {
		a := ask(t, asked)
		requireGranted(t, a)
		require.Contains(t, run(t, "ip", "-o", "link", "show", "master", "mgmt"), "tap")
		a.close()
		requireNothingLeft(t)
	}
}

func TestAllowUnderAnotherName(t *testing.T) {
	bridge(t, "br0")
	bridge(t, "br1")
	run(t, "ip", "link", "property", "add", "dev", "br0", "altname", "lan")
	run(t, "ip", "link", "set", "br1", "alias", "lan1")
	for _, allowed := range []string{"br0", "lan"} {
		acl(t, "allow "+allowed+"\n")
		for _, asked := range []string{"br0", "lan"} {
			requireGranted(t, ask(t, asked)).Close()
		}
		requireRefused(t, ask(t, "br1"), denial)
	}
	acl(t, "allow lan1\n")
	requireRefused(t, ask(t, "br1"), denial) // an alias is a description
}

// Whether a device that is not allowed exists is not told.
func TestDenialDoesNotTellWhatExists(t *testing.T) {
	bridge(t, "secret")
	for _, text := range []string{"allow br0\n", "allow all\ndeny secret\ndeny nothing\n", "nonsense\n", ""} {
		acl(t, text)
		there, missing := ask(t, "secret"), ask(t, "nothing")
		requireRefused(t, there, denial+": secret: ")
		requireRefused(t, missing, denial+": nothing: ")
		require.Equal(t, there.stderr[len("qemu-direct-helper: access denied by acl file: secret: "):],
			missing.stderr[len("qemu-direct-helper: access denied by acl file: nothing: "):])
	}
	acl(t, "allow all\n")
	requireRefused(t, ask(t, "nothing"), "no such network device")
}

// RHEL's QEMU has its list in another folder.
func TestBothACLs(t *testing.T) {
	bridge(t, "br0")
	require.NoError(t, os.Mkdir("/etc/qemu-kvm", 0o755))
	defer os.RemoveAll("/etc/qemu-kvm")
	const rhel = "/etc/qemu-kvm/bridge.conf"

	requireRefused(t, ask(t, "br0"), "no such profile, and /etc/qemu/bridge.conf: ")
	put(t, rhel, "allow br0\n")
	requireGranted(t, ask(t, "br0")).Close()
	requireRefused(t, ask(t, "br1"), denial)

	acl(t, "allow br1\n")
	requireGranted(t, ask(t, "br0")).Close() // the lists add up
	acl(t, "deny br0\n")
	requireRefused(t, ask(t, "br0"), denial)
	put(t, rhel, "deny br0\n")
	acl(t, "allow br0\n")
	requireRefused(t, ask(t, "br0"), denial)

	// What cannot be read, or not be trusted, denies everything.
	put(t, rhel, "")
	requireGranted(t, ask(t, "br0")).Close()
	put(t, rhel, "alow br1\n")
	requireRefused(t, ask(t, "br0"), "/etc/qemu-kvm/bridge.conf:1: ")
	put(t, rhel, "")
	require.NoError(t, os.Chmod(rhel, 0o600))
	requireRefused(t, ask(t, "br0"), denial)
	require.NoError(t, os.Chmod(rhel, 0o666))
	requireRefused(t, ask(t, "br0"), "can be changed by others than root")
	requireNothingLeft(t)
}
