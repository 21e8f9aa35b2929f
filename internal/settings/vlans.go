package settings

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// ParseVLANs reads VLAN identifiers and ranges, "100,200-299", into a sorted list
// without repetitions. "" is none.
func ParseVLANs(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var ids []int
	for part := range strings.SplitSeq(s, ",") {
		low, high, ranged := strings.Cut(part, "-")
		if !ranged {
			high = low
		}
		first, err1 := strconv.ParseUint(strings.TrimSpace(low), 10, 12)
		last, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 12)
		if err1 != nil || err2 != nil || first < 1 || last > 4094 || first > last {
			return nil, errors.New("want " + wantVLANs)
		}
		for id := first; id <= last; id++ {
			ids = append(ids, int(id))
		}
		if len(ids) > 1<<16 {
			return nil, errors.New("the same VLANs too often")
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// FormatVLANs writes what ParseVLANs reads.
func FormatVLANs(ids []int) string {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	var parts []string
	for i := 0; i < len(ids); {
		j := i + 1
		for j < len(ids) && ids[j] == ids[i]+j-i {
			j++
		}
		part := strconv.Itoa(ids[i])
		if j-i > 1 {
			part += "-" + strconv.Itoa(ids[j-1])
		}
		parts = append(parts, part)
		i = j
	}
	return strings.Join(parts, ",")
}
