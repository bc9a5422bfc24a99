# Every target makes the environment first when it is missing; nothing is installed outside .venv and .venv-peers.
PYTHON ?= python3
PEERS_PYTHON ?= python3.12
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
# Training small networks on a CPU spends half its time returning and re-asking for memory without these.
export MALLOC_MMAP_THRESHOLD_ := 1000000000
export MALLOC_TRIM_THRESHOLD_ := 1000000000
.PHONY: install demo test test-all lint format bench bench-peers truth no-elasticity paper study clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lesde needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/lesde demo --out-dir demo-results --force

test: install
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-all: install
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'slow or not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python benchmarks/fit_speed.py
	$(BIN)/python benchmarks/cost.py --short
	$(BIN)/python benchmarks/recorder.py --short
	$(BIN)/python benchmarks/statistics_speed.py --short
	$(BIN)/python benchmarks/inference.py --contestants plain-strata plain-independent

# dynestyx and cd-dynamax have an environment of their own, without PyTorch.
bench-peers: install $(PEERS)/.installed
	$(BIN)/python benchmarks/cost.py --json benchmarks/results/cost.json
	$(BIN)/python benchmarks/inference.py --peers-python $(PEERS)/bin/python --samples 300 3000 --json benchmarks/results/inference.json

$(PEERS)/.installed: benchmarks/peers.txt
	$(PEERS_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12) and "dynestyx needs Python 3.12 or newer: make bench-peers PEERS_PYTHON=python3.13")'
	test -x $(PEERS)/bin/python || $(PEERS_PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	touch $@

truth: install
	$(BIN)/python benchmarks/measured_truth.py

no-elasticity: install
	$(BIN)/python benchmarks/no_elasticity.py

# The paper's figures and tables: an hour and more on two cores; what was done is not done again.
paper: install
	$(BIN)/python examples/phase_transition.py

# Architectures compared: an hour and more on two cores; what was done is not done again.
study: install
	$(BIN)/python examples/compare_architectures.py --fresh

clean:
	rm -rf $(VENV) $(PEERS) demo-results
