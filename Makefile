# switchmaster: `make demo` to see it work, `make test` and `make lint` before a commit.

CARGO ?= cargo
DEMO_ARGS ?=
ROUNDS ?= 10
MATRIX_ARGS ?=
HOSTS_ARGS ?=
FUZZ_SECONDS ?= 900
QUICK ?=
BENCH_ARGS ?=
SEED ?=
FAULTS ?= 22
FROM ?=
PLANNED ?=
KINDS ?=
ARCHES ?=
SYSTEM_ARGS ?=

.PHONY: help demo test prove lint bench matrix hosts fuzz chaos test-system dist test-dist

help:
	@echo "make demo    real servers, real clients, a planned failover and a kill -9 (DEMO_ARGS=--keep leaves it running)"
	@echo "make test    every test, against real Redis servers and real Laravel"
	@echo "make prove   the failovers, ROUNDS=10 times each in a release build, and what was measured against what is promised"
	@echo "make lint    formatting, clippy, the proxy without backups and test kit, documentation, what deny.toml says"
	@echo "make bench   what relaying costs, beside HAProxy, nginx and twemproxy, 20 minutes (QUICK=1: two, nothing is written)"
	@echo "make matrix  the tests with servers on Redis 7, Redis 8 and Valkey, and on Laravel 8, 10 and 13 (root; MATRIX_ARGS=redis8)"
	@echo "make hosts   Laravel 13, hosts that lose their link or power, a load balancer: ROUNDS=10 faults of each kind (root)"
	@echo "make chaos   FAULTS=22 faults drawn from SEED=n under clients of many kinds (PLANNED=50: only planned failovers; KINDS=kill,half-open)"
	@echo "make test-system  restarts and crashes as a service of a booted Debian (root, systemd-nspawn; SYSTEM_ARGS=restart)"
	@echo "make dist    packages, static binaries, images and the rest of a release, for amd64 and arm64 (ARCHES=amd64)"
	@echo "make test-dist  installs and runs what make dist has built, on booted Debian 12 and 13 (root)"
	@echo "make fuzz    fuzz the scanner, the ledger, the session core and all that reads untrusted bytes (FUZZ_SECONDS=900 each)"

demo:
	@ci/install-deps demo
	@$(CARGO) run --release --locked -- demo $(DEMO_ARGS)

# Debian forky with Laravel 13 is made while the tests are built. Three tests for each core: they wait for servers more than
# they compute. Those that keep every core busy, and promise that nothing is noticed, come after the others, alone.
test:
	@ci/install-deps test
	@ci/forky & $(CARGO) test --locked --workspace --all-targets --no-run && wait $$!
	RUST_TEST_THREADS=$$((3 * $$(nproc))) $(CARGO) test --locked --workspace --all-targets
	$(CARGO) test --locked --test it -- --ignored --test-threads=1
	$(CARGO) test --locked --workspace --doc

# One scenario after the other; the log keeps every round, the table at the end the medians. The queue workers go
# through twice as many failovers on one cluster.
prove:
	@ci/install-deps test
	@mkdir -p target
	@$(CARGO) test --release --locked --test it --no-run
	@{ SWITCHMASTER_ROUNDS=$(ROUNDS) $(CARGO) test --release --locked --test it -- \
		failover:: laravel::queue --include-ignored --nocapture --test-threads=1 2>&1; echo $$? >target/prove.status; } | tee target/prove.log
	@printf '\n| %-24s | %-42s | rounds |   median |   lowest |  highest | target          |\n' scenario figure
	@grep '^|' target/prove.log || true
	@exit $$(cat target/prove.status)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	@if $(CARGO) deny --version >/dev/null 2>&1; \
		then $(CARGO) deny --offline --locked check -D warnings licenses bans sources; \
		else echo "not checked against deny.toml: there is no cargo-deny (cargo install --locked cargo-deny)"; fi

# Writes docs/performance.md, its plots and the table of docs/comparison.md, which takes 20 minutes. QUICK=1: two minutes, and nothing
# is written. BENCH_ARGS="--only get-50,idle": a part, which replaces what was measured of it with this build before.
bench:
	@ci/install-deps bench
	@$(CARGO) bench --locked --bench relay -- $(if $(QUICK),--quick,--write .) $(BENCH_ARGS)

matrix:
	@ci/install-deps test
	@ci/matrix $(MATRIX_ARGS)

hosts:
	@ci/install-deps test
	@ci/forky
	@HOSTS_ROUNDS=$(ROUNDS) $(CARGO) test --release --locked --test hosts -- $(HOSTS_ARGS)

fuzz:
	@ci/fuzz $(FUZZ_SECONDS)

# A seed that failed replays the same faults; FROM=81 begins with the 81st. Half-open connections and DNS failures need
# unshare and ip. A release build: an unoptimised proxy starves beside its servers and clients on a small machine. More
# settings are told in tests/chaos/main.rs.
chaos:
	@ci/install-deps chaos
	@CHAOS_SEED=$(SEED) CHAOS_FAULTS=$(FAULTS) CHAOS_FROM=$(FROM) CHAOS_PLANNED=$(PLANNED) CHAOS_KINDS=$(KINDS) \
		$(CARGO) test --release --locked --test chaos

# TEST_SYSTEM_DIR: the folder with the system, which is built once (TEST_SYSTEM_SUITE=bookworm: Debian 12).
# SYSTEM_ROUNDS=3: each fault so often. SYSTEM_ARGS=soak SYSTEM_PLOT=docs/img/soak.svg: half an hour.
test-system:
	@ci/test-system $(SYSTEM_ARGS)

dist:
	@ci/install-deps dist
	@CARGO=$(CARGO) packaging/dist $(ARCHES)

test-dist:
	@ci/install-deps test-dist
	@tests/dist/run
