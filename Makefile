# On a fresh machine, `make demo` and `make test` set up everything they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Another build of the pinned torch, e.g. TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
STAMP := $(VENV)/.installed
ENGINES_STAMP := $(VENV)/.installed-engines
# Idle threads sleep instead of spinning, which is several times faster on shared machines.
export OMP_WAIT_POLICY ?= PASSIVE
export PYTHONWARNINGS ?= ignore
export DO_NOT_TRACK ?= 1

.PHONY: help setup demo test test-campaigns check ui bench docs audit test-engines clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP)  ## create .venv with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, this is {sys.version}"'
	@echo 'Installing into $(VENV): this takes some minutes.'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX_URL),)
	$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX_URL) "$$(grep '^torch==' constraints.txt)"
endif
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## run the whole pipeline on the built-in sample and print the path of the report
	$(BIN)/hawor-pipeline demo

test: $(STAMP)  ## run all tests that need no GPU, no network and no licensed file
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not gpu and not slow and not engine" --durations=10

$(ENGINES_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,engines]'
	touch $(ENGINES_STAMP)

test-engines: $(ENGINES_STAMP)  ## run the slow tests: faults, daemon, browser, engines
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "(slow or engine) and not gpu and not campaign" --durations=10

test-campaigns: $(ENGINES_STAMP)  ## run the longest tests: PostgreSQL, daemon, full disk, first use in a browser, many faults
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "campaign and not gpu" --durations=10

check: $(STAMP)  ## check lint, types and import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: $(STAMP)  ## serve Dagster's web UI with daemon on 127.0.0.1:3000
	$(BIN)/hawor-pipeline ui

bench: $(STAMP)  ## run every benchmark
	@set -e; for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file; done

audit: $(STAMP)  ## list known vulnerabilities of the installed dependencies
	$(BIN)/pip-audit --skip-editable

docs: $(STAMP)  ## build the documentation as a site in build/site
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html, or serve it with: $(BIN)/mkdocs serve"

clean:  ## remove everything that the pipeline generated (not the environment)
	rm -rf data/sample data/raw data/shards data/metadata data/quality data/runs data/metrics data/reports data/exports data/handoff data/dagster
