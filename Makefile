# Everything runs in .venv, into which `make install` installs the packages of the lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
# The tests that start no Prefect server. They need the CPU most of the time, so there is one
# process for each core.
LIBRARY_TESTS := -n logical tests/faceid tests/emulator
PYTHONS ?= python3.11 python3.12 python3.13
# What `make chaos` does: the seed of its faults, the set-up (local, shared or both), its requests.
SEED ?= 1
SETUP ?= both
REQUESTS ?= 500

.DEFAULT_GOAL := help
.PHONY: help install s3 demo up deploy test coverage test-fast test-long test-library test-services \
  test-browser test-docs chaos docs lint format bench bench-large lock clean

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(VENV)/installed ## install what the commands need into .venv

s3: $(VENV)/installed ## also install what reads and writes s3:// URLs
	$(PIP) install --require-hashes -r requirements-s3.lock -c requirements-s3.lock

demo: $(VENV)/installed ## demonstrate everything on the emulator, without any setup
	$(BIN)/faceid demo

up: $(VENV)/installed ## run the local stack with dashboard and emulator until Ctrl-C
	$(BIN)/faceid up --emulator

deploy: $(VENV)/installed ## register deployments, work pool, block type and automations at PREFECT_API_URL
	@$(BIN)/python -m deployments.deploy

test: $(VENV)/installed-dev ## run the test suite (COVERAGE=1: with the coverage gate)
	$(BIN)/python -m pytest $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

coverage: COVERAGE = 1
coverage: test ## run the test suite, and list the lines and branches that it does not cover

test-fast: $(VENV)/installed-dev ## run the tests of library and emulator (COVERAGE=1: with the gate)
	$(BIN)/python -m pytest $(LIBRARY_TESTS) \
	  $(if $(COVERAGE),--cov=faceid --cov-report=term:skip-covered)

test-library: ## run the tests of library and emulator with each of PYTHONS
	@for python in $(PYTHONS); do \
	  if $$python -c '' 2>/dev/null; then \
	    $(MAKE) --no-print-directory test-library-$$python || exit 1; \
	  else \
	    echo "$$python is not on this machine: skipped"; \
	  fi; \
	done

test-library-%: .venv-library/%/installed
	.venv-library/$*/bin/python -m pytest $(LIBRARY_TESTS)

test-long: $(VENV)/installed-dev ## run the tests of whole stacks and of random lives, which take long
	$(BIN)/python -m pytest -m long --override-ini="addopts=" -n 4 --dist worksteal -ra

test-services: $(VENV)/installed-dev ## run the tests that need PostgreSQL and Redis on this machine
	$(BIN)/python -m pytest -m services --override-ini="addopts=" -ra

test-browser: $(VENV)/installed-dev ## run the tests that open the dashboard in chromium
	$(BIN)/python -m pytest -m browser --override-ini="addopts=" -ra

test-docs: $(VENV)/installed-dev ## run the commands of README and docs as they are written there
	$(BIN)/python -m pytest -m docs --override-ini="addopts=" -ra

chaos: $(VENV)/installed-dev ## deliver under faults, and draw up the books (SEED=1 SETUP=both REQUESTS=500)
	@for setup in $(if $(filter both,$(SETUP)),local shared,$(SETUP)); do \
	  $(BIN)/python -m tests.chaos --seed $(SEED) --setup $$setup --requests $(REQUESTS) || exit 1; \
	done

lint: $(VENV)/installed-dev ## check format, style, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/installed-dev ## format the code, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/installed-dev ## write the reference pages that are generated from the code
	$(BIN)/python -m docs.generate

bench: $(VENV)/installed-dev ## run the benchmarks once on this machine, which takes half an hour
	$(BIN)/python -m benchmarks

bench-large: $(VENV)/installed-dev ## measure batches of 10,000 requests and, with `faceid up`, 3 x 5,000
	$(BIN)/python -m benchmarks large steady

lock: $(VENV)/installed-dev ## update the locks (needs uv)
	uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --group build --extra flows --upgrade -o requirements.lock
	uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --group build --extra flows --extra s3 \
	  -c requirements.lock -o requirements-s3.lock
	uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --group build --group dev --extra flows --extra s3 \
	  -c requirements-s3.lock -o requirements-dev.lock

clean: ## remove .venv and the files that tools have left behind
	rm -rf $(VENV) .venv-library .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build dist

# The lock is also passed as constraints. For pip, a package with extras (sqlalchemy[asyncio]) is a
# separate package, which the lock alone does not pin: pip would look for its newest version.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing about 120 packages into $(VENV), which takes one to two minutes ..."
	@$(PIP) install --require-hashes -r requirements.lock -c requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable '.[flows]'
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
