# make compare:    train every encoding on scikit-learn's digits, test at unseen sizes, write the report (about 3 minutes)
# make test:       run linters, type checks and tests
# make benchmarks: run the benchmarks (about three quarters of an hour)
# make clean:      remove the environment, the runs and the built files
PYTHON ?= python3
BIN := .venv/bin

.PHONY: compare test benchmarks clean

compare: .venv/installed
	$(BIN)/cpvt compare

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile

benchmarks: .venv/installed
	$(BIN)/python -m benchmarks

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs dist
