// Package integration holds the tests of the whole: the hook program as libvirt runs
// it, on hosts of package host, with guests of package guest that talk to a peer.
//
// They carry the build tag integration and need root. What the running kernel lacks,
// 802.1Q sub-interfaces among it, is tested by the files with the tag vm, in the
// machine of package vm:
//
//	go test -tags integration ./integration
//	make build && CGO_ENABLED=0 go build -tags vm -o bin ./integration/killhook ./integration/vm/testvm
//	go test -tags vm -exec "$PWD/bin/testvm -t 8m --" ./integration
package integration
