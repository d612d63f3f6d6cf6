# make bench, make test: each sets up what it needs, once. EXTRAS=gpu on a machine with an NVIDIA GPU.
# make bench NETWORK=resnet18: beside the trained network, this one in place of ResNet-50.
# make check, for every edit: lint, types and the tests that are not marked slow, in about four minutes on two cores.
PYTHON ?= python3
EXTRAS ?= cpu,rtx,lean,openvino,loadgen,parquet
BUILD ?= build
NETWORK ?= resnet50
MINUTES ?= 20
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready-$(EXTRAS)
comma := ,
asked = $(filter $(1),$(subst $(comma), ,$(EXTRAS)))
ifneq ($(and $(call asked,cpu),$(call asked,gpu)),)
$(error EXTRAS=$(EXTRAS) has two ONNX Runtimes, which are installed over each other: give cpu or gpu; that of gpu runs on the CPU too)
endif

# The constraints choose a CPU build of torch; a GPU set-up takes the newest.
CONSTRAINTS := $(if $(findstring gpu,$(EXTRAS)),,-c constraints.txt)

# What some tests need beside Python: a Debian package, and the programs or files of which one shows that it is there.
TOOLS := chromium:chromium|chromium-browser|google-chrome cmake:cmake g++:g++ clang-tidy:clang-tidy
found = $(foreach name,$(subst |, ,$(lastword $(subst :, ,$(1)))),$(shell command -v $(name))$(wildcard $(name)))
missing = $(foreach tool,$(TOOLS),$(if $(strip $(call found,$(tool))),,$(firstword $(subst :, ,$(tool)))))
# What the calls into TensorRT are checked against; tests/typing/stubs.py reads signatures from these wheels.
SIGNATURES := tensorrt-cu13-bindings==11.4.0.106 tensorrt-cu13-bindings==10.16.1.11 tensorrt-stubs==10.13.0.35.1
HEADERS := $(VENV)/include/onnxruntime

.PHONY: setup bench check test gpu fuzz lint docs clean tools

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements-peers.txt examples/triton/server.py tests/typing/stubs.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[$(EXTRAS),digits,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-peers.txt
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[ray]'
	-for wheel in $(SIGNATURES); do \
	  $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d $(VENV)/bindings $$wheel || break; done
	-$(BIN)/python -m tests.typing.stubs
	-$(BIN)/python examples/triton/server.py --prepare
	-test -e $(HEADERS)/onnxruntime_cxx_api.h || examples/cpp/headers.sh $(HEADERS)
	touch $@

bench: setup
	$(BIN)/resnet-deploy bench resnet20 --weights examples/digits/resnet20.safetensors --data digits -o $(BUILD)/digits
	$(BIN)/resnet-deploy bench $(NETWORK) --batch 1,8 -o $(BUILD)/$(NETWORK)

check: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test: lint tools
	$(BIN)/python -m pytest -n 2 --dist worksteal -rs --durations=15

# Everything that needs an NVIDIA GPU, in stages of at most nine minutes: make setup gpu EXTRAS=gpu,rtx,openvino,parquet,loadgen
gpu:
	benchmarks/gpu.sh

# Not part of test: hostile inputs for so many minutes, then races, kills and full disks. Fails where anything is found.
fuzz: setup
	$(BIN)/python benchmarks/fuzz.py --seed $(SEED) --minutes $(MINUTES) --json $(BUILD)/fuzz.json

# Best effort: installs what is missing where it may (root, apt-get), and never fails.
tools:
	@missing='$(missing)'; test -n "$$missing" || exit 0; \
	if command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
	  apt-get update -qq; \
	  for package in $$missing; do \
	    echo "installing $$package"; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null \
	      || echo "$$package cannot be installed: tests that need it will be skipped"; \
	  done; \
	else echo "missing: $$missing: tests that need it will be skipped"; fi

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.typing.check

docs: setup
	$(BIN)/pdoc resnet_deploy -o docs

clean:
	rm -rf $(BUILD) docs .mypy_cache .pytest_cache .ruff_cache
