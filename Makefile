# switchmaster: `make demo` to see it work, `make test` and `make lint` before a commit.

CARGO ?= cargo
DEMO_ARGS ?=
MATRIX_ARGS ?=
FUZZ_SECONDS ?= 900

.PHONY: help demo test lint bench matrix fuzz

help:
	@echo "make demo    real servers, real clients, a planned failover and a kill -9 (DEMO_ARGS=--keep leaves it running)"
	@echo "make test    every test, against real Redis servers and real Laravel"
	@echo "make lint    formatting, clippy, documentation"
	@echo "make bench   benchmarks"
	@echo "make matrix  the tests with servers on Redis 7, Redis 8 and Valkey, and on Laravel 8 and 10 (root; MATRIX_ARGS=redis8)"
	@echo "make fuzz    fuzz the scanner and the ledger (FUZZ_SECONDS=900 each)"

demo:
	@ci/install-deps demo
	@$(CARGO) build --release --locked
	@./target/release/switchmaster demo $(DEMO_ARGS)

test:
	@ci/install-deps test
	$(CARGO) test --locked --all-targets
	$(CARGO) test --locked --doc

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

bench:
	@if ls benches/*.rs >/dev/null 2>&1; then $(CARGO) bench --locked; else echo "no benchmarks yet"; fi

matrix:
	@ci/install-deps test
	@ci/matrix $(MATRIX_ARGS)

fuzz:
	@ci/fuzz $(FUZZ_SECONDS)
