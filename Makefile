# Each target does its whole set-up. Another interpreter: make demo PYTHON=python3.12
PYTHON ?= python3
# One process more than cores: many tests wait, for another process or for a time to pass.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 1)')

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Python compiles what it imports; pip would compile all of torch and the others, most of which nobody imports.
INSTALL := $(PIP) install --no-compile -c constraints.txt
# Neighbours share what their file prepares, and a process that has nothing left takes over tests of another one.
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 9 --dist worksteal
INPUTS := setup.cfg pyproject.toml constraints.txt Makefile

# Where it is set, every process compiles torch anew: three seconds each, of which the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo digits mnist test test-fast test-long fuzz lint docs release matrix bench bench-gpu clean

help:
	@echo "make demo       run the quickstart suite and print its table"
	@echo "make digits     run every suite of the digits, and write results/reference/digits and docs/digits"
	@echo "make mnist      the same of MNIST, 32 images each; the first time it needs the network for images and checkpoints"
	@echo "make test       run the tests (WORKERS=N processes)"
	@echo "make test-fast  those of them that take seconds at most, in less than a minute"
	@echo "make test-long  the others: runs that are killed or hang, tutorials from nothing, installed wheels"
	@echo "make fuzz       the tests on random inputs, on inputs that no run has had before"
	@echo "make lint       ruff and mypy"
	@echo "make docs       build the documentation site into build/site, strictly and without the network"
	@echo "make release    build wheel and sdist, and try the wheel in an empty environment (PYTHON=python3.13)"
	@echo "make matrix     try the wheel with several versions of torch"
	@echo "make bench      run the benchmarks"
	@echo "make bench-gpu  time the paper's networks on a GPU, and write that section of benchmarks/RESULTS.md"
	@echo "make clean      remove the environment and the caches, never results"

demo: $(VENV)/.installed
	$(BIN)/harness run suites/quickstart.yaml --workers 2
	$(BIN)/harness report results/

digits: $(VENV)/.installed
	@for suite in suites/digits/*.yaml; do \
		name=`basename $$suite .yaml`; run=results/digits-$$name; \
		$(BIN)/harness run $$suite --out $$run && \
		case $$name in *randomness) $(BIN)/harness diagnose $$suite --largest-eot 16 --out $$run;; esac && \
		$(BIN)/harness report $$run --format csv --output results/reference/digits/$$name.csv && \
		$(BIN)/harness report $$run --format md --output docs/digits/$$name.md || exit 1; \
	done

mnist: $(VENV)/.installed
	@for suite in table1 table2 table3 fig2a fig2b fig2c sec44 ablations optimal_dc steady_gradients networks_of_ours table2_vit; do \
		run=results/mnist-$$suite; \
		$(BIN)/harness run suites/mnist/$$suite.yaml --limit 32 --out $$run && \
		$(BIN)/harness report $$run --format csv --output results/reference/mnist/$$suite.csv && \
		$(BIN)/harness report $$run --format md --output docs/mnist/$$suite.md || exit 1; \
	done

test: $(VENV)/.installed-test
	$(PYTEST) -m "not long"

test-fast: $(VENV)/.installed-test
	$(PYTEST) -m "not slow and not long"

test-long: $(VENV)/.installed-test
	$(PYTEST) -m long

fuzz: $(VENV)/.installed-test
	HYPOTHESIS_PROFILE=search $(PYTEST) `grep -rl "^from hypothesis" tests --include="test_*.py"`

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Wrote build/site/index.html"

release:
	$(PYTHON) scripts/release.py

matrix:
	$(PYTHON) scripts/release.py --torch 2.6 --torch newest

bench-gpu: $(VENV)/.installed-test
	$(BIN)/python benchmarks/gpu.py

bench: $(VENV)/.installed-test
	@for script in benchmarks/*.py; do echo "== $$script" && $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last, so that an interrupted installation is gone over again. torchattacks' wheel holds an old copy of
# robustbench: it goes first, without its dependencies, and what still lies on top of the real one is mended at the end.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	echo "$(PYTHON) is `$(PYTHON) --version 2>&1`, but Python 3.10 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
@echo "Installing into $(VENV); the first time this fetches torch and takes minutes"
@$(PYTHON) -m venv $(VENV)
@$(INSTALL) pip setuptools
@$(INSTALL) --no-deps torchattacks
@$(INSTALL) --no-warn-conflicts --no-build-isolation --editable '$(1)'
@$(BIN)/python -c 'import sys; from harness.cli.doctor import robustbench_whole as f; sys.exit(f().status != "passed")' || \
	$(INSTALL) --no-deps --force-reinstall robustbench
@touch $@
endef

$(VENV)/.installed: $(INPUTS)
	$(call install,.)

$(VENV)/.installed-test: $(INPUTS)
	$(call install,.[test])

$(VENV)/.installed-docs: $(INPUTS)
	$(call install,.[docs])

$(VENV)/.installed-dev: $(INPUTS)
	$(call install,.[dev])
