# make quickstart   train, evaluate and show a small model, from nothing, in minutes
# make test         install what is missing and run the tests
# make check        formatting, lint, types

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test check format install clean

quickstart: install
	$(BIN)/smalllm quickstart $(ARGS)

test: install
	$(BIN)/python -m pytest -n 2 $(ARGS)

check: install
	$(BIN)/ruff format --check src tests scripts
	$(BIN)/ruff check src tests scripts
	$(BIN)/mypy

format: install
	$(BIN)/ruff format src tests scripts
	$(BIN)/ruff check --fix src tests scripts

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "smalllm needs Python 3.11 or newer; give one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
