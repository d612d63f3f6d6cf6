# make bench, make test: each sets up what it needs, once. EXTRAS=gpu on a machine with an NVIDIA GPU.
PYTHON ?= python3
EXTRAS ?= cpu,rtx,openvino,loadgen
BUILD ?= build
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready-$(EXTRAS)

# The constraints choose a CPU build of torch; a GPU set-up takes the newest.
CONSTRAINTS := $(if $(findstring gpu,$(EXTRAS)),,-c constraints.txt)

# Beside Python and make: what the C++ project needs. What cannot be installed is said by the tests that need it.
TOOLS := cmake g++ clang-tidy
HEADERS := $(VENV)/include/onnxruntime

.PHONY: setup tools bench test lint docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements-peers.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[$(EXTRAS),digits,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-peers.txt
	-for version in 11.4.0.106 10.16.1.11; do \
	  $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d $(VENV)/bindings \
	    tensorrt-cu13-bindings==$$version || break; done
	-test -e $(HEADERS)/onnxruntime_cxx_api.h || examples/cpp/headers.sh $(HEADERS)
	touch $@

tools:
	-for tool in $(TOOLS); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	  test -z "$$missing" || { apt-get -qq update && apt-get -qq install -y --no-install-recommends $$missing; }

bench: setup
	$(BIN)/resnet-deploy bench resnet20 --weights examples/digits/resnet20.safetensors --data digits -o $(BUILD)/digits
	$(BIN)/resnet-deploy bench resnet50 --batch 1,8 -o $(BUILD)/resnet50

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -rs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/pdoc resnet_deploy -o docs

clean:
	rm -rf $(BUILD) docs .mypy_cache .pytest_cache .ruff_cache
