# Each command sets up its own environment in .venv first; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo demo-all test test-full check format clean

demo: $(READY)  ## three tokenizers and three paradigms on photographs of fruit: about 20 minutes on 2 CPU cores
	$(BIN)/argenzoo demo --out runs/demo

demo-all: $(READY)  ## the other three cells of generator x head too
	$(BIN)/argenzoo demo --out runs/demo --all

test: check  ## about 13 minutes on 2 CPU cores
	$(BIN)/python -m pytest -n 2

test-full: check  ## full-size models too
	$(BIN)/python -m pytest -n 2 -m "slow or not slow"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[data,demo,dev]"
	touch $(READY)
