package ovs

import (
	"cmp"
	"context"
	"slices"
)

// Bridge is a bridge with the network devices that are its ports. A bond has several.
type Bridge struct {
	Name    string   `json:"name"`
	Devices []Device `json:"devices"`
}

// Device is a network device of a bridge.
type Device struct {
	Name string `json:"name"`
	Tag  int    `json:"tag,omitempty"` // the port's VLAN, 0 for none
}

// Bridges returns all bridges, sorted by name, as are their devices.
func (db *DB) Bridges(ctx context.Context) (bridges []Bridge, err error) {
	err = db.do(ctx, func(s *session) error {
		res, err := s.transact(ctx,
			op{"op": "select", "table": "Bridge", "where": where(), "columns": []string{"name", "ports"}},
			op{"op": "select", "table": "Port", "where": where(), "columns": []string{"_uuid", "tag", "interfaces"}},
			op{"op": "select", "table": "Interface", "where": where(), "columns": []string{"_uuid", "name"}},
		)
		if err != nil {
			return err
		}
		bridges, err = readBridges(res[0].Rows, res[1].Rows, res[2].Rows)
		return err
	})
	return bridges, err
}

func readBridges(bridges, ports, interfaces []row) ([]Bridge, error) {
	names := map[string]string{}
	for _, r := range interfaces {
		id, err := r.id()
		if err != nil {
			return nil, err
		}
		if names[id], err = r.text("name"); err != nil {
			return nil, err
		}
	}
	devices := map[string][]Device{}
	for _, r := range ports {
		id, err := r.id()
		if err != nil {
			return nil, err
		}
		tag, _, err := r.number("tag")
		if err != nil {
			return nil, err
		}
		ids, err := r.uuids("interfaces")
		if err != nil {
			return nil, err
		}
		for _, i := range ids {
			devices[id] = append(devices[id], Device{Name: names[i], Tag: tag})
		}
	}
	var all []Bridge
	for _, r := range bridges {
		name, err := r.text("name")
		if err != nil {
			return nil, err
		}
		ids, err := r.uuids("ports")
		if err != nil {
			return nil, err
		}
		b := Bridge{Name: name}
		for _, id := range ids {
			b.Devices = append(b.Devices, devices[id]...)
		}
		slices.SortFunc(b.Devices, func(a, b Device) int { return cmp.Compare(a.Name, b.Name) })
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b Bridge) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}
