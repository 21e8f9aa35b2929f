// Package account finds numeric ids in the local files /etc/passwd and /etc/group (passwd(5), group(5)).
//
// Directory services are not asked: that would mean to run their libraries with privilege. Users of such a service are
// named by number.
package account

import (
	"strconv"
	"strings"
)

// ID returns the third field of the line whose first field is name: the user id in passwd(5), the group id in
// group(5). The first such line counts, as for getpwnam(3); a line with an unusable number does not.
func ID(file []byte, name string) (uint32, bool) {
	if name == "" || strings.ContainsAny(name, ":\n") {
		return 0, false
	}
	text := string(file)
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		rest, ok := strings.CutPrefix(line, name)
		if !ok || !strings.HasPrefix(rest, ":") {
			continue
		}
		f := strings.Split(rest, ":")
		if len(f) < 3 {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil || n == 1<<32-1 { // (uid_t)-1 means "no id" to the kernel
			continue
		}
		return uint32(n), true
	}
	return 0, false
}
