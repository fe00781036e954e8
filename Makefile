# make demo: the whole job on the embedded demo · make test: linters, types, all tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
WORKERS ?= 2
READY := $(VENV)/.ready

.PHONY: demo test fast lint bench clean

demo: $(READY)
	rm -rf $(DEMO)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh vlmdet_cli/demo/run.sh $(DEMO)

test: lint
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

fast: lint
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch and torchvision first and together: they must be of one build
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "torch>=2.14.1" "torchvision>=0.29.1"
	$(BIN)/pip install --quiet --editable ".[train,dev]"
	touch $(READY)
