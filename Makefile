# Needs Python 3.11 or newer, a C++ compiler and, the first time, a package index. See `make help`.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full check sanitize clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\): .*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "  PYTHON=python3.12 chooses the Python, TORCH=none goes without torch"

setup: ## make or refresh .venv (under a second when nothing changed)
	@$(PYTHON) scripts/bootstrap.py --venv $(VENV)

demo: setup ## build kernels, tune one, run a small GPT through them
	@$(BIN)/python scripts/demo.py

test: setup ## all tests that can pass on this machine
	@$(BIN)/python -m pytest

test-full: setup ## the same and the slow sweeps
	@$(BIN)/python -m pytest --slow

check: setup ## lint, format, types and the tests that need neither nvcc nor a GPU
	@PYTHON=$(BIN)/python scripts/check

sanitize: setup ## the emulator and the launcher under gcc's sanitizers, and all warnings as errors
	@PYTHON=$(abspath $(BIN))/python scripts/sanitize

clean: ## remove what was made: out, .venv, dist, tool caches
	rm -rf out dist $(VENV) .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
