# `make train` and `make test` set up what they need, in .venv, from the lock.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: help setup train test test-slow test-all lint notebooks docs bench results papers targets lock clean

help:
	@echo "make train     train the first model (about 3 minutes on two CPU cores)"
	@echo "make test      the quick tests"
	@echo "make test-slow a third of the slow tests, another one each day (PART=1, 2 or 3)"
	@echo "make test-all  all tests"
	@echo "make lint      ruff, mypy, the rooms' import contract; every test file can be imported"
	@echo "make notebooks execute the notebooks, check what they show, and keep their outputs for the site"
	@echo "make docs      the documentation site, in docs/_build/html"
	@echo "make bench     measures speed, about 40 minutes, and writes docs/performance.md"
	@echo "make results   the applications on real data, about two hours, and writes docs/results.md"
	@echo "make papers    what papers claim, about two hours, and writes docs/papers.md"
	@echo "make targets   write anew which classes a config may name (after a new file in conf/)"
	@echo "make lock      resolve all versions anew"

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

train: setup
	$(BIN)/etude train

# A file of tests is run by one process; more threads would wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: setup
	$(PYTEST) -m "not slow and not notebook"

# What CI takes in turn. The longest files come early in the alphabet: that order is kept.
PART ?= $(shell echo $$(( $$(date +%s) / 86400 % 3 + 1 )))
test-slow: setup
	$(PYTEST) -m "slow and not notebook" --part $(PART)/3 --no-loadscope-reorder --durations 20

test-all: setup
	$(PYTEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --collect-only -qqq

# Two at a time; the site shows the outputs.
EXECUTED = docs/_executed
notebooks: setup
	rm -rf $(EXECUTED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist load -m notebook --executed $(EXECUTED) \
	  --durations 0 tests/notebooks

.venv/ready-docs: .venv/ready docs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt -c requirements.lock
	@touch $@

# The documentation site, in docs/_build/html, with the outputs of the notebooks executed last.
# Warnings are errors.
docs: .venv/ready-docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: setup
	$(BIN)/python benchmarks/run.py $(ARGS)

results: setup
	$(BIN)/python benchmarks/applications.py --data "$(DATA)" \
	  $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(ADAPTED),--adapted "$(ADAPTED)") $(ARGS)

papers: setup
	$(BIN)/python benchmarks/papers_page.py $(if $(DATA),--files "$(DATA)") $(ARGS)

targets: setup
	$(BIN)/python -m etude.config.table

lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet "torch==2.13.0" ".[dev]"
	.venv-lock/bin/python -m pip freeze --exclude etude | sed 's/+cpu//; s/^torch @ .*/torch==2.13.0/' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lock .mypy_cache .ruff_cache .pytest_cache .hypothesis
