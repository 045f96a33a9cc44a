# `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
ENGINE ?= llamacpp
SECONDS := 600
TOOLS := $(CURDIR)/.tidegate/tools
export PATH := $(TOOLS)/bin:$(PATH)

.PHONY: help run build test peers compare compare-routing growth capacity routing routing-live simulate tracking lint scenario soak fuzz needs-build needs-test needs-deny

help:
	@echo 'make run [ENGINE=fake]   build, fetch a small model, start the gateway on 127.0.0.1:8080'
	@echo 'make build               release binaries in target/release'
	@echo 'make test                unit, property, layering and end-to-end tests'
	@echo 'make lint                formatting, clippy, layers, licences and sources of dependencies'
	@echo 'make compare [QUICK=1] [PEERS=nginx,envoy]  CPU, delay and memory beside other proxies and routers; most of an hour'
	@echo 'make compare-routing [TRACES=..]  choice of workers by real routers and ours on an unequal fleet; most of an hour'
	@echo 'make peers               get those proxies and routers; `make compare` does it too'
	@echo 'make growth              time of a choice, of a plan and of a round of the scaler, memory of a worker, as fleets grow'
	@echo 'make capacity            estimated capacity beside the true one, our gateway before stand-in workers'
	@echo 'make routing [TRACES=..] our choice of workers beside others, in virtual time'
	@echo 'make routing-live        the same fleet in real time, our gateway before stand-in workers'
	@echo 'make simulate [TRACES=..]  what scaling policies cost and how late they are, in virtual time'
	@echo 'make tracking            the real gateway beside the simulator, durations divided by 20'
	@echo 'make scenario            a real trace at 1x, 3x, 0.3x and silence against local workers'
	@echo 'make fuzz [SECONDS=600]  each fuzz target that long'
	@echo 'make soak                what must hold under faults and in bulk, whole; takes long'

ifeq ($(ENGINE),fake)
run: build
	@loadtest/say-next fake
	@PATH="$(CURDIR)/target/release:$$PATH" exec target/release/tidegate run --config conf/examples/fake
else ifeq ($(ENGINE),llamacpp)
run: build
	@loadtest/need python3-venv
	@workers/engines/llamacpp/setup
	@loadtest/say-next llamacpp
	@exec target/release/tidegate run --config conf
else
run:
	@echo 'ENGINE is llamacpp or fake' >&2; exit 2
endif

build: needs-build
	cargo build --release --workspace

test: needs-build needs-test
	cargo build --workspace --bins
	cargo test --workspace

peers: needs-build
	@loadtest/need python3-venv
	@loadtest/peers

compare: build peers
	target/release/loadtest compare $(if $(QUICK),--quick) $(if $(PEERS),--peers $(PEERS))

# Real routers before nine stand-in workers; most of an hour. Without TRACES the cuts in the repository are played.
compare-routing: build peers
	target/release/loadtest compare-routing $(if $(TRACES),--traces $(TRACES)) $(if $(PEERS),--peers $(PEERS))

growth: build
	target/release/loadtest growth --out docs/results/growth.md

# Eight minutes, in real time.
capacity: build
	target/release/loadtest capacity --out docs/results/capacity.md

scenario: build
	target/release/loadtest scenario scaling --out docs/results/scaling-first.md

# Whole traces in TRACES are played where it is given, else the cuts in the repository.
routing: needs-build
	cargo build --release -p loadtest
	target/release/loadtest routing $(if $(TRACES),--traces $(TRACES)) --out docs/results/routing.md

# Twelve minutes: the gateway and nine workers, slowed down so that two cores keep up.
routing-live: build
	target/release/loadtest routing --live $(if $(TRACES),--traces $(TRACES)) --out docs/results/routing.md

# What scaling policies cost in simulated worlds; with TRACES also on a day of requests. FULL=1: all seeds request by request.
simulate: needs-build
	cargo build --release -p loadtest
	target/release/loadtest scaling $(if $(TRACES),--traces $(TRACES)) $(if $(FULL),--request-seeds 5) --out docs/results/scaling.md

# Ten minutes: the real gateway's fleet beside the simulated one.
tracking: build
	target/release/loadtest scenario tracking --out docs/results/tracking.md

soak: build
	target/release/loadtest soak

fuzz: needs-build
	loadtest/fuzz $(SECONDS)

lint: needs-build needs-deny
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo check -p tidegate --lib --no-default-features
	cargo deny check bans licenses sources
	@loadtest/check-advisories

needs-build:
	@loadtest/need cargo cmake
needs-test:
	@loadtest/need python3-venv promtool curl wget
needs-deny:
	@loadtest/need cargo-deny
