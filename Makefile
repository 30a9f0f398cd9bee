# One word a job. `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NB     ?=

.DEFAULT_GOAL := help
.PHONY: help lab test setup check notebook notebooks runs bench robust style badges tables environment

help:            ## this list
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

lab: setup       ## open the course in JupyterLab
	@$(BIN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

test: setup      ## everything that runs on every push: library, exercises, files, every notebook whole
	@$(BIN)/python -m pytest -m "not robust"

setup: $(VENV)/.ready  ## create .venv, install the pins, fetch the base model, report

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: call make with PYTHON=/path/to/python3.11")'
	@echo "Setting up (about five minutes, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lab,test]"
	@$(BIN)/python -m lessonlib.doctor --fetch
	@touch $@

check: setup     ## under three minutes: library, exercises, files (no notebook is executed)
	@$(BIN)/python -m pytest -m "not robust and not notebook and not browser"

notebook: setup  ## test one notebook: make notebook NB=07
	@test -n "$(NB)" || { echo "Which one? make notebook NB=07"; exit 2; }
	@$(BIN)/python -m pytest tests/notebooks -k "notebook_$(NB)"

notebooks: setup ## execute notebooks and keep their outputs: all, or NB=07
	@$(BIN)/python -m lessonlib.notebooks execute $(NB)

runs: setup      ## make the recorded runs that are missing in data/runs
	@$(BIN)/python -m lessonlib.runs

bench: setup     ## the benchmarks, one after another
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

robust: setup    ## before a release: cells run twice, float32 forced, kernels killed, the browser walk
	@$(BIN)/python -m pytest

style: setup     ## ruff over library, tests and notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check lessonlib tests benchmarks

badges: setup    ## write the repository's address (pyproject.toml) into the notebooks
	@$(BIN)/python -m lessonlib.notebooks badges

tables: setup    ## write the README's table and the notebooks' header lines from lessons.toml
	@$(BIN)/python -m lessonlib.notebooks tables

environment: setup ## write environment.yml from pyproject.toml
	@$(BIN)/python -m lessonlib.notebooks environment
