# Everything a person types: each target does its own set-up in .venv and needs nothing but Python and make.
PYTHON ?= python3
# One thread in each of the test processes: more only make them wait for each other. A process that crashes ends the run:
# pytest-xdist 3.8 may wait for ever for one that it started again.
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n auto --dist loadfile --max-worker-restart 0
BIN := .venv/bin
STAMP := .venv/.stamp

.PHONY: help setup demo wheel docs test test-slow lint format types clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## Create .venv with everything that make demo and make test need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[all,dev]"
	@touch $@

demo: $(STAMP)  ## Export the demo network to ONNX and INT8 TFLite, validate both, predict (no download)
	$(BIN)/edgeseg demo

wheel: $(STAMP)  ## Build dist/edgeseg-VERSION-py3-none-any.whl, to install without a package index
	$(BIN)/python -m pip wheel -q --no-deps --wheel-dir dist .
	@ls dist/*.whl

test: $(STAMP)  ## The fast tests
	$(PYTEST)

test-slow: $(STAMP)  ## The heavy tests
	$(BIN)/python -m pytest -q -m slow --durations=15

lint: $(STAMP)  ## Lint, formatting, and who imports whom
	$(BIN)/lint-imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(STAMP)  ## Build the docs site into build/docs/site; a broken link is an error
	$(BIN)/python scripts/make_docs.py build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -s -f build/docs/mkdocs.yml

types: $(STAMP)  ## Static types
	$(BIN)/mypy

format: $(STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove what the targets made
	rm -rf .venv build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
