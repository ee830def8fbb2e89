# Every target first creates the virtual environment that it needs; nothing else has to be installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint ui audit bill_of_materials

demo: $(VENV)/.installed  ## train the default model end to end
	$(BIN)/python train.py data=synthetic

test: $(VENV)/.installed  ## run the tests, in two processes of one thread each: most of them wait for programs to start
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: $(VENV)/.installed  ## compare runs in a browser, on this machine only
	$(BIN)/mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///mlruns/mlflow.db

audit: $(VENV)/tools/.installed  ## known vulnerabilities of the pinned packages
	$(VENV)/tools/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

bill_of_materials: $(VENV)/.installed $(VENV)/tools/.installed  ## every installed package in CycloneDX
	mkdir -p outputs
	$(VENV)/tools/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
	    --output-file outputs/bill_of_materials.json $(BIN)/python

$(VENV)/tools/.installed:
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip install --quiet pip-audit==2.10.1 cyclonedx-bom==7.5.0
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
