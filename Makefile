# make run     a sandbox on this machine, whatever it is
# make test    every test there is
# make help    the rest

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=
ARGS    ?=

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/banger-vm/banger/api.Version=$(VERSION)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
SUDO    := $(if $(filter-out 0,$(shell id -u)),sudo,)
TAGS    := hosttest hosttest,poorkernel vmtest e2e e2e,soak nested nested,soak firecracker bench

PROGRAMS   := banger bangerd
COMPANIONS := fcqemu banger-init banger-vsock-agent

.DEFAULT_GOAL := help
.PHONY: help run build setup test test-setup test-unit test-host test-vm test-e2e test-nested \
	install uninstall lint vet docs bench soak vuln fuzz clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup build ## a sandbox: a shell in it on a terminal, else its kernel and release; ARGS='…' goes to vm run
	@$(SUDO) build/bin/banger daemon stop
	@if [ -n '$(subst ','\'',$(ARGS))' ]; then \
		exec $(SUDO) build/bin/banger vm run $(ARGS); \
	elif [ -t 0 ] && [ -t 1 ]; then \
		exec $(SUDO) build/bin/banger vm run; \
	else \
		exec $(SUDO) build/bin/banger vm run --rm -- sh -c 'uname -a; cat /etc/os-release'; \
	fi

build: ## build into build/, laid out as it is installed
	@mkdir -p build/bin build/lib/banger
	$(BUILD) -o build/bin/ $(PROGRAMS:%=./cmd/%)
	$(BUILD) -o build/lib/banger/ $(COMPANIONS:%=./cmd/%)

setup: ## install the host packages that banger needs
	@scripts/setup.sh run

test-setup:
	@scripts/setup.sh test

test: test-setup build ## set up, then run every suite; the last line counts
	@$(GO) run ./test/count unit host vm e2e nested

test-unit: ## unit tests and fuzz seeds: no root, no VM
	@$(GO) run ./test/count unit
test-host: test-setup ## against the real kernel, as root
	@$(GO) run ./test/count host
test-vm: test-setup build ## fcqemu and its guests, as root
	@$(GO) run ./test/count vm
test-e2e: test-setup build ## the real CLI, daemon and guests, as root
	@$(GO) run ./test/count e2e
test-nested: test-setup build ## the real firecracker, as root
	@$(GO) run ./test/count nested

install: build ## install under PREFIX (/usr/local), below DESTDIR
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/lib/banger'
	install -m 755 $(PROGRAMS:%=build/bin/%) '$(DESTDIR)$(PREFIX)/bin/'
	install -m 755 $(COMPANIONS:%=build/lib/banger/%) '$(DESTDIR)$(PREFIX)/lib/banger/'

uninstall: ## take away what install put there; VMs and images stay
	rm -f $(PROGRAMS:%='$(DESTDIR)$(PREFIX)/bin/%') $(COMPANIONS:%='$(DESTDIR)$(PREFIX)/lib/banger/%')
	-rmdir '$(DESTDIR)$(PREFIX)/lib/banger'

vet: ## gofmt, go vet under every build tag, import rules
	@unformatted=$$(gofmt -l api client cmd internal test); \
	if [ -n "$$unformatted" ]; then echo "not formatted by gofmt:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	for tag in $(TAGS); do $(GO) vet -tags $$tag ./... || exit 1; done
	$(GO) test ./test/arch

lint: vet ## vet and golangci-lint, which is built on first use
	$(GO) tool -modfile=tools/go.mod golangci-lint run

docs: ## write docs/reference anew
	$(GO) test ./internal/cli -run '^TestReference$$' -update

bench: test-setup build ## every figure beside its floor or peer, as root; ARGS='-only exec' for some
	@$(GO) run ./test/bench $(ARGS)
	@$(GO) test -tags nested -run '^$$' -bench Firecracker -timeout 30m ./test/nested

SOAK       ?= 1000
REAL_LIVES ?= 50
soak: test-setup build ## every step on every VMM, every death, SOAK lives in memory and REAL_LIVES of real guests, as root; not in CI
	LIVES=$(SOAK) $(GO) test -tags hosttest -count=1 -timeout 2h -v ./test/lives
	REAL_LIVES=$(REAL_LIVES) $(GO) test -tags 'e2e soak' -count=1 -timeout 2h -v -run '^(TestKillAtEveryStep|TestManyLives)$$' ./test/e2e
	$(GO) test -tags 'nested soak' -count=1 -timeout 4h -v -run '^TestKillAtEveryStep$$' ./test/nested

vuln: ## known vulnerabilities in what banger is built from; needs the internet
	$(GO) tool -modfile=tools/go.mod govulncheck ./...

# Each input that is new is made smaller before the next one is tried, for a
# minute unless that is bounded: of a large input, most of the time.
FUZZTIME ?= 1000000x
fuzz: ## every fuzz target there is, a million executions each; FUZZTIME=30s for less
	@grep -rl --include=*_test.go '^func Fuzz' . | while read -r file; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "$$target in $$(dirname "$$file")"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "$$(dirname "$$file")" || exit 1; \
		done; \
	done

clean: ## delete build/; images, kernels and VMs stay
	rm -rf build
