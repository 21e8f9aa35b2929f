//go:build integration && !amd64

package fault

import "golang.org/x/sys/unix"

// The test reads registers and frames by amd64's convention alone.
const traced = "the tracer knows amd64 alone"

type registers unix.PtraceRegs

func (r *registers) call() (nr uint64, args [6]uint64) { return 0, args }
func (r *registers) stack() (ip, sp, frame uint64)     { return 0, 0, 0 }
func (r *registers) drop()                             {}
func (r *registers) fail(unix.Errno)                   {}

var names map[uint64]string
