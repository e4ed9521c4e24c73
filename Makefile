# `make` lists the targets. PYTHON selects the interpreter that .venv is created with.
PYTHON ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=
LOCK_ARGS ?=

# The caller's environments must not leak into ours.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH VIRTUAL_ENV CONDA_PREFIX
# Otherwise every process that a test starts compiles its imports again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint lock clean

help:  ## list the targets
	@echo 'make TARGET [PYTHON=python3.13] [DEMO_ARGS=...] [PYTEST_ARGS=...]'
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile

# .venv keeps its Python unless PYTHON is set. -S: ignore installed packages.
setup:  ## create .venv with the pinned packages and mmmeta
	@for p in $(if $(PYTHON),'$(PYTHON)',.venv/bin/python python3 python3.13 python3.12 python3.11 python3.10); do \
	  "$$p" -S -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null \
	    && exec "$$p" -S tools/setup_env.py; \
	done; \
	found=$$('$(or $(PYTHON),python3)' -V 2>&1 | head -n 1); \
	echo "error: found $$found; expected Python 3.10 to 3.13: install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1

demo: setup  ## train and evaluate on the embedded data
	.venv/bin/python tools/demo.py $(DEMO_ARGS)

# Two single-threaded processes are faster than one with two threads; a file's fixtures
# stay in one process. tests/conftest.py orders the files, the slowest first.
test: export OMP_NUM_THREADS ?= 1
test: setup  ## run the tests, e.g. PYTEST_ARGS='-m "not slow"'
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
	  $(PYTEST_ARGS)

lint: setup  ## check the code and its formatting with ruff, its types with mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

lock: setup  ## pin the packages of requirements/all.in; LOCK_ARGS=--upgrade: the newest
	.venv/bin/uv pip compile --universal --python-version 3.10 $(LOCK_ARGS) \
	  --override requirements/overrides.txt \
	  --custom-compile-command 'make lock' --quiet \
	  requirements/all.in -o requirements/pinned.txt

clean:  ## remove .venv and build outputs
	rm -rf .venv .venv.lock build dist *.egg-info mmmeta/.mim .mypy_cache .pytest_cache .ruff_cache .hypothesis
