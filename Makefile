# Every target makes the environment first when it is missing; nothing is installed outside .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Training small networks on a CPU spends half its time returning and re-asking for memory without these.
export MALLOC_MMAP_THRESHOLD_ := 1000000000
export MALLOC_TRIM_THRESHOLD_ := 1000000000
.PHONY: install demo test test-all lint format bench truth no-elasticity clean

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
	$(BIN)/python benchmarks/sample_cost.py

truth: install
	$(BIN)/python benchmarks/measured_truth.py

no-elasticity: install
	$(BIN)/python benchmarks/no_elasticity.py

clean:
	rm -rf $(VENV) demo-results
