# Every target makes its own virtual environment first; nothing else has to be installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint ui

demo: $(VENV)/.installed  ## train the default model end to end
	$(BIN)/python train.py

test: $(VENV)/.installed  ## pass the tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: $(VENV)/.installed  ## compare the runs in a browser
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
