# `make demo` and `make test` set up what they need, once; `make help` lists the rest.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check bench docs clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/ready ## segment a clip with a person: writes demo/out/person.mp4 and demo/out/preview.png
	@$(BIN)/python demo/run.py

test: $(VENV)/ready-for-tests ## run the tests
	@$(BIN)/python -m pytest -q -n logical --maxprocesses 3 --dist loadfile --ignore tests/batch/test_cluster.py
	@$(BIN)/python -m pytest -q tests/batch/test_cluster.py  # kills workers at a moment that wants the machine for itself

check: $(VENV)/ready-for-tests ## lint, formatting and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/ready ## measure the pipeline against a plain loop and a bare transcode
	@$(BIN)/python benchmarks/cpu.py

docs: $(VENV)/ready-for-tests ## build the documentation as a site, with Python 3.11 or later: build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo 'build/site/index.html'

clean: ## remove what was set up and made here
	rm -rf $(VENV) demo/out tests/.cache build dist *.egg-info

$(VENV)/ready: setup.py scripts/setup scripts/install-ffmpeg4
	@PYTHON='$(PYTHON)' scripts/setup $(VENV)

$(VENV)/ready-for-tests: $(VENV)/ready scripts/setup-tests
	@scripts/setup-tests $(VENV)
