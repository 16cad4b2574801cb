# `make help` lists the targets.
PYTHON ?= python3
PARAMETERS ?=
ARGS ?=
CHAPTERS ?=
REPO ?=
VENV := .venv
LOWEST := .venv-lowest
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LAB := $(VENV)/.lab
BROWSER := $(VENV)/.browser
SITE := $(VENV)/.site
# For two test processes side by side: one thread each, of torch and of TensorFlow.
ONE_CORE := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet --constraint $(CONSTRAINTS)

.PHONY: help setup run test test-faults test-elsewhere test-exercises test-browser lowest lab site lint refresh ranges accuracies overhead helpers exercises links bench bench-gpu bench-data clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version): call make PYTHON=/path/to/a/newer/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[keras,test]'
	@touch $@

$(LAB): $(READY)
	$(INSTALL) --editable '.[keras,lab,test]'
	@touch $@

$(BROWSER): $(READY)
	$(INSTALL) --editable '.[browser,keras,lab,site,test]'
	@touch $@

$(SITE): $(READY)
	$(INSTALL) --editable '.[keras,site,test]'
	@touch $@

setup: $(READY) ## a virtual environment in .venv with exact versions; the other targets call it

run: $(READY) ## run all chapters; make run PARAMETERS=parameters/smoke.yaml is the quick look, CHAPTERS="04 05" a choice
	@$(BIN)/finetuning run --side-by-side $(CHAPTERS) $(if $(PARAMETERS),-f $(PARAMETERS))

test: $(READY) ## all tests, and all chapters against their stored outputs
	$(ONE_CORE) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m "not faults and not elsewhere and not exercises and not browser" tests
	$(ONE_CORE) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --nbval --nbval-current-env --nbval-cell-timeout 600 --nbval-sanitize-with tests/nbval_sanitize.cfg notebooks

test-faults: $(READY) ## the long tests of crashes: twenty kills on each road, four runs side by side
	$(ONE_CORE) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m faults tests

test-elsewhere: $(READY) ## the other long tests: other models and data, several processes, the benchmark, an environment like Colab's
	$(ONE_CORE) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m elsewhere tests

test-exercises: $(READY) ## the solutions of all exercises, and mistakes that the checks have to find
	$(ONE_CORE) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m exercises tests

test-browser: $(BROWSER) ## all chapters in JupyterLab, and the site, in Chromium; screenshots in runs/screenshots
	$(BIN)/python -m pytest -m browser tests

lowest: $(READY) ## the same tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	@mkdir -p $(LOWEST)
	$(BIN)/python -m maintenance lowest > $(LOWEST)/constraints.txt
	$(MAKE) test VENV=$(LOWEST) CONSTRAINTS=$(LOWEST)/constraints.txt

lab: $(LAB) ## install JupyterLab too, and open the chapters in it
	$(BIN)/jupyter lab --notebook-dir notebooks

site: $(SITE) ## the chapters with their stored outputs as static pages in runs/site
	$(BIN)/python -m sphinx -W --keep-going --quiet -c docs . runs/site

lint: $(READY) ## check the style of code and notebooks, and that imports run one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check benchmarks docs helpers maintenance suite tests
	$(BIN)/lint-imports

refresh: $(READY) ## run all chapters and store their outputs in notebooks/
	$(BIN)/python -m maintenance refresh

ranges: $(READY) ## measure the interval of each figure over several seeds (suite/expected.json)
	$(BIN)/python -m maintenance ranges

accuracies: $(READY) ## measure the accuracy of the three roads over several seeds (benchmarks/results/accuracies.json)
	$(BIN)/python -m benchmarks.roads

overhead: $(READY) ## what the chapters of the last make run cost beside their work: kernels and imports
	$(BIN)/python -m benchmarks.overhead

helpers: $(READY) ## write helpers/ from the cells of the chapters that share their code
	$(BIN)/python -m maintenance helpers

exercises: $(READY) ## write the exercises of solutions/ into the chapters, without the answers
	$(BIN)/python -m maintenance exercises

links: ## write the repository's address into chapters and README; make links REPO=owner/name, or REPO=--none
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m maintenance.links $(REPO)

bench: $(READY) ## speed and accuracy of every way to train; ARGS=--quick measures speed alone, in 25 minutes
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-gpu: $(READY) ## the same on a GPU, with BERT-base too; ARGS=--dry-run tries the command without one
	$(BIN)/python -m benchmarks.bench --gpu $(ARGS)

bench-data: $(READY) ## prepare 650,000 reviews: rate, memory, after a kill, a second time
	$(BIN)/python -m benchmarks.prepare $(ARGS)

clean: ## remove what was set up and made: .venv, .venv-lowest and runs
	rm -rf $(VENV) $(LOWEST) runs
