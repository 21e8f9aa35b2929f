// Package fault has no code of its own. Its test makes each system call of the hook program
// and of gc fail, and kills them at each; it takes the built programs, a real kernel, and
// namespaces for their host.
//
//	go test -tags integration -v ./integration/fault
//	LONG=1 go test -tags integration -v -timeout 1h ./integration/fault
//	go test -tags integration -v ./integration/fault -cases 0 -only 'EIO at fstat'
//
// The second tries all of the faults, the last those whose description has these words.
package fault
