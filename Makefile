SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint images/constraints.txt
DEMO ?= .demo

.PHONY: help demo test test-system check format setup setup-dev images-cpu chart-readme base-model clean

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: setup  ## the whole pipeline on real images and a tiny model: prep, train, eval, report
	$(BIN)/medvl sample --out $(DEMO)/data
	$(BIN)/medvl run --config $(DEMO)/data/run.yaml

test: setup-dev  ## every test that needs no GPU, no cluster and no system package
	$(BIN)/python -m pytest tests --ignore=tests/system

test-system: setup-dev  ## tests in a real browser, in containers and beside a real vLLM; installs what they need
	{ command -v chromium && command -v curl; } > /dev/null \
	  || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -qq -y chromium curl > /dev/null; }
	$(BIN)/python -m pytest tests/system

check: setup-dev  ## format, lint, types, layers
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

format: setup-dev  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/.installed  ## the virtual environment with everything that runs

setup-dev: $(VENV)/.installed-dev  ## the same, with what tests and checks

images-cpu: $(VENV)/.created  ## build the three images for CPUs, with podman, and print their sizes; installs what that needs
	images/build-cpu

chart-readme: setup-dev  ## write charts/medvl/README.md anew from the comments of its values
	$(BIN)/python tests/chart/readme.py

base-model: setup  ## teach the tiny base model again (up to an hour); replaces the one in the package
	$(BIN)/python -m medvl_jobs.samples.grounding --out medvl_jobs/samples/base-model

clean:  ## remove the virtual environment, the demo and all caches
	rm -rf $(VENV) $(DEMO) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/.created:
	@# Debian and Ubuntu split venv off from Python.
	$(PYTHON) -m venv $(VENV) || { $(SUDO) apt-get update -qq; $(SUDO) apt-get install -qq -y python3-venv; $(PYTHON) -m venv --clear $(VENV); }
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml images/constraints.txt medvl_jobs/samples/requirements.txt
	$(PIP) --editable '.[all]'
	$(PIP) --no-deps --requirement medvl_jobs/samples/requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed tests/cluster/requirements.txt
	$(PIP) --editable '.[all,dev]'
	$(PIP) --no-deps --requirement tests/cluster/requirements.txt
	touch $@
