# What a contributor does with Kobiri; `make` alone lists it. It needs make and Python 3.11 or newer, nothing else.

PYTHON ?= python3
BIN := .venv/bin
# Two thirds of the time would go into byte code that is never run; what runs is compiled then.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet install --no-compile
# Four at a time, on two cores too: many tests wait, for a lease to end or a process to start.
PYTEST := $(BIN)/pytest -n 4

.DEFAULT_GOAL := help
.PHONY: help run test test-full check bench chaos lock clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.package ## run everything here: database, simulators, API, worker, demo tenant (PORT, SIMULATOR_PORT, KOBIRI_HOME)
	@KOBIRI_SUPERVISED=1 exec $(BIN)/kobiri demo

test: .venv/.dev ## run the tests and hold the coverage (a single file: .venv/bin/pytest tests/...)
	$(PYTEST) --cov --cov-report=
	@for package in domain services store; do \
		echo "Coverage of kobiri.$$package, at least 90 % of lines:"; \
		$(BIN)/coverage report --include="src/kobiri/$$package/*" --fail-under=90 || exit 1; \
	done

test-full: .venv/.dev ## the whole suite against Debian's PostgreSQL 15, with the tests that need Debian packages
	@sh requirements/debian.sh
	pg_virtualenv -v 15 -o fsync=off -o max_connections=400 sh -c '\
		TEST_DATABASE_URL="postgresql://$$PGUSER:$$PGPASSWORD@$$PGHOST:$$PGPORT/postgres" \
		exec $(PYTEST) -m ""'

check: .venv/.dev ## format, lint, types, direction of imports, no download address in git
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@! grep -n '://' requirements/* || { echo "A requirement file names a download address." >&2; exit 1; }
	@! git grep -nIE 'pypi[.]org|[p]ythonhosted|registry[.]npmjs|deb[.]debian[.]org' \
		|| { echo "A file names a package registry's host." >&2; exit 1; }

bench: .venv/.package ## measure (see benchmarks/)
	$(BIN)/python -m benchmarks

chaos: .venv/.dev ## break things for SECONDS (60) by a SEED (drawn and printed), LIES=1 or STRANGE=1, then check every invariant
	@$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) $(if $(LIES),--lies) \
		$(if $(STRANGE),--strange)

lock: ## resolve requirements/*.txt anew from pyproject.toml, a week behind the newest releases (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv on the PATH." >&2; exit 1; }
	uv pip compile $(LOCK) --group pip --output-file requirements/pip.txt
	uv pip compile $(LOCK) pyproject.toml --extra embedded --group build --output-file requirements/run.txt
	uv pip compile $(LOCK) pyproject.toml --extra embedded --group build --group dev --output-file requirements/dev.txt
	uv pip compile $(LOCK) --group third-party --output-file requirements/third-party.txt

LOCK := --quiet --upgrade --universal --exclude-newer "1 week" --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

clean: ## remove the environment and every cache; your data in .kobiri stays
	rm -rf .venv .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache htmlcov
	find src tests -name __pycache__ -prune -exec rm -rf {} +

# --- the environment, redone only when the requirement files change ---

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
		"Kobiri needs Python 3.11 or newer, which $(PYTHON) is not: name another one, as in make PYTHON=python3.12 run." \
		>&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
		"$(PYTHON) comes without its venv module: install it (on Debian and Ubuntu the package python3-venv)." \
		>&2; exit 1; }
	@echo "Preparing .venv, once: about half a minute."
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r requirements/pip.txt  # the pip that comes with Python 3.11 takes twice as long
	@touch $@

.venv/.run: .venv/.python requirements/run.txt
	@$(PIP) --require-hashes -r requirements/run.txt
	@touch $@

.venv/.package: .venv/.run pyproject.toml
	@$(PIP) --no-index --no-build-isolation --no-deps --editable .
	@touch $@

.venv/.dev: .venv/.package requirements/dev.txt
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@
