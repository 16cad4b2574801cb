# `make help` lists the targets.
PYTHON ?= python3
PARAMETERS ?=
ARGS ?=
CHAPTERS ?=
REPO ?=
LANGUAGE ?=
COMMA := ,
VENV := .venv
LOWEST := .venv-lowest
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
BASE := $(VENV)/.base
KERAS := $(VENV)/.keras
READY := $(VENV)/.ready
LAB := $(VENV)/.lab
BROWSER := $(VENV)/.browser
SITE := $(VENV)/.site
# For two test processes side by side: one thread each, of torch, TensorFlow and the tokenizers.
ONE_CORE := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 RAYON_NUM_THREADS=1
PYTEST := $(ONE_CORE) $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 600 --nbval-sanitize-with tests/nbval_sanitize.cfg
SHORT := not long and not browser
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet --constraint $(CONSTRAINTS)

.PHONY: help setup run check test test-long test-browser lowest lab site lint refresh ranges accuracies budget overhead helpers exercises links translations test-translations bench bench-gpu bench-folds bench-data bench-predict bench-ship clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-14s %s\n", $$1, $$2}'

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version): call make PYTHON=/path/to/a/newer/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.$(1)'
	@touch $(2)
endef

$(BASE): pyproject.toml $(CONSTRAINTS)
	$(call install,,$@)

$(KERAS): pyproject.toml $(CONSTRAINTS)
	$(call install,[keras],$@ $(BASE))

$(READY): pyproject.toml $(CONSTRAINTS)
	$(call install,[keras$(COMMA)test],$@ $(BASE) $(KERAS))

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

# TensorFlow takes 2 GB, and chapter 9 alone needs it.
run: $(if $(filter 09%,$(notdir $(or $(CHAPTERS),09))),$(KERAS),$(BASE)) ## run all chapters; make run PARAMETERS=parameters/smoke.yaml is the quick look, CHAPTERS="04 05" a choice
	@$(BIN)/finetuning run --side-by-side $(CHAPTERS) $(if $(PARAMETERS),-f $(PARAMETERS))

check: lint ## lint, and all tests that train nothing and start no kernel
	$(PYTEST) -m "not slow and $(SHORT)" tests

test: $(READY) ## all tests but the long ones, and all chapters against their stored outputs
	$(PYTEST) -m "$(SHORT)" $(NBVAL) $(wildcard notebooks/*.ipynb) tests

test-long: $(READY) ## the long tests: all chapters bare and with their exercises answered, other models, crashes, several processes, the benchmark
	$(PYTEST) -m "long" tests

test-translations: $(READY) ## all chapters in other languages against their stored outputs
	$(PYTEST) $(NBVAL) $(wildcard notebooks/*/*.ipynb)

test-browser: $(BROWSER) ## all chapters in JupyterLab, and the site, in Chromium; screenshots in runs/screenshots
	$(PYTEST) -m browser tests

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

budget: $(READY) ## the accuracy of each method for 50 to all labels, which chapter 6 draws; ARGS="-p dataset_name=FILE" on your data
	$(BIN)/python -m benchmarks.budget $(ARGS)

overhead: $(READY) ## what the chapters of the last make run cost beside their work: kernels and imports
	$(BIN)/python -m benchmarks.overhead

helpers: $(READY) ## write helpers/ from the cells of the chapters that share their code
	$(BIN)/python -m maintenance helpers

translations: $(READY) ## bring translations/ and the chapters in other languages in line; LANGUAGE=xx starts a new one
	$(BIN)/python -m maintenance translations $(LANGUAGE)

exercises: $(READY) ## write the exercises of solutions/ into the chapters, without the answers
	$(BIN)/python -m maintenance exercises

links: ## write the repository's address into chapters and README; make links REPO=owner/name, or REPO=--none
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m maintenance.links $(REPO)

bench: $(READY) ## speed and accuracy of every way to train; ARGS=--quick measures speed alone, in 25 minutes
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-gpu: $(READY) ## the same on a GPU, with BERT-base too; ARGS=--dry-run tries the command without one
	$(BIN)/python -m benchmarks.bench --gpu $(ARGS)

bench-folds: $(READY) ## all of rotten_tomatoes in five folds, ours against the tuned Trainer: hours; ARGS="--folds 0 --epochs 1" is less
	$(BIN)/python -m benchmarks.folds $(ARGS)

bench-data: $(READY) ## prepare 650,000 reviews: rate, memory, after a kill, a second time
	$(BIN)/python -m benchmarks.prepare $(ARGS)

bench-predict: $(READY) ## finetuning predict against the pipeline of transformers: speed, labels, memory
	$(BIN)/python -m benchmarks.predict $(ARGS)

bench-ship: $(READY) ## ONNX and int8 of chapter 12 against torch: size, latency, rate, labels
	$(BIN)/python -m benchmarks.ship $(ARGS)

clean: ## remove what was set up and made: .venv, .venv-lowest and runs
	rm -rf $(VENV) $(LOWEST) runs
