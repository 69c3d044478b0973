# Two commands do everything from a clean clone: `make quickstart` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
# Small models on shared cores are fastest with one thread per process.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: quickstart test test-kernels test-slow test-vllm lint types check format setup setup-vllm lock clean

setup: $(VENV)/.installed

# Nothing is compiled to bytecode up front: that takes longer than all the rest, and most of it is never imported.
# torch first: with it in place, nothing else asks for another build of it.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --no-build-isolation -e .
	touch $@

# vLLM pins other versions of numpy and transformers, so it lives in an environment of its own. The three uninstalled
# packages come as CUDA builds, with which vLLM does not import beside a CPU build of torch; text models need none.
setup-vllm: $(VENV)-vllm/.installed

$(VENV)-vllm/.installed: requirements-vllm.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet --no-compile "$$(grep '^torch==' requirements-vllm.lock)"
	$(VENV)-vllm/bin/python -m pip install --quiet --no-compile -r requirements-vllm.lock
	$(VENV)-vllm/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	$(VENV)-vllm/bin/python -m pip install --quiet --no-compile --no-deps --no-build-isolation -e .
	touch $@

quickstart: setup
	$(BIN)/python examples/quickstart/run.py --output runs/quickstart $(if $(FROM_SCRATCH),--from-scratch)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) -q

# Other kernels than this processor's best: what a test may ask for must hold on every processor.
test-kernels: setup
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 \
	$(BIN)/python -m pytest -n $(JOBS) -q tests/core/engines tests/core/models tests/trainers --ignore tests/trainers/student/test_distributed.py
	ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 \
	$(BIN)/python -m pytest -n $(JOBS) -q tests/core/engines tests/core/models

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

test-vllm: setup-vllm
	$(VENV)-vllm/bin/python -m pytest -q -m "not gpu" tests/vllm

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

check: lint types test

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
