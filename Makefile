# banger: build, test and install. `make help` lists the targets.

CARGO   ?= cargo
PREFIX  ?= $(HOME)/.local
DESTDIR ?=
TARGET  ?= $(or $(CARGO_TARGET_DIR),target)

BINS  := banger bangerd bangerd-root banger-vhost-vsock
# What runs in guests, each built for itself. Static (no libc in the guest is needed); --target keeps these flags from
# build scripts.
GUEST := banger-vsock-agent banger-sshd
GUEST_TRIPLE := x86_64-unknown-linux-gnu
GUEST_FLAGS  := -C target-feature=+crt-static -C relocation-model=static

.PHONY: help setup build checked agent quickstart test unit e2e test-host test-host-smoke host-shell lint fmt bench fuzz install uninstall

help: ## List the targets.
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Install what the host needs (Debian and its like; elsewhere: says what to install).
	scripts/setup

build: agent ## Build everything, optimised.
	$(CARGO) build --release --locked $(addprefix -p ,$(BINS))

checked: agent ## Build everything with its assertions and overflow checks, as tests run it.
	$(CARGO) build --locked $(addprefix -p ,$(BINS))

agent: ## Build what runs in guests, static: the agent, and the ssh server for images without one.
	for bin in $(GUEST); do \
	  CARGO_TARGET_DIR=$(TARGET)/guest RUSTFLAGS="$(GUEST_FLAGS)" \
	    $(CARGO) build --locked --profile guest --target $(GUEST_TRIPLE) -p $$bin && \
	  install -D -m 0755 $(TARGET)/guest/$(GUEST_TRIPLE)/guest/$$bin $(TARGET)/lib/banger/$$bin || exit 1; \
	done

quickstart: setup build ## From nothing to a real guest's output, and away again.
	scripts/quickstart $(TARGET)/release

test: unit e2e ## All tests, real guests among them.

unit: agent ## Tests that boot no guest.
	scripts/unit-tests

e2e: checked ## Tests with real guests, in a network namespace of their own.
	scripts/e2e-tests $(TARGET)/debug

test-host: build ## Tests on a whole Debian host in a VM.
	scripts/host-vm $(TARGET)/release test

test-host-smoke: checked ## The short ones of them.
	scripts/host-vm $(TARGET)/debug test --smoke

host-shell: build ## Boot that host and log in, for a look.
	scripts/host-vm $(TARGET)/release shell

lint: ## Format, clippy, dependency direction, file sizes.
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) run --quiet --locked -p xtask -- check

fmt: ## Format the sources.
	$(CARGO) fmt --all

bench: build ## Print the figures as ratios against named references.
	scripts/bench $(TARGET)/release

fuzz: ## Fuzz parsers and the helper's verbs, a minute each (needs nightly and cargo-fuzz).
	scripts/fuzz $(SECONDS_EACH)

install: build ## Install under PREFIX (default ~/.local).
	for bin in $(BINS); do install -D -m 0755 $(TARGET)/release/$$bin $(DESTDIR)$(PREFIX)/bin/$$bin; done
	for bin in $(GUEST); do install -D -m 0755 $(TARGET)/lib/banger/$$bin $(DESTDIR)$(PREFIX)/lib/banger/$$bin || exit 1; done
	$(TARGET)/release/banger man $(DESTDIR)$(PREFIX)/share/man/man1
	@echo "installed: $(PREFIX)/bin/{$(shell echo $(BINS) | tr ' ' ,)} and $(PREFIX)/lib/banger/{$(shell echo $(GUEST) | tr ' ' ,)}"

uninstall: ## Stop the daemon, remove just what install put there, say what stays.
	-if [ -x $(DESTDIR)$(PREFIX)/bin/banger ]; then $(DESTDIR)$(PREFIX)/bin/banger daemon stop; fi
	rm -f $(foreach bin,$(BINS),$(DESTDIR)$(PREFIX)/bin/$(bin)) $(foreach bin,$(GUEST),$(DESTDIR)$(PREFIX)/lib/banger/$(bin))
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/banger.1 $(DESTDIR)$(PREFIX)/share/man/man1/banger-*.1
	-rmdir $(DESTDIR)$(PREFIX)/lib/banger 2>/dev/null
	@echo "data that stays: $${XDG_STATE_HOME:-$$HOME/.local/state}/banger $${XDG_CONFIG_HOME:-$$HOME/.config}/banger $${XDG_CACHE_HOME:-$$HOME/.cache}/banger"
