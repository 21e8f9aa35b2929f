# `make help` lists what can be made.

GO      ?= go
DESTDIR ?=
PREFIX  ?= /usr

# How long each fuzz target runs, and which benchmarks.
FUZZTIME ?= 10s
BENCH    ?= .

STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The tests' own time limits, for a slow machine with two processors.
INTEGRATION_TIMEOUT ?= 20m
VM_TIMEOUT          ?= 10m

# A test file that needs more than an unprivileged process says so by its build tag:
# "integration" needs root, namespaces and real daemons; "vm" needs another kernel.
tagged = $(shell grep -rl --include='*_test.go' '^//go:build $(1)$$' --exclude-dir=.cache . | xargs -rn1 dirname | sort -u)

# Programs by name in bin/ and folder of their source; what is not there is not built.
programs = libvirt-direct:cmd/libvirt-direct qemu-hook:hooks/qemu qemu-direct-helper:helper vdpd:vdp/vdpd
built    = $(foreach p,$(programs),$(if $(wildcard $(lastword $(subst :, ,$(p)))/*.go),$(firstword $(subst :, ,$(p)))))

.PHONY: all build help check test test-unit test-integration test-vm demo lint bench fuzz man install clean deps-test deps-demo

all: build

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-16s %s\n", $$1, $$2 }'

build: ## build the programs, statically linked, into bin/ (the default)
	@mkdir -p bin
	@set -e; for p in $(programs); do \
		dir=$${p#*:}; name=$${p%%:*}; \
		ls $$dir/*.go >/dev/null 2>&1 || continue; \
		echo "$(GO) build -o bin/$$name ./$$dir"; \
		CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o bin/$$name ./$$dir; \
	done

check: ## run the tests that need neither root nor daemons (under a minute)
	$(GO) test ./...

# Each phase runs even if one before it failed; the last lines are go test's own.
test: deps-test ## run every test, installing what it lacks (root; about ten minutes)
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
	$(GO) test -tags integration -count=1 -p 1 -timeout $(INTEGRATION_TIMEOUT) $(call tagged,integration)

# In the machine the programs lie in bin/: building them there would take minutes.
test-vm: build ## run the tests in the test machine alone (root)
	@CGO_ENABLED=0 $(GO) build -tags vm -o bin ./integration/killhook ./integration/vm/testvm
	@packages="$(call tagged,vm)"; \
	if [ -z "$$packages" ]; then echo "no test has the tag vm"; exit 0; fi; \
	$(GO) test -tags vm -count=1 -p 1 -timeout $(VM_TIMEOUT) -exec "$(CURDIR)/bin/testvm -t $(VM_TIMEOUT) --" $$packages

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

# go test fuzzes one target of one package at a time.
fuzz: ## run each fuzz target for FUZZTIME
	@grep -rHoE --include='*_test.go' --exclude-dir=.cache '^func Fuzz[A-Za-z0-9_]*' . | sort | while IFS=: read -r file func; do \
		target=$${func#func }; dir=$$(dirname "$$file"); \
		echo "== $$dir $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir" </dev/null || exit 1; \
	done

# Where another hook has libvirt's one name, ours goes into the folder beside it. The
# helper is setuid only if root installs it: in a package that is the packager's to do.
install: build ## install the programs below DESTDIR, the hook as libvirt's
	@hook='$(DESTDIR)/etc/libvirt/hooks/qemu'; \
	if [ -e "$$hook" ] && ! grep -qa 'libvirt-direct hook' "$$hook"; then \
		echo "$$hook is another program's: ours becomes qemu.d/50-libvirt-direct"; \
		hook=$$hook.d/50-libvirt-direct; \
	fi; \
	echo "install bin/qemu-hook $$hook"; \
	install -D -m 0755 bin/qemu-hook "$$hook"
ifneq (,$(filter libvirt-direct,$(built)))
	install -D -m 0755 bin/libvirt-direct '$(DESTDIR)$(PREFIX)/bin/libvirt-direct'
	install -d '$(DESTDIR)$(PREFIX)/share/bash-completion/completions' \
		'$(DESTDIR)$(PREFIX)/share/zsh/site-functions' '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d'
	bin/libvirt-direct completion bash >'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/libvirt-direct'
	bin/libvirt-direct completion zsh >'$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_libvirt-direct'
	bin/libvirt-direct completion fish >'$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/libvirt-direct.fish'
endif
ifneq (,$(filter vdpd,$(built)))
	install -D -m 0755 bin/vdpd '$(DESTDIR)$(PREFIX)/sbin/vdpd'
	install -D -m 0644 packaging/systemd/vdpd.service '$(DESTDIR)$(PREFIX)/lib/systemd/system/vdpd.service'
endif
ifneq (,$(filter qemu-direct-helper,$(built)))
	@helper='$(DESTDIR)$(PREFIX)/libexec/qemu-direct-helper'; \
	if [ "$$(id -u)" = 0 ] && getent group kvm >/dev/null; then \
		echo "install bin/qemu-direct-helper $$helper (setuid root, for the group kvm)"; \
		install -D -o root -g kvm -m 4750 bin/qemu-direct-helper "$$helper"; \
	else \
		install -D -m 0755 bin/qemu-direct-helper "$$helper"; \
		echo "$$helper is not setuid: that takes root and a group kvm"; \
	fi
endif

clean: ## remove what was built (and not .cache, the downloaded kernel)
	rm -rf bin coverage.out
