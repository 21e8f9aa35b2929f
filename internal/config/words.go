package config

import (
	"maps"
	"reflect"
	"slices"
)

// keys are the keys of a table, from the struct that holds it.
func keys(t reflect.Type) map[string]reflect.Type {
	found := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		if tag := f.Tag.Get("toml"); tag != "" && tag != "-" {
			found[tag] = f.Type
		} else if f.Anonymous {
			maps.Copy(found, keys(f.Type))
		}
	}
	return found
}

// unknown returns the part of a dotted key that its table does not have, and what
// that table has.
func unknown(key []string) (part string, known []string) {
	t := reflect.TypeFor[Config]()
	for _, part := range key {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Map: // [uplink.NAME]: any name will do
			t = t.Elem()
		case reflect.Struct:
			table := keys(t)
			if t = table[part]; t == nil {
				return part, slices.Sorted(maps.Keys(table))
			}
		default:
			return "", nil
		}
	}
	return "", nil
}

// nearest returns the known word with the smallest edit distance, "" when even
// that is too far to be meant.
func nearest(word string, known []string) string {
	best, at := "", len(word)/2+1
	for _, k := range known {
		if d := distance(word, k); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance is Levenshtein's edit distance in octets.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
