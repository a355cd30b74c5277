# Everything runs in .venv, which `make install` fills from the lock. Nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
# The tests that start no Prefect server. They compute more than they wait: a process a core.
LIBRARY_TESTS := -n logical tests/faceid tests/emulator
PYTHONS ?= python3.11 python3.12 python3.13

.DEFAULT_GOAL := help
.PHONY: help install s3 demo up deploy test coverage test-fast test-library test-services \
  test-browser test-docs docs lint format bench bench-large lock clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(VENV)/installed ## what the commands need, into .venv

s3: $(VENV)/installed ## and what reads and writes s3://
	$(PIP) install --require-hashes -r requirements-s3.lock -c requirements-s3.lock

demo: $(VENV)/installed ## the whole way once, with nothing set up: emulator, Prefect, verdicts
	$(BIN)/faceid demo

up: $(VENV)/installed ## the local stack with the dashboard, on the emulator, until Ctrl-C
	$(BIN)/faceid up --emulator

deploy: $(VENV)/installed ## register deployments, work pool, block type and automations at PREFECT_API_URL
	@$(BIN)/python -m deployments.deploy

test: $(VENV)/installed-dev ## the test suite (COVERAGE=1: with the coverage gate)
	$(BIN)/python -m pytest $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

coverage: COVERAGE = 1
coverage: test ## the test suite, and the lines and branches it covers

test-fast: $(VENV)/installed-dev ## the tests of library and emulator, no Prefect (COVERAGE=1: gated)
	$(BIN)/python -m pytest $(LIBRARY_TESTS) \
	  $(if $(COVERAGE),--cov=faceid --cov-report=term:skip-covered)

test-library: ## the same on each of PYTHONS that is on this machine
	@for python in $(PYTHONS); do \
	  if $$python -c '' 2>/dev/null; then \
	    $(MAKE) --no-print-directory test-library-$$python || exit 1; \
	  else \
	    echo "$$python is not on this machine: skipped"; \
	  fi; \
	done

test-library-%: .venv-library/%/installed
	.venv-library/$*/bin/python -m pytest $(LIBRARY_TESTS)

test-services: $(VENV)/installed-dev ## tests that need PostgreSQL and Redis on this machine
	$(BIN)/python -m pytest -m services --override-ini="addopts=" -ra

test-browser: $(VENV)/installed-dev ## tests that look at the dashboard with chromium
	$(BIN)/python -m pytest -m browser --override-ini="addopts=" -ra

test-docs: $(VENV)/installed-dev ## run the commands of README and docs as they are written there
	$(BIN)/python -m pytest -m docs --override-ini="addopts=" -ra

lint: $(VENV)/installed-dev ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/installed-dev ## let ruff write what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/installed-dev ## write the reference pages that are generated from the code
	$(BIN)/python -m docs.generate

bench: $(VENV)/installed-dev ## benchmarks: figures of one run on this machine, in half an hour
	$(BIN)/python -m benchmarks

bench-large: $(VENV)/installed-dev ## batches of 10,000 requests (memory) and, under `faceid up`, 3 x 5,000
	$(BIN)/python -m benchmarks large steady

lock: $(VENV)/installed-dev ## resolve the locks anew (needs uv)
	uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --group build --extra flows --upgrade -o requirements.lock
	uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --group build --extra flows --extra s3 \
	  -c requirements.lock -o requirements-s3.lock
	uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --group build --group dev --extra flows --extra s3 \
	  -c requirements-s3.lock -o requirements-dev.lock

clean: ## remove .venv and what tools left
	rm -rf $(VENV) .venv-library .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build dist

# As constraints, too: pip takes a package with extras (sqlalchemy[asyncio]) for one of its own, that
# the lock alone does not pin, and would look for its newest.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements.lock -c requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable '.[flows]'
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	$(PIP) install --require-hashes -r requirements-dev.lock -c requirements-dev.lock
	@touch $@

.PRECIOUS: .venv-library/%/installed
.venv-library/%/installed: requirements-dev.lock pyproject.toml
	$* -m venv $(@D)
	$(@D)/bin/python -m pip -qq --disable-pip-version-check install --require-hashes \
	  -r requirements-dev.lock -c requirements-dev.lock
	$(@D)/bin/python -m pip -qq --disable-pip-version-check install --no-deps \
	  --no-build-isolation --editable .
	@touch $@
