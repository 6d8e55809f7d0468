# Everything starts from `make run` or `make test`: both build .venv first, from Python 3.11 or 3.12 and pip alone.

# `make PYTHON=/path/to/python` chooses the interpreter; otherwise it is the first of these that will do.
PYTHON =
PYTHONS = $(or $(PYTHON),python3.11 python3.12 python3)
BENCH = runtime
# Of `make check`: a folder or a module of the packages; recorded seconds of tests for each worker.
ROOM =
BUDGET_S = 12
# Processes that run tests: a number, or as many as there are cores.
WORKERS = logical

BIN = .venv/bin
STAMP = .venv/.installed
SLOW = slow or ray or deployment
FIRST_COLUMNS = accuracy,accuracy_points,epsilon,round_s,round_ratio,client_ratio,upload_bytes_per_parameter,upload_ratio,assumption

# What a caller's shell may hold that would change the outcome.
unexport PYTHONPATH PYTHONHOME PYTHONWARNINGS PYTHONOPTIMIZE MYPYPATH PYTEST_ADDOPTS
unexport PIP_CONSTRAINT PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_TARGET PIP_USER
export FLWR_TELEMETRY_ENABLED = 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1
export PYTHONNOUSERSITE = 1

.DEFAULT_GOAL = help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install run readme test check lint types pytest test-slow durations format bench deployment-demo lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with exactly the versions of requirements.lock

run: $(STAMP) ## The main job: a first table, on data that is embedded
	$(BIN)/fedveil sweep experiment=first_table
	$(BIN)/fedveil table results/runs/first_table --columns $(FIRST_COLUMNS)

readme: $(STAMP) ## Write that table and its picture into the README
	rm -rf results/runs/readme
	$(BIN)/fedveil sweep experiment=first_table out=results/runs/readme
	$(BIN)/python -m experiments.readme results/runs/readme $(FIRST_COLUMNS)

test: lint types pytest ## Everything that must pass before a commit

check: $(STAMP) ## One room in a minute, with what imports it: make check ROOM=privacy/he
	@$(BIN)/python -m tests.rooms "$(ROOM)" --budget-s $(BUDGET_S) --workers $(WORKERS)

lint: $(STAMP) ## Style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP) ## Types, strictly
	$(BIN)/mypy

pytest: $(STAMP) ## The quick tests: in parallel, and then one at a time those that measure time
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not ($(SLOW) or alone)"
	$(BIN)/python -m pytest -q -m "alone and not ($(SLOW))" $$(grep -rl "mark\.alone" tests --include="test_*.py")

test-slow: $(STAMP) ## The other tests: long ones, Ray, a deployment on loopback
	$(BIN)/python -m pytest -q -m "$(SLOW)"

durations: $(STAMP) ## Record the seconds of each test file: they order `make test` and choose in `make check`
	$(BIN)/python -m pytest -q -n $(WORKERS) -p tests.recording -m "not ($(SLOW))"

format: $(STAMP) ## Put the style right
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP) ## A benchmark: make bench BENCH=runtime
	$(BIN)/fedveil bench $(BENCH)

deployment-demo: $(STAMP) ## One SuperLink and three SuperNodes on loopback, with TLS
	$(BIN)/fedveil run experiment=deployment_demo

# Resolves for every supported Python and platform at once, CUDA's packages included, and keeps the versions that
# requirements.lock already holds: delete it first to take the newest.
lock: $(BIN)/python ## Write requirements.lock from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
		--extra dev --no-annotate --output-file requirements.lock pyproject.toml

clean: ## Remove .venv, builds and caches; runs and their results stay
	rm -rf .venv build dist fedveil.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find configs experiments fl privacy results tests -name __pycache__ -prune -exec rm -rf {} +

# pip picks the build of torch: CUDA's from its index, or another that it is configured to find.
$(STAMP): pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing into .venv: two minutes or so; longer where PyTorch's CUDA build is downloaded."
	@$(BIN)/python -m pip install -qq --constraint requirements.lock --editable '.[dev]'
	@touch $@

$(BIN)/python:
	@for python in $(PYTHONS); do \
		"$$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
			&& exec "$$python" -m venv .venv; \
	done; \
	echo "fedveil needs Python 3.11 or 3.12 with venv (on Debian: python3-venv); none among: $(PYTHONS)." \
		"Name one with: make PYTHON=/path/to/python" >&2; \
	exit 1
