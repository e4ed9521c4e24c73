# `make` lists the targets. PYTHON chooses the interpreter that .venv is made with.
PYTHON ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=
LOCK_ARGS ?=

# Nothing of the caller's environments may leak into ours.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH VIRTUAL_ENV CONDA_PREFIX

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint lock clean

help:  ## list the targets
	@echo 'make TARGET [PYTHON=python3.12] [DEMO_ARGS=...] [PYTEST_ARGS=...]'
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile

setup: export PYTHON := $(PYTHON)
setup:  ## make .venv: pinned packages, mmcv's operators compiled once
	@for p in python3 python3.12 python3.11 python3.10 "$(PYTHON)"; do \
	  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null \
	    && exec "$$p" tools/setup_env.py; \
	done; \
	echo 'error: no python3 that runs; expected Python 3.10 to 3.12 on the PATH: install one, or name it: make PYTHON=/path/to/python3.11' >&2; \
	exit 1

demo: setup  ## train and evaluate on the embedded data
	.venv/bin/python tools/demo.py $(DEMO_ARGS)

# Two processes of one thread each are faster than one of two; a file's fixtures stay in
# one process.
test: export OMP_NUM_THREADS ?= 1
test: setup  ## run the tests, e.g. PYTEST_ARGS='-m "not slow"'
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

lint: setup  ## check the code with ruff
	.venv/bin/ruff check .

lock: setup  ## pin what requirements/all.in asks for; LOCK_ARGS=--upgrade: the newest
	.venv/bin/uv pip compile --universal --python-version 3.10 $(LOCK_ARGS) \
	  --override requirements/overrides.txt --no-emit-package onedl-mmcv \
	  --custom-compile-command 'make lock' --quiet \
	  requirements/all.in -o requirements/pinned.txt

clean:  ## remove .venv and what was built
	rm -rf .venv .venv.lock build dist *.egg-info mmmeta/.mim .pytest_cache .ruff_cache
