PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= data/demo
RUNS ?= runs/demo
PYTEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint bench-reader

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

install: $(VENV)/.installed ## make the virtual environment

test: $(VENV)/.installed ## run the tests (8 minutes at most on 2 cores)
	$(BIN)/pytest -n $(PYTEST_WORKERS)

test-slow: $(VENV)/.installed ## run the long proofs: a kill at every step, 10,000 reads
	$(BIN)/pytest -m slow -n $(PYTEST_WORKERS)

lint: $(VENV)/.installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-reader: $(VENV)/.installed ## time the reader against bare decoding, decord and PyAV
	$(BIN)/python tests/benchmarks/bench_reader.py
