# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
APT := $(shell [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo yes)

.PHONY: run test demo bench lint types docs setup setup-dev clean
.DEFAULT_GOAL := run

run: setup  ## Export, Triton, demo, API on 127.0.0.1:8000 (BACKBONE=name changes the data root's backbone)
	@exec $(BIN)/patchlight run $(if $(BACKBONE),--backbone $(BACKBONE))

demo: setup  ## The demo alone; ARGS="--images DIR" takes your own photographs
	@exec $(BIN)/patchlight demo $(ARGS)

test: setup-dev lint types  ## Lint, types, tests; ARGS go to pytest
	$(BIN)/python -m pytest $(ARGS)

bench: setup-dev  ## Measure against peers; ARGS="--suite NAME" for one
	$(BIN)/python -m tests.benchmarks $(ARGS)

lint: setup-dev
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports

types: setup-dev
	$(BIN)/mypy

docs: setup-dev  ## Regenerate openapi.json and the README's settings table
	$(BIN)/patchlight openapi --output openapi.json
	$(BIN)/patchlight settings --into README.md

setup: $(VENV)/.run
setup-dev: $(VENV)/.dev

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Patchlight into $(VENV) ..."
	@$(PIP) install -c constraints.txt -e ".[export]"
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the development tools into $(VENV) ..."
	@$(PIP) install -c constraints.txt -e ".[export,bench,dev]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/it." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { [ "$(APT)" = yes ] && \
	  apt-get -qq update && apt-get -qq install -y python3-venv; } || \
	  { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

clean:  ## Remove what was installed and built; the data root stays
	rm -rf $(VENV) .triton .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
