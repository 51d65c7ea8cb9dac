# `make` alone lists the targets. They run the `kernel` command and a few short tools, so that developers, CI and the
# container image run the same commands.
.DEFAULT_GOAL := help
.PHONY: help run test test-unit test-slow coverage test-all check self-test newest audit format docs changelog migrate migration bench claims growth bench-boundaries messages faults drill lines lock clean venv

# The first Python 3.11 or newer that starts: a pyenv shim may exist and still refuse.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
TEST := $(BIN)/pytest -n auto --maxschedchunk 10 --durations=15
STAMP := $(VENV)/.installed
LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--quiet --custom-compile-command "make lock"
# The extras of platform-kernel that the application uses, and those for development (all brokers, all checks).
RUNTIME := --extra api_docs --extra bearer_tokens --extra http2 --extra rate_limit --extra remote --extra server --extra store --extra telemetry --extra websockets
DEV := --extra all --extra boundaries --extra testing --group dev
export UV_PYTHON := $(BIN)/python
export UV_NO_CONFIG := 1

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use
run: venv ## Set up everything, migrate, and serve with auto-reload   [HOST=127.0.0.1 PORT=8000]
	@$(BIN)/kernel serve $(if $(HOST),--host '$(HOST)') $(if $(PORT),--port '$(PORT)')

test: venv ## Set up everything, run unit and integration tests on SQLite and PostgreSQL   [ARGS="-k events"]
	@$(TEST) -m "not slow" $(ARGS)

test-unit: venv ## Run the tests that need no server, socket or process (a minute)   [ARGS="-k events"]
	@$(TEST) -m "not slow and not integration" $(ARGS)

test-slow: venv ## Run faults, fuzzing, brokers, workers and proofs (15 minutes)   [QUICK=1 ARGS="-k brokers"]
	@$(TEST) -m slow $(if $(QUICK),--one-case) $(ARGS)

coverage: venv ## Run the unit and integration tests, and print which lines they run
	@$(TEST) -m "not slow" --cov --cov-report term $(ARGS)

test-all: self-test coverage test-slow drill ## Run all tests, the self-test, the drill and a short benchmark (30 minutes)
	@test ! -d bench || $(BIN)/python -m bench --quick --no-served --rounds 1

##@ Change
check: venv ## Lint, formatting, types and the boundaries between modules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@test ! -d bench || $(BIN)/mypy -p bench
	$(BIN)/lint-imports --config platform/importlinter.ini --no-cache
	$(BIN)/kernel check $(if $(GITHUB_ACTIONS),--format github)

self-test: venv ## Test the boundary rules: apply known violations to a copy, and check that each is found
	@$(BIN)/kernel check --self-test

newest: ## Check and test with the newest dependencies that the bounds allow, in a virtual environment of its own
	@PYTHON='$(PYTHON)' bin/install .venv-newest newest
	.venv-newest/bin/mypy
	.venv-newest/bin/kernel check
	.venv-newest/bin/pytest -n auto --maxschedchunk 10 $(ARGS)

audit: venv ## Look up known vulnerabilities of the locked dependencies; exit code 3 if the data is unavailable
	@$(BIN)/python bin/audit

format: venv ## Format the code, apply the linter's fixes, and write CODEOWNERS
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/kernel owners --write

docs: .venv-docs/.installed ## Build the documentation into site/; a broken link is an error
	.venv-docs/bin/zensical build --clean --strict

changelog: venv ## Print the changes since the last release; with VERSION, move them to CHANGELOG.md   [VERSION=1.0.0]
	@$(BIN)/towncrier build $(if $(VERSION),--version '$(VERSION)' --yes,--version Unreleased --draft)

migrate: venv ## Apply all migrations of every module
	@$(BIN)/kernel migrate

migration: venv ## Write a migration from the models   MODULE=events MESSAGE="add a column"
	@test -n "$(MODULE)" -a -n "$(MESSAGE)" || { echo 'Say which, and what: make migration MODULE=notes MESSAGE="first tables"'; exit 2; }
	@$(BIN)/kernel migration "$(MODULE)" -m "$(MESSAGE)"
	@$(BIN)/ruff format --quiet migrations

##@ Measure
bench: venv ## Compare with raw ASGI, a hand-tuned FastAPI and a typical template (12 minutes)   [QUICK=1]
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(ARGS)

claims: venv ## Measure whether each claim of the architecture holds (3 minutes)   [QUICK=1]
	@$(BIN)/python -m bench.claims $(if $(QUICK),--quick) $(ARGS)

bench-boundaries: venv ## Time `kernel check` on this repository and on 200 modules with 2,000 files (a minute)   [QUICK=1]
	@$(BIN)/python -m bench.boundaries $(if $(QUICK),--quick) $(ARGS)

growth: venv ## Measure the cost of the 200th module, and the starts (3 minutes)   [QUICK=1]
	@$(BIN)/python -m bench.growth $(if $(QUICK),--quick) $(ARGS)

messages: venv ## Time the delivery of messages, compared with a simple loop (2 minutes)   [QUICK=1]
	@$(BIN)/python -m bench.messages $(if $(QUICK),--quick) $(ARGS)

faults: venv ## Kill, freeze and race processes, and count lost and doubled effects (25 minutes)   [QUICK=1]
	@$(BIN)/python -m tests.faults $(if $(QUICK),--quick) $(ARGS)

drill: venv ## Remove each extension from a copy, and start and test the rest   [QUICK=1 ARGS="cache store"]
	@$(BIN)/python -m tests.drill $(if $(QUICK),--quick) $(ARGS)

lines: venv ## Count the lines of the core and of each extension
	@$(BIN)/python -m tests.core.lines

##@ Maintain
lock: venv ## Resolve the dependencies again and write requirements/*.txt   [UPGRADE=1]
	$(LOCK) $(if $(UPGRADE),--upgrade) requirements/uv.in -o requirements/uv.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) platform/pyproject.toml pyproject.toml $(RUNTIME) -o requirements/runtime.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) platform/pyproject.toml pyproject.toml $(DEV) \
		-c requirements/runtime.txt -c requirements/uv.txt -o requirements/dev.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --group docs -o requirements/docs.txt

venv: $(STAMP) ## Install the locked dependencies into .venv (the other targets do it when needed)

clean: ## Remove the virtual environment, caches and local data
	rm -rf $(VENV) .venv-newest .venv-docs site data .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements/dev.txt requirements/uv.txt platform/pyproject.toml bin/install
	@test -n "$(PYTHON)" || { echo "No Python of at least 3.11 was found. Install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@PYTHON='$(PYTHON)' bin/install $(VENV) dev
	@touch $@

.venv-docs/.installed: requirements/docs.txt
	@$(PYTHON) -m venv --clear .venv-docs
	@.venv-docs/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes -r $<
	@touch $@
