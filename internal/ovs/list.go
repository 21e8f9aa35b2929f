package ovs

import (
	"context"
	"fmt"
)

// Owned is a port with our key.
type Owned struct {
	Name  string `json:"name"`
	Owner string `json:"owner"`
}

// List returns the ports with our key.
func (db *DB) List(ctx context.Context) (owned []Owned, err error) {
	err = db.do(ctx, func(s *session) error {
		res, err := s.transact(ctx, op{
			"op": "select", "table": "Port", "where": where(), "columns": []string{"name", "external_ids"},
		})
		if err != nil {
			return err
		}
		owned, err = readOwned(res[0].Rows)
		return err
	})
	return owned, err
}

func readOwned(ports []row) ([]Owned, error) {
	var owned []Owned
	for _, r := range ports {
		name, err := r.text("name")
		if err != nil {
			return nil, err
		}
		ids, err := r.strings("external_ids")
		if err != nil {
			return nil, err
		}
		if owner, ours := ids[OwnerKey]; ours {
			owned = append(owned, Owned{Name: name, Owner: owner})
		}
	}
	return owned, nil
}

// BridgeOf returns the bridge that has a port, or an error matching ErrNoPort.
func (db *DB) BridgeOf(ctx context.Context, port string) (name string, err error) {
	err = db.do(ctx, func(s *session) error {
		f, err := s.find(ctx, &Port{Name: port})
		if err != nil {
			return err
		}
		if f.port == "" {
			return fmt.Errorf("port %s: %w", port, ErrNoPort)
		}
		res, err := s.transact(ctx, op{
			"op": "select", "table": "Bridge", "columns": []string{"name"},
			"where": where([3]any{"ports", "includes", uuidOf(f.port)}),
		})
		if err != nil || len(res[0].Rows) == 0 {
			return err
		}
		name, err = res[0].Rows[0].text("name")
		return err
	})
	return name, err
}
