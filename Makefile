# Each target makes the environment it needs in .venv, from the versions in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-t2i test-page test-docs docs lint format bench learn soak release clean

demo: $(VENV)/.demo  ## train one-step digits, draw and score them (two to three minutes on one core)
	$(BIN)/fewstep train digits --out runs/demo --resume
	$(BIN)/fewstep sample runs/demo --out runs/demo/digits.png
	$(BIN)/fewstep eval runs/demo --steps 1,2
	@echo "the pictures: runs/demo/digits.png"

test: format $(VENV)/.dev  ## everything that must hold before a change lands; types beside the tests
	@$(BIN)/mypy & types=$$!; \
	$(BIN)/pytest -n 2 --dist worksteal; tests=$$?; \
	wait $$types || { echo "mypy found errors: make lint"; exit 1; }; \
	exit $$tests

test-t2i: $(VENV)/.t2i  ## text to image, on tiny pipelines of diffusers' own classes
	$(BIN)/pytest tests/pipelines -n 2

test-page: $(VENV)/.browser docs  ## the page and the site in a headless browser, which has to be on the machine
	npm --prefix web run check
	$(BIN)/pytest tests/browser

test-docs: $(VENV)/.dev  ## every command and block of Python in the pages and notebooks, in about ten minutes
	$(BIN)/python -m tests.docs

docs: $(VENV)/.docs  ## the site, into site/: no dead link or anchor, nothing loaded from elsewhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m tests.project.site
	@echo "the start page: site/index.html"

lint: format
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.dev  ## steps and samples beside the bare network, as ratios; not part of the tests
	$(BIN)/fewstep bench --startup

learn: $(VENV)/.dev  ## each flow map from random weights to the exact map, and with a wrong sign
	$(BIN)/python -m tests.learning

MINUTES ?= 45
SEED ?= 0

soak: $(VENV)/.dev  ## tests marked long; kills, damage and fuzzing for so many MINUTES on two cores
	$(BIN)/pytest -n 2 -m long
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(SEED) --out docs/soak.json

release: $(VENV)/.release  ## wheel, sdist and SBOM in dist/, tried with Python 3.11 to 3.13; no upload
	$(BIN)/python tools/release.py

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# An installation bundles the page from these.
PAGE := hatch_build.py $(wildcard web/*.* web/src/*)

$(VENV)/.demo: pyproject.toml constraints.txt $(PAGE) | $(BIN)/pip
	$(PIP) -e '.[digits,page]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(PAGE) | $(BIN)/pip
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.t2i: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e '.[dev,t2i]'
	@touch $@ $(VENV)/.dev $(VENV)/.demo

$(VENV)/.browser: pyproject.toml constraints.txt $(PAGE) | $(BIN)/pip
	$(PIP) -e '.[browser]'
	npm --prefix web ci --ignore-scripts --no-fund --no-audit
	@touch $@ $(VENV)/.dev $(VENV)/.demo

$(VENV)/.release: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) build check-jsonschema cyclonedx-bom hatchling twine
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) site .hypothesis .mypy_cache .pytest_cache .ruff_cache
