// Package integration holds the tests of the whole: the hook program as libvirt runs
// it, on hosts of package host, with guests of package guest that talk to a peer.
//
// They carry the build tag integration and need root. What the running kernel lacks,
// 802.1Q sub-interfaces among it, is tested by the files with the tag vm, in the
// machine of package vm:
//
//	CGO_ENABLED=0 go build -o bin -tags vm ./hooks/qemu ./cmd/libvirt-direct ./integration/killhook ./integration/vm/testvm
//	go test -tags integration ./integration
//	go test -tags vm -exec "$PWD/bin/testvm -e LIBVIRT_DIRECT_BIN=$PWD/bin -t 5m --" ./integration
//
// LIBVIRT_DIRECT_BIN names a directory with the programs; without it the tests build
// them, which takes too long in the test machine.
package integration
