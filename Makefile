# The commands of this project; each sets up what it needs first (see scripts/setup).

.DEFAULT_GOAL := help
.PHONY: help run fleet test soak bench lint fmt clean setup

help: ## show this list
	@echo "make …"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-8s %s\n", $$1, $$2}'

run: ## start the daemon and the example web app; prints the URL to open
	@scripts/setup run
	@exec .venv/bin/python -m scripts.run

fleet: ## Redis, HAProxy, three instances and the example web app; prints what to open and type
	@scripts/setup fleet
	@exec .venv/bin/python -m scripts.fleet

test: ## lint, types, import rule and all tests (a few minutes)
	@scripts/setup test
	@.venv/bin/python scripts/check.py test

soak: ## the long forms of the tests, and every breakage of tests/breakages/ (hours)
	@scripts/setup test
	@.venv/bin/python scripts/check.py soak

bench: ## the daemon and its peers in turn, measured; writes docs/benchmarks.md (15 minutes; SHORT=1: only shows that it works)
	@scripts/setup bench
	@.venv/bin/python -m benchmarks $(if $(SHORT),--short,--write)

lint: ## formatting, lint, types and import rule only
	@scripts/setup test
	@.venv/bin/python scripts/check.py lint

fmt: ## format the Python code and mend what ruff can mend
	@scripts/setup test
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format --quiet .

setup: ## only set up what the tests need
	@scripts/setup test

clean: ## remove everything that set-up and runs have made here
	@rm -rf .venv .run build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@rm -rf js/node_modules tests/e2e/clients/node_modules benchmarks/peers/tus-server/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
