# LoRAFit: `make run` sets up and opens the app; `make test` sets up and passes the tests; `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
# Torch threads that spin while they wait slow down everything else that runs.
export OMP_WAIT_POLICY ?= PASSIVE

# Random changes that the fast tests should notice: `make mutants SEED=2 MUTANTS=20`.
SEED ?= 1
MUTANTS ?= 60
# How many times to kill a run: `make soak KILLS=40`. The seed that it prints repeats its choices.
KILLS ?= 100
# How many hostile inputs the command lines then get; their seed is printed too.
INPUTS ?= 20000

# How long each training of the proof takes, and with how many seeds: `make proof SECONDS=300 SEEDS=5`.
SECONDS ?= 120
SEEDS ?= 3

.PHONY: run demo setup gguf mcp setup-test check test soak mutants accuracy architectures proof bench screenshots readme clean help

run: setup  ## set up and open the app at http://localhost:8501
	@$(BIN)/python -m scripts.serve

demo: setup  ## plan, memory and 30 training steps on the demo model, in the terminal
	@$(BIN)/python -m scripts.demo

setup:  ## packages and demo model only
	@$(PYTHON) scripts/setup.py

gguf: setup  ## what writes a run's model as GGUF for Ollama and llama.cpp (110 MB)
	@$(PYTHON) scripts/setup.py --gguf

mcp: setup  ## what the MCP server for agents needs
	@$(PYTHON) scripts/setup.py --mcp

setup-test:  ## the same, with test tools and Chromium
	@$(PYTHON) scripts/setup.py --test

check: setup-test  ## ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup-test  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: setup  ## kill workers at random moments, resume, and compare each run with one that was never killed: KILLS=100 INPUTS=20000
	@$(BIN)/python -m scripts.soak --kills $(KILLS)
	@$(BIN)/python -m scripts.fuzz_doors --count $(INPUTS)

mutants: setup-test  ## random changes of the code that the fast tests should notice: SEED=1 MUTANTS=60
	@$(BIN)/python -m scripts.mutants --seed $(SEED) --number $(MUTANTS)

accuracy: setup  ## predicted against measured memory, row by row
	@$(BIN)/python -m estimator accuracy

architectures: setup  ## which causal language models of transformers are traced, and why not the others; about ten minutes
	@$(BIN)/python -m scripts.facts.traces

proof: setup  ## advised plans against the fixed recipes of others, at equal time, into docs/proof.md; can be interrupted: SECONDS=120 SEEDS=3
	@$(BIN)/python -m scripts.proof --seconds $(SECONDS) --seeds $(SEEDS)

bench: setup-test  ## how long pages, estimates, advice and the reading of data take here
	@$(BIN)/python -m scripts.bench

screenshots: setup-test  ## pictures of every page, into docs/screenshots
	@$(BIN)/python -m scripts.screenshots

readme: setup  ## the generated parts of README.md and docs/architecture.md
	@$(BIN)/python -m scripts.readme

clean:  ## remove the virtual environment and the caches of tools
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1: \2/p' Makefile
