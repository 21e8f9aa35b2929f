package guest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
)

// ErrBusybox is wrapped by the error of Prepare when the machine's busybox
// cannot run in a guest without libraries.
var ErrBusybox = errors.New("busybox is not statically linked")

func checkStatic(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBusybox, busyboxPath, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%w: install busybox-static in the place of busybox", ErrBusybox)
		}
	}
	return nil
}
