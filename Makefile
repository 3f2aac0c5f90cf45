# Every command of the project; `make demo` and `make test` need nothing but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check

# Everything is kept in this folder; that nothing is sent anywhere, flows/__init__.py sees to.
export PREFECT_HOME := $(CURDIR)/.prefect

# Tests start many processes, and each would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-marked check frozen deploy services lock audit clean

demo: .venv/installed ## the whole pipeline on the embedded sample, offline
	$(BIN)/likeness demo

# More processes than cores, since tests wait for servers and for processes that they start; a file stays on one, as
# its fixtures do, and the files that take longest begin (tests/conftest.py).
SPREAD := --numprocesses $(shell $(PYTHON) -c 'import os; print((3 * (os.cpu_count() or 1) + 1) // 2)') \
	--dist loadfile --no-loadscope-reorder

test: check ## lint, types, and the tests that need nothing but this machine
	$(BIN)/pytest $(SPREAD)

# Status 5 says that no test has such a mark.
test-marked: .venv/installed ## the tests that `test` leaves out: servers, buckets, a browser, slow ones
	$(BIN)/pytest -m "services or browser or slow or s3" $(SPREAD) || [ $$? -eq 5 ]

check: .venv/installed ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

frozen: .venv/installed ## help pages, and the surfaces in tests/data, written anew: a change that is meant
	$(BIN)/python -m flows.cli.help docs/help
	$(BIN)/python tests/surfaces.py

deploy: .venv/installed ## work pools and deployments, on the server of prefect.toml or $PREFECT_API_URL
	$(BIN)/likeness deploy

services: .venv/installed ## a team's servers, deployments and workers on this machine, until Ctrl-C
	$(BIN)/likeness services --team

# Versions stay as they are locked but where pyproject.toml asks for others; LOCK=--upgrade asks for the newest.
lock: $(BIN)/uv ## compile constraints.txt, with hashes, from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet $(LOCK) \
		--output-file constraints.txt

# The advisories stand on a server, so that this needs the network.
audit: $(BIN)/uv ## known faults of what constraints.txt locks
	$(BIN)/uv tool run --quiet pip-audit==2.10.1 --requirement constraints.txt --no-deps --disable-pip

clean: ## remove the environment and Prefect's state; the store stays
	rm -rf .venv .prefect .mypy_cache .ruff_cache .pytest_cache

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "likeness needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "installing into .venv, without a word, for some minutes"
	$(INSTALL) --no-deps --require-hashes --requirement constraints.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	$(BIN)/pip check
	touch $@

# So that a lock can be made where none fits.
$(BIN)/uv:
	$(PYTHON) -m venv .venv
	$(INSTALL) uv
