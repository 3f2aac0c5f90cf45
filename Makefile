# Every command of the project; `make demo` and `make test` need nothing but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := flows preprocessing storage training

# Everything is kept in this folder, and nothing is sent anywhere.
export PREFECT_HOME := $(CURDIR)/.prefect
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: demo test check deploy services lock clean

demo: .venv/installed ## the whole pipeline on the embedded sample, offline
	$(BIN)/likeness demo

test: check ## lint, types, tests
	$(BIN)/pytest

check: .venv/installed ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

deploy: .venv/installed ## work pools and deployments, on the server of prefect.toml or $PREFECT_API_URL
	$(BIN)/likeness deploy

services: .venv/installed ## server, deployments, two workers and the MLflow page, until Ctrl-C
	$(BIN)/likeness services

lock: ## write constraints.txt anew from what is installed
	$(BIN)/pip freeze --exclude-editable --exclude pip --exclude setuptools > constraints.txt

clean: ## remove the environment and Prefect's state; the store stays
	rm -rf .venv .prefect .mypy_cache .ruff_cache .pytest_cache

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "likeness needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[sample,metrics,dev]'
	$(BIN)/pip check
	touch $@
