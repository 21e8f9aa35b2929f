# `make help` lists what can be made.

GO      ?= go
DESTDIR ?=
UNITDIR ?= /usr/lib/systemd/system
ZSHDIR  ?= /usr/share/zsh/site-functions

# How long each fuzz target runs, by hand and over night, and which benchmarks.
FUZZTIME      ?= 10s
LONG_FUZZTIME ?= 2m
BENCH         ?= .

# How long random callers use the helper over night.
LONG_FUZZTIME_ROOT ?= 10m

STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The tests' own time limits, for a slow machine with two processors.
INTEGRATION_TIMEOUT ?= 30m
VM_TIMEOUT          ?= 20m

# A test file that needs more than an unprivileged process says so by its build tag:
# "integration" needs root, namespaces and real daemons; "vm" needs another kernel.
tagged = $(shell grep -rl --include='*_test.go' '^//go:build $(1)$$' --exclude-dir=.cache . | xargs -rn1 dirname | sort -u)

# Integration tests that do hardly anything but wait, for the timers of LLDP.
waiting = ./vdp/vdpd

# Programs by name in bin/ and folder of their source.
programs = libvirt-direct:cmd/libvirt-direct qemu-hook:hooks/qemu qemu-direct-helper:helper vdpd:vdp/vdpd

.PHONY: all build help check test test-unit test-integration test-serial test-waiting test-vm long mutants demo lint bench fuzz fuzz-root man completions licences install deb rpm clean deps-test deps-demo

all: build

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-16s %s\n", $$1, $$2 }'

build: ## build the programs, statically linked, into bin/ (the default)
	@mkdir -p bin
	@set -e; for p in $(programs); do \
		dir=$${p#*:}; name=$${p%%:*}; \
		echo "$(GO) build -o bin/$$name ./$$dir"; \
		CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o bin/$$name ./$$dir; \
	done

completions: build ## write the shells' completions into bin/completions
	@mkdir -p bin/completions
	@for shell in bash zsh fish; do bin/libvirt-direct completion $$shell >bin/completions/$$shell || exit 1; done

# What each package's programs are linked with.
licences:
	@mkdir -p bin/licences/libvirt-direct bin/licences/libvirt-direct-helper bin/licences/libvirt-direct-vdpd
	@packaging/licences ./cmd/libvirt-direct ./hooks/qemu >bin/licences/libvirt-direct/THIRD-PARTY-LICENSES
	@packaging/licences ./helper >bin/licences/libvirt-direct-helper/THIRD-PARTY-LICENSES
	@packaging/licences ./vdp/vdpd >bin/licences/libvirt-direct-vdpd/THIRD-PARTY-LICENSES

check: ## run the tests that need neither root nor daemons (under a minute)
	$(GO) test ./...

# Each phase runs even if one before it failed; the last lines are go test's own.
test: deps-test ## run every test, installing what it lacks (root; about half an hour)
	@begin=$$(date +%s); status=0; \
	phase() { \
		now=$$(($$(date +%s) - begin)); printf '== [%02d:%02d] %s\n' $$((now / 60)) $$((now % 60)) "$$2"; \
		$(MAKE) --no-print-directory -s "$$1" || status=1; \
	}; \
	phase test-unit "unit tests: no root, no daemons"; \
	phase test-integration "integration tests: real libvirtd, QEMU and kernel, in namespaces"; \
	phase test-vm "tests in the test machine: Debian's kernel, emulated"; \
	exit $$status

test-unit:
	$(GO) test -count=1 ./...

test-integration: ## run the integration tests alone (root)
	@$(MAKE) --no-print-directory -j 2 -k test-serial test-waiting

# One after the other: they look at what is the whole machine's, and at how long things take.
test-serial:
	$(GO) test -tags integration -count=1 -p 1 -timeout $(INTEGRATION_TIMEOUT) \
		$(filter-out $(waiting),$(call tagged,integration))

test-waiting:
	$(GO) test -tags integration -count=1 -timeout $(INTEGRATION_TIMEOUT) $(waiting)

# In the machine the programs lie in bin/: building them there would take minutes. It has one
# processor: with two, Debian 12's QEMU has been seen to stop one of them for good, and
# on a busy host the tests are slower for it.
test-vm: build ## run the tests in the test machine alone (root)
	@CGO_ENABLED=0 $(GO) build -tags vm -o bin ./integration/killhook ./integration/vm/testvm
	@packages="$(call tagged,vm)"; \
	if [ -z "$$packages" ]; then echo "no test has the tag vm"; exit 0; fi; \
	$(GO) test -tags vm -count=1 -p 1 -timeout $(VM_TIMEOUT) -exec "$(CURDIR)/bin/testvm -cpus 1 -t $(VM_TIMEOUT) --" $$packages

# LONG=1 is for hosttest.Rounds. Each part runs even if one before it failed.
long: ## run over night: the tests with more rounds, then fuzz, fuzz-root and bench (root; hours)
	@status=0; \
	LONG=1 $(MAKE) --no-print-directory test || status=1; \
	$(MAKE) --no-print-directory fuzz FUZZTIME=$(LONG_FUZZTIME) || status=1; \
	$(MAKE) --no-print-directory fuzz-root FUZZTIME=$(LONG_FUZZTIME_ROOT) || status=1; \
	$(MAKE) --no-print-directory bench || status=1; \
	exit $$status

mutants: ## take defences out of the helper one by one: a test has to notice (root; minutes)
	LONG=1 $(GO) test -tags integration -count=1 -v -timeout 2h ./helper/mutants

demo: deps-demo ## show guests with direct NICs on a throwaway host (root; 90 s)
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) build -o bin/demo ./integration/demo
	@bin/demo

man: ## write the manual pages into bin/man
	$(GO) run ./packaging/man -o bin/man

deps-demo deps-test: deps-%:
	@if [ "$$(id -u)" != 0 ]; then \
		echo "make $* needs root, to make network namespaces: sudo make $*" >&2; exit 1; fi
	@integration/deps/install $*

lint: ## gofmt, go vet and staticcheck, with every build tag
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w these:" $$unformatted >&2; exit 1; fi
	$(GO) vet -tags integration,vm ./...
	$(GO) run $(STATICCHECK) -tags integration,vm ./...

bench: ## run the benchmarks (BENCH=regexp)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...
	$(GO) test -tags integration -run '^$$' -bench '$(BENCH)' -benchtime 20x ./internal/ovs
	$(GO) test -tags integration -run '^$$' -bench '$(BENCH)' -benchtime 1x ./helper

# go test fuzzes one target of one package at a time.
fuzz: ## run each fuzz target for FUZZTIME
	@grep -rHoE --include='*_test.go' --exclude-dir=.cache '^func Fuzz[A-Za-z0-9_]*' . | sort | while IFS=: read -r file func; do \
		target=$${func#func }; dir=$$(dirname "$$file"); \
		echo "== $$dir $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir" </dev/null || exit 1; \
	done

# Not for go test -fuzz: see helper/fuzz_test.go. The time limit is for the shortening of what fails.
fuzz-root: deps-test ## have random callers use the helper for FUZZTIME (root)
	$(GO) test -tags integration -count=1 -timeout 24h -run '^TestRandomCallers$$' ./helper -duration $(FUZZTIME)

# Only on the host itself is the hook put where libvirt runs it, and the helper made
# setuid: in a package that is done when it is installed. The paths are fixed: programs,
# units and profiles name each other by them.
install: build man completions ## install everything below DESTDIR, the hook as libvirt's
	install -D -m 0755 bin/libvirt-direct '$(DESTDIR)/usr/bin/libvirt-direct'
	install -D -m 0755 bin/vdpd '$(DESTDIR)/usr/sbin/vdpd'
	install -D -m 0755 bin/qemu-direct-helper '$(DESTDIR)/usr/libexec/qemu-direct-helper'
	install -d '$(DESTDIR)/usr/libexec/libvirt-direct' '$(DESTDIR)$(UNITDIR)' '$(DESTDIR)/usr/lib/sysusers.d' \
		'$(DESTDIR)/usr/lib/tmpfiles.d' '$(DESTDIR)/etc/libvirt-direct'
	install -m 0755 bin/qemu-hook packaging/hook/place-hook '$(DESTDIR)/usr/libexec/libvirt-direct'
	install -m 0644 packaging/systemd/*.service packaging/systemd/*.timer packaging/systemd/*.path '$(DESTDIR)$(UNITDIR)'
	install -m 0644 packaging/sysusers/*.conf '$(DESTDIR)/usr/lib/sysusers.d'
	install -m 0644 packaging/tmpfiles/*.conf '$(DESTDIR)/usr/lib/tmpfiles.d'
	@for name in 0-libvirt-direct 0-libvirt-direct-helper; do \
		install -D -m 0644 packaging/managers/udev.rules "$(DESTDIR)/usr/lib/udev/rules.d/$$name.rules"; \
		for type in network link; do \
			install -D -m 0644 packaging/managers/unmanaged.$$type "$(DESTDIR)/usr/lib/systemd/network/$$name.$$type"; done; done
	@cd packaging/etc; for f in *; do \
		[ -e "$(DESTDIR)/etc/libvirt-direct/$$f" ] || install -m 0644 $$f '$(DESTDIR)/etc/libvirt-direct'; done
	@for page in bin/man/*; do install -D -m 0644 -t "$(DESTDIR)/usr/share/man/man$${page##*.}" $$page; done
	install -D -m 0644 bin/completions/bash '$(DESTDIR)/usr/share/bash-completion/completions/libvirt-direct'
	install -D -m 0644 bin/completions/zsh '$(DESTDIR)$(ZSHDIR)/_libvirt-direct'
	install -D -m 0644 bin/completions/fish '$(DESTDIR)/usr/share/fish/vendor_completions.d/libvirt-direct.fish'
ifeq (,$(DESTDIR))
	/usr/libexec/libvirt-direct/place-hook install
	@if getent group kvm >/dev/null; then \
		chgrp kvm /usr/libexec/qemu-direct-helper && chmod 4750 /usr/libexec/qemu-direct-helper; \
	else \
		echo "/usr/libexec/qemu-direct-helper is not setuid: there is no group kvm"; \
	fi
endif

# Built from a copy, so that neither the tree is written to nor its place matters; from
# the last commit's time, so that the same tree gives the same bytes.
deb: ## build the Debian packages into dist/
	packaging/build deb

rpm: ## build the RPM packages into dist/
	packaging/build rpm

clean: ## remove what was built (and not .cache, the downloaded kernel)
	rm -rf bin dist coverage.out
