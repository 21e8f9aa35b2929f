// Package mutants proves that the helper's tests notice when a defence is missing: a table of small changes, each of
// which takes one defence out of the helper and names a test that has to fail then.
//
//	make mutants
//
// compiles the tests once in a copy of the module, and for each change runs the test that it names, which builds the
// helper. It needs root, some seconds for each, and a minute for those whose test runs in the test machine. One alone is
//
//	LONG=1 go test -tags integration -v -run 'TestMutants/NAME' ./helper/mutants
package mutants
