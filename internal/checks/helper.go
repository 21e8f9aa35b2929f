package checks

import (
	"context"
	"errors"
	"io/fs"
	"os"
)

// helperPath is where the setuid helper is installed.
const helperPath = "/usr/libexec/qemu-direct-helper"

// helperProgram checks that the helper, if it is installed, is setuid and nobody else's to
// write.
func helperProgram(context.Context, *Env) []Finding {
	fi, err := os.Stat(helperPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{finding(OK, "helper", "%s is not installed; guests of root do not need it", helperPath)}
	case err != nil:
		return []Finding{finding(Fault, "helper", "%v", err)}
	case !rootOwned(fi):
		return []Finding{finding(Fault, "helper", "%s can be written by others than root: chown root:kvm, chmod 4750", helperPath)}
	case fi.Mode()&os.ModeSetuid == 0: // file capabilities are not enough for it
		return []Finding{finding(Fault, "helper", "%s is not setuid: chmod 4750 %s", helperPath, helperPath)}
	}
	const setuid = 0o4000
	return []Finding{finding(OK, "helper", "%s, mode %04o", helperPath, fi.Mode().Perm()|setuid)}
}
