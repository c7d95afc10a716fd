# pipefill: `make demo` and `make test` do their own set-up. BUILD is the one output folder.
BUILD ?= build
PYTHON ?= /usr/bin/python3
GO ?= packaging/go
CC ?= gcc
VERSION := $(shell cat VERSION)
MAINS := pipefilld pipefillctld pipefill-cli
# go-nvml resolves its symbols lazily; -z now (hardened toolchains) would kill the daemon without a driver.
GOFLAGS_BUILD := -trimpath -ldflags='-extldflags=-Wl,-z,lazy'
export CGO_ENABLED = 1
export DESTDIR prefix sysconfdir libdir sbindir bindir includedir mandir unitdir pythondir docdir
# A group or world writable build folder must never be trusted by root.
SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:

.PHONY: all setup test demo bench bench-docs policies install lint check-c check-go engines check-py check-slurm check-demo check-install check-faults check-gpu check-sim faultpoint go-binaries clean
all: go-binaries

FRAGMENTS := $(wildcard spank/spank.mk spank/plugin.mk engine/nccl/nccl.mk engine/launch/launch.mk engine/cuda/cuda.mk)
include $(FRAGMENTS)

ifneq ($(filter spank/spank.mk,$(FRAGMENTS)),)
all: $(BUILD)/libpipefill.so
check-c: check-c-lib
endif
ifneq ($(filter spank/plugin.mk,$(FRAGMENTS)),)
all: $(BUILD)/spank_pipefill.so
check-c: check-c-plugin
endif
ifneq ($(filter engine/nccl/nccl.mk,$(FRAGMENTS)),)
all: $(BUILD)/libnccl-profiler-pipefill.so
check-c: check-c-nccl
endif
ifneq ($(filter engine/launch/launch.mk,$(FRAGMENTS)),)
all: $(BUILD)/libpipefill_launch.so
check-c: check-c-launch
endif
ifneq ($(filter engine/cuda/cuda.mk,$(FRAGMENTS)),)
all: $(BUILD)/libpipefill-cuda.so
check-c: check-c-cuda
endif

go-binaries: | $(BUILD)
	$(if $(wildcard cmd/*/main.go),$(GO) build $(GOFLAGS_BUILD) -o $(BUILD)/ $(addprefix ./,$(wildcard $(addprefix cmd/,$(MAINS)))))

$(BUILD):
	mkdir -p $@

setup:
	packaging/setup

test: setup
	$(MAKE) check-c check-go engines check-py check-install check-slurm check-demo

# A Debian 13 with the engines that the hooks' tests train with, in half a minute; check-py alone skips them without it.
engines:
	packaging/engines

# Needs root: starts Slurm's daemons and makes users pf_train, pf_ann, pf_bob, pf_rest.
demo: setup
	$(MAKE) all
	$(GO) run ./test/demo --build $(BUILD) --out $(BUILD)/demo

# Two and a half hours at most, where no interval gets narrow; BENCH="--only fill --limit 5m" is shorter.
bench: setup
	$(MAKE) all $(BUILD)/bench_gate
	$(GO) run ./test/bench --build $(BUILD) $(BENCH)

# The table and the plot of docs/policies.md; TRACES has the traces that they are computed from.
TRACES ?= ../shared/data
policies:
	$(GO) run ./test/policies --data $(TRACES) --docs docs/policies.md --svg docs/policies.svg

# The tables of docs/measurements.md from build/bench.json.
bench-docs:
	$(GO) run ./test/bench --build $(BUILD) --docs docs/measurements.md

check-go:
	$(GO) vet ./...
	$(GO) test -race -timeout 10m ./...
	$(GO) test -count=1 -timeout 10m -run TestFaults ./controller

check-py: all
	$(if $(wildcard engine/tests/test_*.py),PYTHONPATH=engine $(PYTHON) -m unittest discover -s engine/tests)
	$(if $(wildcard test/gpu/test_*.py),PYTHONPATH=engine $(PYTHON) -m unittest discover -s test/gpu)

# Daemons that can be told to die around a write (test/slurm/crash_test.go).
faultpoint: all
	$(GO) build $(GOFLAGS_BUILD) -tags faultpoint -o $(BUILD)/faultpoint/ ./cmd/pipefilld ./cmd/pipefillctld
	for f in libpipefill.so spank_pipefill.so; do ln -sf ../$$f $(BUILD)/faultpoint/; done

check-slurm: all faultpoint $(BUILD)/tests/probe_plugin.so
	$(if $(wildcard test/slurm/*_test.go),test/run-slurm)

# 50 rounds of kill -9 on a real private cluster (make test has 5), half an hour, and 100,000 schedules of the model.
ROUNDS ?= 50
SCHEDULES ?= 100000
check-faults: all
	PIPEFILL_SCHEDULES=$(SCHEDULES) $(GO) test -count=1 -timeout 60m -v -run TestFaults ./controller
	PIPEFILL_ROUNDS=$(ROUNDS) $(GO) test -tags slurm -count=1 -timeout 60m -v -run TestChaos ./test/slurm

# A short demo, whose report is then computed a second time.
check-demo: all
	$(GO) run ./test/demo --short --build $(BUILD) --out $(BUILD)/check-demo
	$(PYTHON) test/audit/audit.py $(BUILD)/check-demo

# DESTDIR= prefix= and the rest: packaging/install names them.
install: all
	BUILD=$(BUILD) packaging/install

# Predicts a run of the private cluster from an earlier one, runs it, and prints by how much it was wrong: four minutes.
check-sim: all
	$(GO) run ./test/sim --build $(BUILD) --out $(BUILD)/check-sim.json

# As it is installed: every file, and again over what an administrator has edited.
check-install: all
	$(GO) test -count=1 -tags install ./test/install

# Needs a GPU and PyTorch, nothing of Slurm; says why it measures nothing elsewhere (hook.py then ends with 77).
# GPU="--rounds 5 --models bert-base".
check-gpu: go-binaries $(BUILD)/libpipefill.so $(BUILD)/libpipefill_launch.so $(BUILD)/libpipefill-cuda.so
	$(PYTHON) test/gpu/hook.py --build $(BUILD) || [[ $$? == 77 ]]
	PYTHONPATH=engine $(PYTHON) test/gpu/run.py --build $(BUILD) $(GPU)

lint:
	packaging/lint

clean:
	rm -rf $(BUILD)
