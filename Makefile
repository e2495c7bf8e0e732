# make compare:    train every encoding on scikit-learn's digits, test at unseen sizes, write the report (about 3 minutes)
# make test:       run linters, type checks and tests
# make benchmarks: run the benchmarks (about three quarters of an hour)
# make docs:       build the documentation site into site/; a broken link or reference fails
# make docs-serve: show the site on localhost, again after each change
# make clean:      remove the environment, the runs and the built files
PYTHON ?= python3
BIN := .venv/bin
export NO_MKDOCS_2_WARNING = 1

.PHONY: compare test benchmarks docs docs-serve clean

compare: .venv/installed
	$(BIN)/cpvt compare

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile

benchmarks: .venv/installed
	$(BIN)/python -m benchmarks

docs: .venv/installed
	$(BIN)/mkdocs build --strict

docs-serve: .venv/installed
	$(BIN)/mkdocs serve

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs dist site
