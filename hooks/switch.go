package hooks

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"libvirt-direct/hooks/step"
	"libvirt-direct/internal/config"
	"libvirt-direct/internal/ovs"
)

// OpenSwitch returns how to name the host's Open vSwitch, by the configuration in a file.
func OpenSwitch(file string) func() step.Switch {
	return func() step.Switch { return FindSwitch(file) }
}

// FindSwitch names the host's Open vSwitch: by [ovs] socket of the configuration in a file,
// by OVS_RUNDIR, or where packages have it. All that reaches Open vSwitch asks here.
//
// A file that cannot be read says nothing: who may not start a guest then still undoes what
// was done for one. A faulty section says that another place is meant.
func FindSwitch(file string) *ovs.DB {
	if cfg, err := config.Load(file); err == nil {
		if err := cfg.OVSFault(); err != nil {
			return ovs.Nowhere(err)
		}
		if cfg.OVS.Socket != "" {
			return ovs.At(ovs.Place{Socket: cfg.OVS.Socket, From: "[ovs] socket in " + file})
		}
	}
	dir, by := switchFolder()
	if dir == "" {
		return ovs.At(ovs.Default())
	}
	place := ovs.InRunDir(dir, by)
	if _, err := config.SocketPath(place.Socket); err != nil {
		return ovs.Nowhere(fmt.Errorf("%s: %w", by, err))
	}
	return ovs.At(place)
}

// switchFolder is OVS_RUNDIR of this process, or else of libvirt's daemon: that is where
// libvirt's own ovs-vsctl looks. libvirt gives its hooks a few variables, and not this one
// (virHookCall).
func switchFolder() (dir, by string) {
	if dir := os.Getenv(ovs.RunDir); dir != "" {
		return dir, ovs.RunDir
	}
	daemons := []string{"libvirtd", "virtqemud"}
	pids := []string{strconv.Itoa(os.Getppid())}
	for _, name := range daemons {
		if text, err := os.ReadFile("/run/" + name + ".pid"); err == nil {
			pids = append(pids, strings.TrimSpace(string(text)))
		}
	}
	for _, pid := range pids {
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		name := strings.TrimSpace(string(comm))
		if err != nil || !slices.Contains(daemons, name) {
			continue
		}
		environ, err := os.ReadFile("/proc/" + pid + "/environ")
		if err != nil {
			continue
		}
		for _, v := range bytes.Split(environ, []byte{0}) {
			if dir, is := strings.CutPrefix(string(v), ovs.RunDir+"="); is && dir != "" {
				return dir, ovs.RunDir + " of " + name
			}
		}
	}
	return "", ""
}
