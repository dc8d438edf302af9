# Everything a clone needs, from a bare machine with Python >= 3.10 and a C++20 compiler:
#
#   make demo    makes .venv, installs rarefy with its demo extra, runs the main job on a real model
#   make test    makes .venv if absent, installs what the tests need, runs the tests
#   make fuzz    FUZZ_CASES=1000000 hostile files against a sanitized build; FUZZ_SECONDS=600 asks for so many seconds
#                of everything instead: random shapes, programs, arguments and files
#   make soak    ten minutes of ever changing calls with flat memory, then kill -9 many times (SOAK_SECONDS, SOAK_KILLS)
#   make coverage   lines and branches of the floors 0 to 4 that the tests run, at least 95 % of them
#   make mutate  small faults in the selection and packing code, each of which a test must notice
#   make test-fallback    the tests as they run without native kernels (RAREFY_NATIVE=0)
#   make wheel   a wheel, into dist/                       make wheel-check   its use in a clean environment
#   make matrix  the wheel under other Pythons and torches: MATRIX_ARGS="--python python3.10 --torch 2.6.0"
#   make cross   the native core for aarch64, its tests under emulation
#   make check   style, types, import floors, method index, native leak check, docs
#   make bench   what we measure, half an hour (benchmarks/)   make docs    the documentation, into site/
#   make bench-decode     decoding with selected inputs and neurons, beside dense decoding
#   make bench-training   sparse training beside dense training and SparseProp
#   make index   methods, figures and charts of docs/      make clean   removes all that make made
#
# A second run installs nothing; a change of pyproject.toml, CMakeLists.txt or native/ builds again.
# TORCH_INDEX=<url> adds an index for torch, where the default one only offers builds with a GPU runtime.
# BENCH_ARGS=--vnni holds every engine to AVX-512 VNNI; RAREFY_PEERS=<folder> names the peers of benchmarks/peers/install.sh.
# RIVALS=1 also installs the engines that the demo is timed beside (ONNX Runtime, OpenVINO; `make bench` always does).
# DEMO_ARGS="--quick" and TEST_ARGS="tests/pruning -k wanda" pass options on; MUTATE_ARGS=src/rarefy/core/site.py other files.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
DEMO_ARGS ?=
BENCH_ARGS ?=
TEST_ARGS ?=
MUTATE_ARGS ?=
MATRIX_ARGS ?=
TORCH_INDEX ?=
RIVALS ?=
FUZZ_SECONDS ?=
FUZZ_START ?=
FUZZ_CASES ?= 1000000
SOAK_SECONDS ?= 600
SOAK_KILLS ?= 100

bin := $(VENV)/bin
done := $(VENV)/.done
pip := $(bin)/python -m pip --disable-pip-version-check --no-input install -c constraints.txt
native := $(wildcard CMakeLists.txt) $(shell find native -type f 2>/dev/null)

.PHONY: demo test test-fallback wheel wheel-check matrix cross fuzz soak coverage mutate check bench bench-decode bench-training docs index clean help
help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 18

demo: $(done)/demo $(if $(RIVALS),$(done)/rivals)
	$(bin)/rarefy demo $(DEMO_ARGS)

test: $(done)/test
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n $(JOBS) $(TEST_ARGS)

test-fallback: $(done)/test
	RAREFY_NATIVE=0 OMP_NUM_THREADS=1 $(bin)/python -m pytest -n $(JOBS) $(TEST_ARGS)

# From the objects of the editable install, which lie where this build looks for them.
wheel: $(done)/test
	rm -rf dist
	PATH="$(CURDIR)/$(bin):$$PATH" $(bin)/python -m pip --disable-pip-version-check wheel --no-build-isolation --no-deps -w dist .

wheel-check: wheel
	$(bin)/python tools/matrix.py --smoke $(if $(TORCH_INDEX),--index $(TORCH_INDEX))

matrix: wheel
	$(bin)/python tools/matrix.py $(if $(TORCH_INDEX),--index $(TORCH_INDEX)) $(MATRIX_ARGS)

cross: $(done)/test
	$(bin)/python tools/cross.py --jobs $(JOBS)

fuzz: $(done)/test
	OMP_NUM_THREADS=1 $(bin)/python tools/sanitized.py --jobs $(JOBS) $(bin)/python fuzz/run.py $(if $(FUZZ_SECONDS),--seconds $(FUZZ_SECONDS),--cases $(FUZZ_CASES)) --jobs $(JOBS) $(if $(FUZZ_START),--start $(FUZZ_START))

soak: $(done)/test
	OMP_NUM_THREADS=1 $(bin)/python -W ignore fuzz/soak.py --seconds $(SOAK_SECONDS)
	OMP_NUM_THREADS=1 $(bin)/python -W ignore fuzz/kill.py --kills $(SOAK_KILLS)

coverage: $(done)/coverage
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n $(JOBS) --cov --cov-report= --cov-fail-under=0 $(TEST_ARGS)
	$(bin)/python -m coverage report --fail-under=0
	$(bin)/python tools/coverage_table.py

mutate: $(done)/test
	OMP_NUM_THREADS=1 $(bin)/python tools/mutate.py $(MUTATE_ARGS)

check: $(done)/check
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports
	OMP_NUM_THREADS=1 $(bin)/python tools/index.py --check
	$(bin)/python tools/figures.py --check
	$(bin)/python tools/charts.py --check
	OMP_NUM_THREADS=1 $(bin)/python tools/leakcheck.py
	$(bin)/mkdocs build --strict --quiet
	@echo "make check: all is well"

bench: $(done)/test $(done)/rivals
	$(bin)/python benchmarks/kernels/run.py
	$(bin)/python benchmarks/demo/run.py
	$(bin)/python benchmarks/cost/run.py
	$(bin)/python benchmarks/latency/run.py
	$(bin)/python benchmarks/startup/run.py
	$(bin)/python benchmarks/serving/load.py
	for part in mlp minilm apart decode resnet18 mobilenet; do $(bin)/python benchmarks/engine/$$part.py $(BENCH_ARGS); done

bench-decode: $(done)/test
	for part in decode_selected decode_corrected; do $(bin)/python benchmarks/engine/$$part.py $(BENCH_ARGS); done

bench-training: $(done)/test
	for part in speed_linear speed_resnet18 speed_fanin speed_trainer speed_methods memory; do $(bin)/python benchmarks/training/$$part.py $(BENCH_ARGS); done

docs: $(done)/check
	$(bin)/mkdocs build --strict

index: $(done)/test
	OMP_NUM_THREADS=1 $(bin)/python tools/index.py
	$(bin)/python tools/figures.py
	$(bin)/python tools/charts.py

clean:
	rm -rf $(VENV) build build-address build-thread build-aarch64 dist site out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment, one stamp a step -----------------------------------------------------------------------

$(done)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else \
	  f"make: {sys.executable} is Python {sys.version.split()[0]}; rarefy needs 3.10 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(done) && touch $@

# torch first and alone: everything else resolves against the version that is there.
$(done)/torch: constraints.txt | $(done)/venv
	@command -v $${CXX:-c++} >/dev/null || { echo "make: no C++ compiler; install g++ >= 12 or clang >= 15, or set CXX"; exit 1; }
	@echo "make: installing torch (once; some minutes on a slow line)"
	$(pip) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch numpy
	$(pip) scikit-build-core nanobind cmake ninja
	@touch $@

# Editable, so that sources need no second install; without build isolation, so that nothing is fetched twice.
$(done)/demo $(done)/test $(done)/coverage $(done)/check $(done)/rivals: $(done)/%: pyproject.toml $(native) $(done)/torch
	@echo "make: building rarefy and installing its '$*' extra"
	PATH="$(CURDIR)/$(bin):$$PATH" $(pip) --no-build-isolation -e '.[$(if $(filter check coverage,$*),test$(,)$*,$*)]'
	@touch $@

, := ,
