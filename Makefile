# One word per need. Everything that is built lies under CARGO_TARGET_DIR (target/ by default).
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help run test check unit sim scenarios fuzz-smoke deny interop nightly bench soak clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: ## build and run one member on 127.0.0.1:2379, data in default.etcd
	$(CARGO) build --release --locked -p quorate
	exec $(TARGET)/release/quorate

test: check unit sim fuzz-smoke ## everything that must pass on a machine with only a Rust toolchain

check: ## formatting, lints, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked --features sim -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --features sim --quiet

unit: ## unit, golden and property tests
	$(CARGO) test --workspace --locked --features sim --exclude quorate-sim

sim: ## chaos seeds in the simulator
	$(CARGO) test --locked --features sim -p quorate-sim

fuzz-smoke: ## every fuzz target for a moment, at fixed seeds
	$(CARGO) run --locked -q -p quorate-fuzz -- smoke

deny: ## licences, sources and bans of the dependencies
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked --root $(TARGET)/tools cargo-deny
	PATH="$(abspath $(TARGET))/tools/bin:$$PATH" cargo deny --offline check licenses bans sources

interop: ## real etcd tools and clients against a real member
	$(CARGO) build --release --locked -p quorate --bins --examples
	python3 interop/interop.py --server $(abspath $(TARGET))/release/quorate --wal-dump $(abspath $(TARGET))/release/examples/wal_dump

bench: ## quorate, echo, floor and etcd in alternating rounds; prints ratios
	$(CARGO) build --release --locked -p quorate -p quorate-bench
	$(TARGET)/release/quorate-bench compare --quorate $(TARGET)/release/quorate

soak: ## many seeds, with a progress bar
	$(CARGO) run --release --locked --features sim -p quorate-sim -- soak --seeds $(or $(SEEDS),2000)

clean: ## remove what was built
	$(CARGO) clean
