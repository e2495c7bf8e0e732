# make compare: train every encoding alike on embedded data, test at sizes never seen, draw the page (about 5 minutes)
# make test:    linters, types and tests
# make benchmarks: take the published speeds and memory figures again (about half an hour)
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
	$(BIN)/cpvt bench

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs dist
