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
	@echo 'make TARGET [PYTHON=python3.13] [DEMO_ARGS=...] [PYTEST_ARGS=...]'
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile

# The Python of .venv stays until another is asked for. -S: no package has a say here.
setup:  ## make .venv: the pinned packages, and mmmeta itself
	@for p in $(if $(PYTHON),'$(PYTHON)',.venv/bin/python python3 python3.13 python3.12 python3.11 python3.10); do \
	  "$$p" -S -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null \
	    && exec "$$p" -S tools/setup_env.py; \
	done; \
	found=$$('$(or $(PYTHON),python3)' -V 2>&1 | head -n 1); \
	echo "error: found $$found; expected Python 3.10 to 3.13: install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1

demo: setup  ## train and evaluate on the embedded data
	.venv/bin/python tools/demo.py $(DEMO_ARGS)

# Two processes of one thread each are faster than one of two; a file's fixtures stay in
# one process.
test: export OMP_NUM_THREADS ?= 1
test: setup  ## run the tests, e.g. PYTEST_ARGS='-m "not slow"'
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

lint: setup  ## check the code, and how it is laid out, with ruff
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

lock: setup  ## pin what requirements/all.in asks for; LOCK_ARGS=--upgrade: the newest
	.venv/bin/uv pip compile --universal --python-version 3.10 $(LOCK_ARGS) \
	  --override requirements/overrides.txt \
	  --custom-compile-command 'make lock' --quiet \
	  requirements/all.in -o requirements/pinned.txt

clean:  ## remove .venv and what was built
	rm -rf .venv .venv.lock build dist *.egg-info mmmeta/.mim .pytest_cache .ruff_cache
