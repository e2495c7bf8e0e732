# make compare: train every encoding alike on embedded data, test at sizes never seen, draw the page (about 5 minutes)
# make test:    linters, types and tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: compare test benchmarks clean

compare: .venv/installed
	$(BIN)/cpvt compare

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

benchmarks: .venv/installed
	$(BIN)/python benchmarks/peg.py
	$(BIN)/python benchmarks/model.py
	$(BIN)/python benchmarks/scattered.py
	$(BIN)/python benchmarks/fused.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs dist
