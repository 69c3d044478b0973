# Two commands do everything from a clean clone: `make quickstart` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
PYTHON_GPU ?= $(BIN)/python
# Small models on shared cores are fastest with one thread per process.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: quickstart test test-kernels test-latest test-oldest test-real test-slow test-vllm gpu lint types check format setup setup-vllm lock clean

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

# What the ranges of pyproject.toml allow at both ends, in environments of their own; torch is that of the lock.
VERSION_TESTS := tests/core/engines/hf tests/core/models tests/core/training tests/trainers --ignore tests/trainers/student/test_distributed.py

test-latest: END := newest
test-oldest: END := oldest
test-latest test-oldest:
	$(PYTHON) -m venv $(VENV)-$(END)
	$(VENV)-$(END)/bin/python -m pip install --quiet --no-compile "$$(grep '^torch==' requirements.lock)"
	$(PYTHON) .ci/bounds.py $(END) > $(VENV)-$(END)/requirements.txt
	$(VENV)-$(END)/bin/python -m pip install --quiet --no-compile --upgrade --upgrade-strategy eager \
		-r $(VENV)-$(END)/requirements.txt "$$(grep '^torch==' requirements.lock)" "$$(grep '^setuptools==' requirements.lock)" \
		pytest pytest-xdist hypothesis scipy statsmodels tensorboard
	$(VENV)-$(END)/bin/python -m pip install --quiet --no-compile --no-deps --no-build-isolation -e .
	$(VENV)-$(END)/bin/python -m pytest -n $(JOBS) -q $(VERSION_TESTS)

# Real weights: downloads 93 MB and writes 540 MB on the first call.
REAL ?= runs/real/base
test-real: setup
	test -e $(REAL)/config.json || $(BIN)/agentbench model fetch smollm2-135m-q4 -o $(REAL)
	AGENTBENCH_REAL_MODEL=$(abspath $(REAL)) $(BIN)/python -m pytest -q tests/real

# On a machine with a card: the tests that go there by themselves, the check of low precision, figures of speed, and
# SFT, distillation and reinforcement of the real model side by side (ten minutes; figures stay under GPU_RUNS).
GPU_RUNS ?= runs/gpu
gpu:
	test -e $(REAL)/config.json || $(PYTHON_GPU) -m agentbench model fetch smollm2-135m-q4 -o $(REAL)
	$(PYTHON_GPU) -m pytest -q -m "not slow" tests/core/engines/hf tests/core/training/test_real_like.py tests/trainers \
		--ignore tests/trainers/student/test_distributed.py
	$(PYTHON_GPU) benchmarks/gpu/check.py $(REAL)
	$(PYTHON_GPU) benchmarks/gpu/bench.py
	$(PYTHON_GPU) benchmarks/gpu/learn.py $(REAL) --bf16 --runs $(GPU_RUNS)

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
