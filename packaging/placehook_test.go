//go:build integration

package packaging

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever stands in libvirt's folder for hooks that is not ours is the same after
// an installation and after a removal.
func TestHooksOfOthersStay(t *testing.T) {
	script, err := filepath.Abs("hook/place-hook")
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "qemu-hook")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "libvirt-direct/hooks/qemu").CombinedOutput()
	require.NoError(t, err, "%s", out)
	const foreign = `printf '#!/bin/sh\nexit 0\n' >`
	for _, c := range []struct {
		name, before string
		ours         string // where it is then, in qemu's half
		says         string
	}{
		{"nothing", "", "qemu", ""},
		{"a script", foreign + "qemu; chmod 755 qemu", "qemu.d/50-libvirt-direct", ""},
		{"a script that libvirt does not run", foreign + "qemu", "qemu.d/50-libvirt-direct", ""},
		{"a link to one elsewhere", foreign + "/run/other; chmod 755 /run/other; ln -s /run/other qemu", "qemu.d/50-libvirt-direct", ""},
		{"a link to nothing", "ln -s nowhere qemu", "qemu.d/50-libvirt-direct", ""},
		{"a folder called qemu", "mkdir qemu", "qemu.d/50-libvirt-direct", ""},
		{"a dispatcher of passed-through graphics", foreign + "qemu; chmod 755 qemu; mkdir -p qemu.d/win10/prepare/begin; " + foreign + "qemu.d/win10/prepare/begin/a.sh", "qemu.d/50-libvirt-direct", ""},
		{"neighbours alone", "mkdir qemu.d; " + foreign + "qemu.d/10-other; ln -s nowhere qemu.d/20-gone", "qemu", ""},
		{"an empty folder", "mkdir qemu.d", "qemu", ""},
		{"a link to a folder", "mkdir /run/other.d; " + foreign + "qemu; ln -s /run/other.d qemu.d", "qemu.d/50-libvirt-direct", ""},
		{"a script that has our name", foreign + "qemu; mkdir qemu.d; " + foreign + "qemu.d/50-libvirt-direct", "", "qemu.d/50-libvirt-direct is another's and stays as it is"},
		{"a link to nothing that has our name", foreign + "qemu; mkdir qemu.d; ln -s nowhere qemu.d/50-libvirt-direct", "", "qemu.d/50-libvirt-direct is another's and stays as it is"},
		{"a file called qemu.d", foreign + "qemu; : >qemu.d", "", "qemu.d is another's and stays as it is"},
		{"a script that speaks of ours", "printf '#!/bin/sh\nexec /usr/libexec/libvirt-direct/qemu-hook \"$@\"\n' >qemu", "qemu.d/50-libvirt-direct", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-euc", `
				for d in /etc/libvirt /usr/libexec /run /etc/apparmor.d; do mount -t tmpfs tmpfs $d; done
				mkdir -p /etc/libvirt/hooks /usr/libexec/libvirt-direct; cp "$1" /usr/libexec/libvirt-direct/qemu-hook; cd /etc/libvirt/hooks
				list() { find . /run ! -path "*/.libvirt*" | sort | while read -r f; do stat -c '%n %F %a %N' "$f"; [ -d "$f" ] || [ ! -e "$f" ] || sha256sum "$f"; done; }
				eval "$3"; list >/tmp/before.$$
				"$2" install; "$2" install
				find -L . -type f | while read -r f; do cmp -s "$f" "$1" && echo "ours ${f#./}"; done || true
				"$2" remove
				list | diff /tmp/before.$$ - && echo same; rm /tmp/before.$$`, "sh", program, script, c.before)
			out, err := run.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), "same\n")
			if c.ours != "" {
				require.Contains(t, string(out), "ours "+c.ours+"\n")
			}
			require.Equal(t, map[bool]int{true: 2, false: 1}[c.ours != ""], strings.Count(string(out), "ours "), "%s", out)
			if c.says == "" {
				require.NotContains(t, string(out), "stays as it is")
			} else {
				require.Contains(t, string(out), c.says)
			}
		})
	}
}
