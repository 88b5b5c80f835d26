# What a newcomer needs: `make run` and `make test`. Python 3.11 or newer, make and git are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps

.PHONY: run demo test lint faults fuzz compose-test locks clean
.DEFAULT_GOAL := run

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/installer.txt

$(VENV)/.runtime: $(BIN)/python locks/runtime.txt pyproject.toml
	$(INSTALL) --require-hashes -r locks/runtime.txt
	$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(BIN)/python locks/dev.txt pyproject.toml
	$(INSTALL) --require-hashes -r locks/dev.txt
	$(INSTALL) --no-build-isolation -e .
	@touch $@ $(VENV)/.runtime

run: $(VENV)/.runtime  ## everything on this machine, on loopback
	$(BIN)/fitserve up

demo: $(VENV)/.runtime  ## two real tables, from upload to prediction
	$(BIN)/fitserve demo

test: $(VENV)/.dev  ## the whole suite, on real parts
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy -p services -p workers -p migrations
	$(BIN)/lint-imports

faults: $(VENV)/.dev  ## the long form: a thousand runs, hundreds of kills
	$(BIN)/python -m tests.faults

bench-%: $(VENV)/.dev  ## bench-startup, bench-ingest, bench-training, bench-serving, bench-claims
	$(BIN)/python -m benchmarks.$*

locks:  ## writes the locks anew; needs uv
	locks/compile.sh

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
