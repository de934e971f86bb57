# The commands of this project. `make` alone lists them; `make demo` and `make test` are where to begin.
# Needs git, make, a C compiler, Rust (rustup's cargo) and, on Debian, root or sudo for what `make test` installs.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

CARGO ?= cargo
PYTHON ?= /usr/bin/python3
RELEASE := target/release
TOOLS := target/tools

# A package outside the workspace.
SCHEDULES := --manifest-path tests/schedules/Cargo.toml --target-dir target/schedules

# Suites that take minutes; CI runs them after `make test`. Add a target of your own here.
LONG_SUITES := test-crash test-sqlite test-mptest test-cpython

# Suites of hosts that need a tool chain of their own, or minutes to build.
HOST_SUITES := test-rusqlite test-django test-node test-go

.PHONY: help build demo test test-long bench simulate crash lint miri tools clean-tools $(LONG_SUITES) $(HOST_SUITES)

help: ## List the targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

build: ## Build target/release/liblitestream_vfs.so and target/release/litestream-vfs
	@scripts/packages build
	$(CARGO) build --release --workspace
	@ls -l $(RELEASE)/liblitestream_vfs.so $(RELEASE)/litestream-vfs

demo: build ## Replicate a database into a folder, lose it, and get it back by opening it
	@scripts/packages demo
	@scripts/demo

test: tools ## Install what the tests need, then run all tests
	$(CARGO) build --release --workspace
	env -u AWS_CA_BUNDLE $$(scripts/tools env) $(CARGO) test --release --workspace --no-fail-fast
	$(CARGO) test --release $(SCHEDULES)
	@if [ -d tests/python ]; then env -u AWS_CA_BUNDLE $$(scripts/tools env) $(PYTHON) -m unittest discover -s tests/python; fi

test-long: ## Run the suites that take minutes: crash trials, SQLite's own tests
	@if [ -n "$(LONG_SUITES)" ]; then $(MAKE) --no-print-directory --keep-going $(LONG_SUITES); fi

test-crash: ## Kill writers 300 times more than `make test` does, from other seeds
	LITESTREAM_TRIALS=300 LITESTREAM_SEED=50000 $(CARGO) test --release --workspace --test crash -- --nocapture

test-sqlite: ## Run SQLite's own storage tests with ours as the default VFS, and plain
	@scripts/packages suites
	$(CARGO) build --release --workspace
	$(PYTHON) tests/suites/sqlite.py

test-mptest: ## Run SQLite's mptest (processes that are killed) in WAL and DELETE, with ours and plain
	@scripts/packages suites
	$(CARGO) build --release --workspace
	$(PYTHON) tests/suites/mptest.py

test-cpython: ## Run CPython's own tests of its sqlite3 module, with ours and plain
	@scripts/packages suites
	$(CARGO) build --release --workspace
	$(PYTHON) tests/suites/cpython.py

test-rusqlite: ## Run rusqlite's own tests, with ours and plain
	@scripts/packages suites
	$(CARGO) build --release --workspace
	$(PYTHON) tests/suites/rusqlite.py

test-django: ## Run Django's tests of databases, on files in WAL and DELETE, with ours and plain
	@scripts/packages django
	$(CARGO) build --release --workspace
	$(PYTHON) tests/suites/django.py

test-node: ## Run better-sqlite3's own tests, with ours and plain (needs node with its headers, npm)
	@scripts/packages suites
	$(CARGO) build --release --workspace
	$(PYTHON) tests/suites/node.py

test-go: ## Run mattn/go-sqlite3's own tests, with ours and plain (needs go)
	@scripts/packages suites
	$(CARGO) build --release --workspace
	$(PYTHON) tests/suites/go.py

simulate: ## Simulate 30 days of upkeep and write what a replica costs to docs/cost.md
	$(CARGO) run --release --example simulate > docs/cost.new
	mv docs/cost.new docs/cost.md

bench: build tools ## Measure beside plain SQLite, the Litestream sidecar and the official extension
	env -u AWS_CA_BUNDLE $$(scripts/tools env) $(PYTHON) bench/run.py $(BENCH_ARGS)

crash: ## Kill writers 10,000 times (TRIALS=N, SEED=N) and compare after each; half an hour
	LITESTREAM_TRIALS=$(or $(TRIALS),10000) LITESTREAM_SEED=$(or $(SEED),1000) \
	    $(CARGO) test --release --test crash -- --nocapture

# What of the extension's unsafe code runs without system calls that Miri does not know.
MIRI_TESTS := border:: guard:: handle:: open:: real:: status_table::

miri: ## Run unit tests of the unsafe code under Miri (needs rustup's nightly with miri and rust-src)
	MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" \
	    $(CARGO) +nightly miri test -p litestream-vfs --lib --target-dir target/miri -- $(MIRI_TESTS)

lint: ## Check formatting, clippy with warnings denied, and cargo-deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) fmt --manifest-path tests/schedules/Cargo.toml --check
	$(CARGO) clippy --release $(SCHEDULES) --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || [ -x $(TOOLS)/bin/cargo-deny ] || \
	    $(CARGO) install --locked --root $(TOOLS) cargo-deny@0.20.2
	PATH="$$PATH:$(CURDIR)/$(TOOLS)/bin" $(CARGO) deny check bans licenses sources
	PATH="$$PATH:$(CURDIR)/$(TOOLS)/bin" $(CARGO) deny --manifest-path tests/schedules/Cargo.toml \
	    check --allow license-not-encountered bans licenses sources

tools: ## Install Debian packages and the programs that tests compare with (target/tools)
	@scripts/packages test
	@PYTHON=$(PYTHON) scripts/tools

clean-tools: ## Remove target/tools
	rm -rf $(TOOLS)
