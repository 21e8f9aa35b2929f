package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// rdmaUse tells of programs and kernel services that use a device by RDMA, past the network
// stack: storage over RoCE, MPI, DPDK with a driver that leaves the card its network device.
func rdmaUse(_ context.Context, d device) ([]Use, error) {
	names, err := sys.rdmaDevices(d.Name)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	all, err := netlink.RdmaResourceList()
	if err != nil {
		return nil, fmt.Errorf("look at RDMA devices: %w", err)
	}
	var uses []Use
	for _, r := range all {
		// The kernel's own housekeeping has a queue pair on each device, and neither of these.
		contexts, connections := r.RdmaResourceSummaryEntries["ctx"], r.RdmaResourceSummaryEntries["cm_id"]
		if slices.Contains(names, r.Name) && contexts+connections > 0 {
			uses = append(uses, Use{Kind: UseRDMA, Evidence: fmt.Sprintf(
				"RDMA device %s on it is in use (programs: %d, connections: %d)", r.Name, contexts, connections)})
		}
	}
	return uses, nil
}

// rdmaDevices lists the RDMA devices of a network device: those of its card's function, or,
// where software makes them, those that name it.
func (s sysfs) rdmaDevices(name string) ([]string, error) {
	if names, err := readNames(filepath.Join(string(s), "class/net", name, "device/infiniband")); err != nil || len(names) > 0 {
		return names, err
	}
	parents, err := filepath.Glob(filepath.Join(string(s), "class/infiniband/*/parent"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range parents {
		if b, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(b)) == name {
			names = append(names, filepath.Base(filepath.Dir(p)))
		}
	}
	return names, nil
}

// readNames lists the entries of a folder, none where it is not there.
func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
