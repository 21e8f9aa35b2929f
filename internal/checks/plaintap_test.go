package checks

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestPlainTaps(t *testing.T) {
	requireFindings(t, nil, ofProfiles(nil, nil))
	requireFindings(t, []Finding{
		{Note, "helper", "profile a gives several users plain TAP devices: "},
		{Note, "helper", "profile b gives several users plain TAP devices: "},
	}, ofProfiles([]string{"a", "b"}, nil))
	requireFindings(t, []Finding{{Fault, "helper", "every profile is refused: helper.conf:1: two; lines"}}, ofProfiles(nil, errors.New("helper.conf:1: two\nlines")))
	requireFindings(t, []Finding{{Note, "helper", "not looked at, that needs root: "}}, ofProfiles(nil, fmt.Errorf("x: %w", fs.ErrPermission)))

	requireFindings(t, nil, ofACLs(nil, nil))
	requireFindings(t, []Finding{{Note, "helper", "/etc/qemu/bridge.conf gives plain TAP devices to everybody who may read it: "}}, ofACLs([]string{"/etc/qemu/bridge.conf"}, nil))
	requireFindings(t, []Finding{{Fault, "helper", "every bridge is refused: x"}}, ofACLs(nil, errors.New("x")))
}
