// Package fault has no code of its own: its test fails, and kills the hook program at,
// each call site of ours that makes a system call.
//
//	go test -tags integration -v ./integration/fault
package fault
