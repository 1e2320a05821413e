# `make` lists the targets. Two variables help with all of them:
#   PYTHON=/path/to/python3  the interpreter for a new .venv (else the best one on the PATH)
#   ARGS="--port 9000"       options passed on to the command that the target runs

# Else each of many processes compiles all modules for itself.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve test soak lint modules browser format bench lock clean

KERNELS = .venv/aggregator.kernels .venv/api.kernels
TOGETHER = @$(MAKE) --no-print-directory --silent --jobs 3

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s%s\n", $$1, $$2 }' Makefile

# `exec` leaves no shell between make and the service, so signals and the exit code pass through.
serve: .venv/runtime.stamp ## Run the service
	$(TOGETHER) $(KERNELS)
	@exec .venv/bin/playhead serve $(ARGS)

# Three at a time on two cores: they often wait, for a disk or a server that starts. Which tests
# stay together is said in tests/conftest.py; what takes long comes first, so that none ends last.
test: .venv/dev.stamp ## Run all checks, then all tests
	$(TOGETHER) $(KERNELS) browser lint modules
	.venv/bin/pytest -q --numprocesses 3 --dist loadgroup --no-loadscope-reorder $(ARGS)

soak: .venv/dev.stamp ## Break things for hours: the fault tests, PLAYHEAD_ROUNDS (20) times as long
	$(TOGETHER) $(KERNELS) lint
	PLAYHEAD_ROUNDS=$${PLAYHEAD_ROUNDS:-20} .venv/bin/pytest -q tests/faults $(ARGS)

lint: .venv/dev.stamp ## Check style and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# What nobody has imported yet, each process of the tests would compile for itself.
modules: .venv/dev.stamp
	@.venv/bin/pytest -qq --collect-only --no-header >.venv/modules.log || { cat .venv/modules.log; exit 1; }

browser: .venv/dev.stamp
	@sh scripts/browser.sh

format: .venv/dev.stamp ## Put imports and layout in order
	.venv/bin/ruff check --fix-only
	.venv/bin/ruff format

bench: .venv/dev.stamp ## Measure everything, beside Redis and Postgres (ARGS=--quick: in 5 minutes)
	$(TOGETHER) $(KERNELS)
	.venv/bin/python -m benchmarks.suite $(ARGS)

lock: .venv/runtime.stamp ## Resolve requirements*.txt again (ARGS=--upgrade: to the newest)
	sh scripts/lock.sh $(ARGS)

clean: ## Remove .venv, caches and build output, but never data
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find aggregator api kernels persistence benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

.venv/runtime.stamp: requirements.txt pyproject.toml
	@sh scripts/setup.sh requirements.txt $@

# The development lock includes the runtime one, so it makes both stamps.
.venv/dev.stamp: requirements-dev.txt pyproject.toml
	@sh scripts/setup.sh requirements-dev.txt .venv/runtime.stamp $@

# What is not compiled yet, each process that starts would compile for itself.
$(KERNELS): .venv/%.kernels: .venv/runtime.stamp $(wildcard kernels/*.py)
	@echo "setup: compiling the kernels of $*, this takes half a minute or so"
	@.venv/bin/python -m $*.warm_up
	@touch $@
