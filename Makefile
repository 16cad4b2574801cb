# `make help` lists the targets.
PYTHON ?= python3
PARAMETERS ?=
CHAPTERS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LAB := $(VENV)/.lab
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet --constraint constraints.txt

.PHONY: help setup run test lab lint refresh ranges clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-9s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version): call make PYTHON=/path/to/a/newer/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[test]'
	@touch $@

$(LAB): $(READY)
	$(INSTALL) --editable '.[lab,test]'
	@touch $@

setup: $(READY) ## a virtual environment in .venv with exact versions; the other targets call it

run: $(READY) ## run all chapters; make run PARAMETERS=parameters/smoke.yaml is the quick look, CHAPTERS="04 05" a choice
	@$(BIN)/python -m helpers.runner $(CHAPTERS) $(if $(PARAMETERS),-f $(PARAMETERS))

test: $(READY) ## all tests, and all chapters against their stored outputs
	$(BIN)/python -m pytest tests
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg notebooks

lab: $(LAB) ## install JupyterLab too, and open the chapters in it
	$(BIN)/jupyter lab --notebook-dir notebooks

lint: $(READY) ## check the style of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check helpers tests

refresh: $(READY) ## run all chapters and store their outputs in notebooks/
	$(BIN)/python -m helpers.maintenance refresh

ranges: $(READY) ## measure the interval of each figure over several seeds (helpers/expected.json)
	$(BIN)/python -m helpers.maintenance ranges

clean: ## remove what was set up and made: .venv and runs
	rm -rf $(VENV) runs
