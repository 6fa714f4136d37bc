.DEFAULT_GOAL := help
.PHONY: help setup servers run test lint check format bench chaos reference lock

BIN := .venv/bin

help:  ## show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## prepare .venv from the lock; quick the second time
	@sh tools/setup.sh

servers:  ## find or install PostgreSQL, Redis and RabbitMQ for the tests
	@sh tools/servers.sh

run: setup  ## start Tidemill on the embedded store, with demo tasks
	@exec $(BIN)/tidemill up --demo

test: setup servers  ## pass every test
	$(BIN)/pytest -n 2 --dist worksteal

lint: setup  ## format, lint, types, import contract
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint  ## the same, and the fast tests
	$(BIN)/pytest -n 2 -m "not slow"

format: setup  ## rewrite the code in the project's format
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

bench: setup  ## print the figures that the README and the notes quote
	$(BIN)/python -m benchmarks

chaos: setup servers  ## break a cluster for ten minutes on each queue (QUEUE=redis: on that one)
	$(BIN)/python -m benchmarks $(if $(QUEUE),chaos_$(QUEUE),chaos) \
	  report=docs/explanation/chaos-report.md

reference: setup  ## write docs/reference anew from the code
	$(BIN)/python -m tools.reference

lock: setup  ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet pyproject.toml --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements.lock
