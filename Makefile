# Everything one does with this checkout. Each target does its own set-up; nothing is assumed but Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KEEP ?=
# Most tests wait for a broker: two at a time take two cores half the time.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help python kafka demo test test-containers bench bench-budget bench-backfill bench-pinned bench-accounts lint broker simulate lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What must be there is said first, before anything is downloaded.
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) -V`. Say which: make PYTHON=python3.12 …"; exit 1; }

kafka: python
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m producer.sandbox.broker

# One virtual environment for all, from the lock with hashes; made anew when the lock changes.
$(VENV)/.ready: requirements-dev.lock pyproject.toml | python
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: kafka $(VENV)/.ready ## The main job on real parts, verifying itself (KEEP=1 leaves everything running)
	@$(BIN)/zendesk-producer demo $(if $(KEEP),--keep)

test: kafka $(VENV)/.ready lint ## Everything that proves it (WORKERS=1 for one test after the other)
	$(BIN)/pytest --numprocesses $(WORKERS)

test-containers: $(VENV)/.ready ## The image, the compose file and the broker by Docker, where an engine answers
	$(BIN)/pytest tests/containers.py

bench: kafka $(VENV)/.ready ## What it costs beside a bare loop; exit code 1 when a goal is missed (docs/performance.md)
	@$(BIN)/python -m tests.bench

bench-backfill: kafka $(VENV)/.ready ## Ten million small tickets, stopped and killed on the way, each looked for (docs/performance.md)
	@$(BIN)/python -m tests.bench.backfill

bench-pinned: kafka $(VENV)/.ready ## Seconds with up to 100,000 tickets: in how much memory they are passed (docs/performance.md)
	@$(BIN)/python -m tests.bench.pinned

bench-accounts: kafka $(VENV)/.ready ## Fifty accounts in one process: what one costs beside others (docs/performance.md)
	@$(BIN)/python -m tests.bench.accounts

bench-budget: kafka $(VENV)/.ready ## The request budget: used up, never exceeded, across a restart (docs/performance.md)
	@$(BIN)/python -m tests.bench.budget

lint: $(VENV)/.ready ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

broker: kafka $(VENV)/.ready ## A real single-node Kafka in the foreground, until Ctrl-C
	@$(BIN)/zendesk-producer broker

simulate: $(VENV)/.ready ## The pretend Zendesk in the foreground, until Ctrl-C
	@$(BIN)/zendesk-producer simulate

lock: $(VENV)/.ready ## Pin the newest versions that pyproject.toml allows, with hashes
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --disable-pip-version-check uv
	$(VENV)-lock/bin/uv pip compile $(LOCK) pyproject.toml -o requirements.lock
	$(VENV)-lock/bin/uv pip compile $(LOCK) --group dev pyproject.toml -c requirements.lock -o requirements-dev.lock
	rm -rf $(VENV)-lock
LOCK := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock'

clean: ## Remove what the other targets made here (Kafka's jars stay in the cache folder)
	rm -rf $(VENV) $(VENV)-* .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
