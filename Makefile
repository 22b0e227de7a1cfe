# Commands of the project; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NODES ?= 1000
PEER ?=
REGISTRY ?=
KEY ?=
SOURCE ?=
BUILDER ?=
# The tests mostly wait, so three processes fit on two cores. Each has control planes of its own, for
# a file at a time. The order of the files stays: by number of tests, the longest would come last.
BY_FILE := --dist loadfile --no-loadscope-reorder
PARALLEL := -n 3 $(BY_FILE)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-unit test-sinks test-cluster test-node test-faults test-release test-tools lint format docs bench performance bench-work bench-sinks bench-sql dist release registry crds chart screenshots lock lock-base clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

venv: $(BIN)/gpuid-operator ## Create .venv with the locked dependencies and the project.

# --no-deps: the lock is complete, and pip's resolver would look for a newer release of what has extras.
$(BIN)/gpuid-operator: requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpuid-operator needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

demo: venv ## Run the operator on simulated GPUs, in a local cluster or in yours (DEMO_ARGS="--context NAME").
	$(BIN)/gpuid-operator demo $(DEMO_ARGS)

test: lint test-tools test-unit test-sinks test-cluster test-node ## Run everything that CI requires.

test-unit: venv ## Run the tests that need no server; they cover 90 % of plan/ and engine/.
	$(BIN)/pytest tests/unit -n 2 --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

test-sinks: venv ## Run the tests of the sinks on real servers (Google's is a stand-in).
	$(BIN)/pytest tests/sinks -n 2 $(BY_FILE) $(PYTEST_ARGS)

test-cluster: venv ## Run the tests on a real API server with simulated nodes, and a part of the fault campaign.
	$(BIN)/pytest tests/cluster tests/faults $(PARALLEL) $(PYTEST_ARGS)

test-faults: venv ## Run the whole fault campaign and print its figures (hours; `make test` runs a part).
	FAULTS=all $(BIN)/pytest tests/faults tests/cluster/test_delivery_crashes.py $(PYTEST_ARGS)

test-node: venv ## Run the tests on a real kubelet with real containers (root, containerd).
	$(BIN)/pytest tests/node $(PYTEST_ARGS)

test-release: venv ## Release to two local registries, and verify the release as users would.
	$(BIN)/pytest tests/release $(PYTEST_ARGS)

test-tools: venv ## Build the programs that the tests need (first run: twenty minutes, with Go).
	$(BIN)/python -m tests.support.gotools

lint: venv ## Check style, types and import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## Format the code with ruff.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: venv ## Build the documentation as a site in build/site, offline.
	$(BIN)/python scripts/site.py

bench: venv ## Measure SCENARIOS=instant,real at NODES=1000, and with PEER=… gpuid beside it; see docs/performance.md.
	$(BIN)/python -m tests.bench.run --nodes $(NODES) $(if $(SCENARIOS),--scenarios $(SCENARIOS)) $(if $(NODES_LARGE),--nodes-large $(NODES_LARGE)) $(if $(IDLE_SECONDS),--idle-seconds $(IDLE_SECONDS)) $(if $(QUARANTINES),--quarantines $(QUARANTINES)) $(if $(PEER),--peer $(PEER))

performance: venv ## Put the results of `make bench` into docs/performance.json and docs/performance.md.
	$(BIN)/python -m tests.bench.page

bench-work: venv ## Count the work that a new node takes: requests, bytes, calls, allocations.
	$(BIN)/python -m tests.bench.work

dist: venv ## Build image, chart, wheel and manifests of HEAD into dist/, identical for everyone.
	$(BIN)/python -m release build $(if $(SOURCE),--source $(SOURCE)) $(if $(BUILDER),--builder $(BUILDER)) $(if $(REGISTRY),--registry $(REGISTRY))

release: registry dist ## Push them to REGISTRY (several: a,b), attested with KEY; see docs/verify.md.
	$(BIN)/python -m release publish $(REGISTRY) $(if $(KEY),--key $(KEY))

registry:
	$(if $(REGISTRY),,$(error REGISTRY is not set: make release REGISTRY=registry.example.com/team))

bench-sinks: venv ## Count the transactions and objects in which NODES=1000 reach PostgreSQL and S3.
	$(BIN)/python -m tests.bench.delivery --nodes $(NODES)

bench-sql: venv ## Measure look-ups and inserts in PostgreSQL at ROWS=1000000 of history.
	$(BIN)/python -m tests.bench.sql --rows $(or $(ROWS),1000000)

crds: venv ## Generate the CRDs in crds/, the chart and deployment/ from the models.
	$(BIN)/gpuid-operator crds --write crds
	$(BIN)/python scripts/chart.py

chart: venv ## Generate the chart's CRDs and tables, the dashboards and docs/reference.
	$(BIN)/python scripts/chart.py

screenshots: venv ## Take the pictures in docs/images: `kubectl gpuid ui`, with Chromium, and the demo.
	$(BIN)/python -m tests.support.ui_screenshots
	$(BIN)/python -m tests.support.demo_picture

lock: venv ## Resolve the dependencies again into requirements/.
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --universal --no-header --python-version 3.11 pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --universal --no-header --python-version 3.11 --extra dev -c requirements/runtime.txt pyproject.toml -o requirements/dev.txt

lock-base: venv ## Lock the current Debian packages of the base image, with apt.
	$(BIN)/python -m release.debian

clean: ## Remove build results (not the cache of built binaries).
	rm -rf $(VENV) build dist .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
