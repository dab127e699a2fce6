# `make demo` and `make test` need Python 3.11 or newer and nothing else of ours.
# Another build of torch: make setup PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt

.PHONY: help setup demo lint test test-quick chaos bench bench-quick clean

help:
	@echo "make setup       make .venv and install (quick when nothing changed)"
	@echo "make demo        train a classifier on real images and score them"
	@echo "make lint        ruff, mypy, import-linter"
	@echo "make test        all tests; make test-quick: those that need no Ray"
	@echo "make chaos       hundreds of kills and thousands of damaged files (10 to 25 minutes)"
	@echo "make bench       the product beside its peers and roofs, a table and work/bench/bench.json (about an hour)"
	@echo "make bench-quick a rough look, under 3 minutes"
	@echo "make clean       remove what the demo and the tools wrote"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Set PYTHON=python3.11."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $(READY)

# What only tests and lint need; a demo does not wait for it.
$(READY_DEV): $(READY)
	$(PIP) -e '.[dev]'
	@touch $(READY_DEV)

demo: setup
	$(BIN)/cnnjob demo --dir work

lint: $(READY_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# In two processes: a test with Ray waits more than it computes, so the others run beside it.
test: $(READY_DEV)
	@$(BIN)/pytest -m "not ray and not chaos" >.test-without-ray.log 2>&1 & without=$$!; \
	$(BIN)/pytest -m "ray and not chaos"; with=$$?; \
	wait $$without; status=$$?; cat .test-without-ray.log; exit $$((with + status))

test-quick: $(READY_DEV)
	$(BIN)/pytest -m "not ray and not slow and not chaos"

chaos: $(READY_DEV)
	$(BIN)/pytest -m chaos

# Nothing else should run meanwhile. A part: .venv/bin/python -m tests.benchmarks.bench --only score
bench: $(READY_DEV)
	$(BIN)/python -m tests.benchmarks.bench

bench-quick: $(READY_DEV)
	$(BIN)/python -m tests.benchmarks.bench --quick

clean:
	rm -rf work cnnjob-demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
