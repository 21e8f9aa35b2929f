package ovs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// op is one operation of a transaction (RFC 7047, section 5.2).
type op map[string]any

// MarshalJSON makes op an ovsdb.TransactOp.
func (o op) MarshalJSON() ([]byte, error) { return json.Marshal(map[string]any(o)) }

// where is a list of conditions, each COLUMN FUNCTION VALUE.
func where(conds ...[3]any) [][3]any {
	if conds == nil {
		return [][3]any{}
	}
	return conds
}

func byName(name string) [][3]any { return where([3]any{"name", "==", name}) }
func byUUID(id string) [][3]any   { return where([3]any{"_uuid", "==", uuidOf(id)}) }

func uuidOf(id string) [2]string   { return [2]string{"uuid", id} }
func newRow(name string) [2]string { return [2]string{"named-uuid", name} }

func setOf[T any](values ...T) [2]any {
	if values == nil {
		values = []T{}
	}
	return [2]any{"set", values}
}

func mapOf(m map[string]string) [2]any {
	pairs := [][2]string{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, [2]string{k, m[k]})
	}
	return [2]any{"map", pairs}
}

// result is what became of one operation.
type result struct {
	Rows    []row  `json:"rows"`
	Count   int    `json:"count"`
	Error   string `json:"error"`
	Details string `json:"details"`
}

// readResults reads the results of a transaction of n operations. There is one more
// when what was refused is the whole.
func readResults(raw json.RawMessage, n int) ([]result, error) {
	var list []*result
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReply, err)
	}
	results := make([]result, 0, len(list))
	for _, r := range list {
		if r == nil {
			break // what stands behind a refused operation
		}
		if r.Error != "" {
			return nil, &OpError{Op: len(results), Err: r.Error, Details: r.Details}
		}
		results = append(results, *r)
	}
	if len(results) != n {
		return nil, fmt.Errorf("%w: %d results of %d operations", ErrReply, len(results), n)
	}
	return results, nil
}

// row is a row of a table, its columns in the notation of RFC 7047, section 5.1.
type row map[string]json.RawMessage

func (r row) bad(column string) error {
	return fmt.Errorf("%w: column %s is %.60q", ErrReply, column, r[column])
}

// elements returns the values of a column that is a set; a set of one is written as
// its value.
func (r row) elements(column string) ([]json.RawMessage, error) {
	raw := r[column]
	var pair []json.RawMessage
	if json.Unmarshal(raw, &pair) == nil && len(pair) == 2 && bytes.Equal(pair[0], []byte(`"set"`)) {
		var list []json.RawMessage
		if err := json.Unmarshal(pair[1], &list); err != nil {
			return nil, r.bad(column)
		}
		return list, nil
	}
	if len(raw) == 0 {
		return nil, r.bad(column)
	}
	return []json.RawMessage{raw}, nil
}

// texts returns the strings of a column.
func (r row) texts(column string) ([]string, error) {
	list, err := r.elements(column)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(list))
	for i := range list {
		if json.Unmarshal(list[i], &texts[i]) != nil {
			return nil, r.bad(column)
		}
	}
	return texts, nil
}

// text returns a column's only string, "" when the column is empty.
func (r row) text(column string) (string, error) {
	texts, err := r.texts(column)
	if err != nil || len(texts) == 0 {
		return "", err
	}
	return texts[0], nil
}

// number returns a column's only number; ok is false when the column is empty.
func (r row) number(column string) (n int, ok bool, err error) {
	list, err := r.elements(column)
	if err != nil || len(list) == 0 {
		return 0, false, err
	}
	if json.Unmarshal(list[0], &n) != nil {
		return 0, false, r.bad(column)
	}
	return n, true, nil
}

// uuids returns the references of a column.
func (r row) uuids(column string) ([]string, error) {
	list, err := r.elements(column)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(list))
	for i := range list {
		var pair [2]string
		if json.Unmarshal(list[i], &pair) != nil || pair[0] != "uuid" {
			return nil, r.bad(column)
		}
		ids[i] = pair[1]
	}
	return ids, nil
}

// id returns the row's own UUID.
func (r row) id() (string, error) {
	ids, err := r.uuids("_uuid")
	if err != nil || len(ids) != 1 {
		return "", r.bad("_uuid")
	}
	return ids[0], nil
}

// strings returns a column that is a map.
func (r row) strings(column string) (map[string]string, error) {
	var pair []json.RawMessage
	var pairs [][2]string
	if json.Unmarshal(r[column], &pair) != nil || len(pair) != 2 || !bytes.Equal(pair[0], []byte(`"map"`)) ||
		json.Unmarshal(pair[1], &pairs) != nil {
		return nil, r.bad(column)
	}
	m := make(map[string]string, len(pairs))
	for _, p := range pairs {
		m[p[0]] = p[1]
	}
	return m, nil
}
