PYTHON ?= python3
BIN := .venv/bin

.PHONY: app test lint train-tiny benchmark bench chromium

app: .venv/app-installed          ## set up and open the app
	$(BIN)/python app.py

test: .venv/dev-installed chromium  ## set up and run every test that this machine can run, the browser's alone
	$(BIN)/python -m pytest tests/browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --ignore tests/browser

lint: .venv/dev-installed         ## style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

train-tiny: .venv/dev-installed   ## train the embedded model from nothing, on all GPUs of this machine
	PATH="$(CURDIR)/$(BIN):$$PATH" bash training/tiny/train_tiny.sh

benchmark: .venv/dev-installed data/pack/pack.json  ## score the embedded model on held-out pairs
	$(BIN)/python -m training.evaluate --model assets/sama-tiny --out docs/benchmark --per-task 10 --sheets 4

bench: .venv/app-installed        ## speed and memory of an edit on this machine, in about five minutes
	$(BIN)/python -m benchmarks.speed --out runs/bench

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/app-installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -r requirements.txt
	touch $@

.venv/dev-installed: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	touch $@

# The material of drawn pairs, from package registries by their ordinary clients (npm, pip, apt-get): 340 MB fetched.
data/pack/pack.json: | .venv/dev-installed
	$(BIN)/python -m training.synth.ingredients --out data/pack

# The browser tests drive the system's Chromium (Debian's package); without one they say that they were skipped.
chromium:
	@command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium) >/dev/null 2>&1 || true
