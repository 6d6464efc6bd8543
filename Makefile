# Each target makes the environment it needs in .venv, from the versions in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-t2i test-docs lint format bench learn soak clean

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

test-docs: $(VENV)/.dev  ## every command and block of Python in the pages and notebooks, in about six minutes
	$(BIN)/python -m tests.docs

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

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e '.[digits]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.t2i: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e '.[dev,t2i]'
	@touch $@ $(VENV)/.dev $(VENV)/.demo

clean:
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache
