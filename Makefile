# LoRAFit: `make run` sets up and serves the app; `make test` sets up and runs the tests.
PYTHON ?= python3
BIN := .venv/bin
# Torch threads that spin while they wait slow down everything else that runs.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: run demo setup setup-test check test accuracy screenshots readme clean

run: setup
	@$(BIN)/python -m scripts.serve

demo: setup
	@$(BIN)/python -m scripts.demo

setup:
	@$(PYTHON) scripts/setup.py

setup-test:
	@$(PYTHON) scripts/setup.py --test

check: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

accuracy: setup
	@$(BIN)/python -m estimator accuracy

screenshots: setup-test
	@$(BIN)/python -m scripts.screenshots

readme: setup
	@$(BIN)/python -m scripts.readme

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
