package ovs

import "context"

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
