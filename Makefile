# One word per need. Everything that is built lies under CARGO_TARGET_DIR (target/ by default).
#
# The gate always builds the whole workspace with the same features: cargo unifies features over what is selected, so that
# another selection would build every dependency once more.
CARGO ?= cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
WORKSPACE := --workspace --locked --features sim
EXAMPLES := $(TARGET)/release/examples
INTEROP := --server $(TARGET)/release/quorate --wal-dump $(EXAMPLES)/wal_dump --bolt-copy $(EXAMPLES)/bolt_copy \
    --snapshot-copy $(EXAMPLES)/snapshot_copy --sim $(TARGET)/debug/quorate-sim

SHORT := etcdctl python go watch lease maintenance concurrency compare http wal bolt syscalls durability mixed
CLUSTERS := bootstrap cluster migration chaos

.PHONY: help run cluster test check build unit sim scenarios bugs fuzz-smoke deny release sim-binary interop interop-clusters interop-full bench soak nightly clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: ## build and run one member on 127.0.0.1:2379, data in default.etcd
	$(CARGO) build --release --locked -p quorate
	exec $(TARGET)/release/quorate

cluster: ## build and run three members, clients on 127.0.0.1:2379, :22379 and :32379, data in cluster.etcd
	$(CARGO) build --release --locked -p quorate
	@exec packaging/cluster.sh $(TARGET)/release/quorate

test: check unit fuzz-smoke ## everything that must pass on a machine with only a Rust toolchain

check: ## formatting, lints, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(WORKSPACE) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings --cfg madsim" $(CARGO) doc $(WORKSPACE) --no-deps --quiet

unit: ## unit, golden and property tests, and the simulator's chaos seeds
	$(CARGO) test $(WORKSPACE)

sim: ## the simulator's chaos seeds alone (SIM_SEEDS=n for more, SIM_SEED=n for one)
	$(CARGO) test $(WORKSPACE) --test chaos -- --nocapture

scenarios: sim-binary ## every scenario on 50 seeds, then with the bugs that it names
	$(TARGET)/debug/quorate-sim scenario scenarios --seeds 50 --bug-seeds 200

bugs: sim-binary ## after how many seeds each seeded bug is caught
	$(TARGET)/debug/quorate-sim bugs

fuzz-smoke: ## every fuzz target for a moment, at fixed seeds
	$(CARGO) build $(WORKSPACE) --all-targets
	$(TARGET)/debug/quorate-fuzz smoke

deny: ## licences, sources and bans of the dependencies
	@command -v cargo-deny >/dev/null || [ -x $(TARGET)/tools/bin/cargo-deny ] || \
	    $(CARGO) install --locked --quiet --root $(TARGET)/tools cargo-deny
	$(CARGO) fetch --locked --quiet
	PATH="$(TARGET)/tools/bin:$$PATH" cargo deny --offline check licenses bans sources

release: ## the binaries, in target/release
	$(CARGO) build --release --locked --bins --examples

sim-binary: ## the simulator's binary, in target/debug
	$(CARGO) build $(WORKSPACE) --bin quorate-sim

interop: release ## real etcd tools and clients against a real member, and members of etcd and quorate in one cluster
	python3 interop/interop.py $(INTEROP) --only $(SHORT)

interop-clusters: release sim-binary ## clusters of real processes: changed by etcdctl, migrated under load, under faults
	python3 interop/interop.py $(INTEROP) --only $(CLUSTERS)

interop-full: release sim-binary ## all of both, the clients of Node.js, Rust and Java too, with 20 kills under load, 50 rounds of faults, the long migration
	python3 interop/interop.py --full $(INTEROP)

bench: release ## quorate, echo, floor and etcd in alternating rounds; prints ratios; then three members of each, and one that catches up
	@command -v etcd >/dev/null || { apt-get update && apt-get install -y etcd-server; }
	$(TARGET)/release/quorate-bench compare --quorate $(TARGET)/release/quorate
	$(TARGET)/release/quorate-bench compare --quorate $(TARGET)/release/quorate --members 3
	$(TARGET)/release/quorate-bench catch-up --quorate $(TARGET)/release/quorate

soak: ## many seeds, with a progress bar (SEEDS=n), then as many with members that come and go
	$(CARGO) build --release $(WORKSPACE) --bin quorate-sim
	$(TARGET)/release/quorate-sim soak --seeds $(or $(SEEDS),2000)
	$(TARGET)/release/quorate-sim soak --seeds $(or $(SEEDS),2000) --membership

nightly: interop-full bench soak scenarios bugs ## what is too long for the gate

clean: ## remove what was built
	$(CARGO) clean
