# make demo | test | long | check | setup | smoke        everything lives in .venv; the second time is quick
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: help demo test long check lint setup smoke format gpu gpu-pack docs
.DEFAULT_GOAL := help

help:
	@echo "make demo    train, convert and evaluate on the bundled digits"
	@echo "make test    the test suite, but for what takes long"
	@echo "make long    the tests that take about four seconds or more each"
	@echo "make check   format, lint, types, import contracts, fast tests"
	@echo "make smoke   the whole pipeline on synthetic data, in seconds"
	@echo "make docs    the documentation, in docs/_build/html"
	@echo "make gpu     what only a GPU can show, for SECONDS=540; again to go on"
	@echo "make gpu-pack  a folder with wheels and data, for a GPU machine without a network"
	@echo "make format  put the code in order"
	@echo "make setup   only the environment (.venv)"

.venv/demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch .venv/demo

.venv/dev: .venv/demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch .venv/dev

.venv/docs: .venv/demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs,export]'
	touch .venv/docs

setup: .venv/dev

docs: .venv/docs
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/sphinx-build --fail-on-warning --keep-going -q docs docs/_build/html

demo: .venv/demo
	$(BIN)/python train.py experiment=demo

smoke: .venv/demo
	$(BIN)/python train.py experiment=smoke

gpu: .venv/dev
	$(BIN)/python scripts/gpu.py --seconds $(or $(SECONDS),540)

gpu-pack: .venv/dev
	$(BIN)/python scripts/gpu_pack.py

test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

long: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'long and not gpu'

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not long and not slow and not gpu and not cli'
