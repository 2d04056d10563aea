# Ingot's commands. Each does its own set-up: `make demo`, `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3 python,\
            $(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
BIN := .venv/bin
CACHE := .model-cache
MINILM := $(CACHE)/minilm
PARTS := compiler passes backends plugins models

# Two test processes on two cores: a third would only take turns with them.
JOBS ?= 2

# A strict editable install links single files, so a file that comes or goes needs a new one; a changed file does not.
$(shell mkdir -p build && find $(PARTS) -name '*.py' | LC_ALL=C sort > build/files.new && \
        { cmp -s build/files.new build/files || cp build/files.new build/files; })

.PHONY: help setup demo test lint types wheel test-wheel bench clean

help:
	@echo 'make setup       .venv with Ingot and all that its tests need'
	@echo 'make demo        compile the real MiniLM, search with it, compare speed and accuracy'
	@echo 'make test        lint, types, tests (pytest arguments: make test ARGS="tests/file -x")'
	@echo 'make wheel       an installable wheel in dist/'
	@echo 'make test-wheel  the tests against that wheel, installed in a venv of its own'
	@echo 'make bench       every benchmark and its bars (some only: make bench ARGS="size load_time")'
	@echo 'make clean       remove what these made, but for .venv and downloaded weights'

setup: .venv/.installed

.venv/.installed: setup.py pyproject.toml compiler/version.py build/files
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed; make setup PYTHON=/path/to/it' >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(MINILM)/model.safetensors: | .venv/.installed
	@$(BIN)/python -m ingot.models.fetch minilm $(MINILM)

demo: .venv/.installed $(MINILM)/model.safetensors
	@$(BIN)/python -m benchmarks.demo $(MINILM) minilm.ingot

test: lint types $(if $(INGOT_OFFLINE),,$(MINILM)/model.safetensors)
	$(BIN)/pytest -n $(JOBS) $(ARGS)

lint: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# mypy reads what the tests import: conftest links it together.
types: .venv/.installed
	@$(BIN)/python tests/conftest.py
	MYPYPATH=build/checkout $(BIN)/mypy --strict -p ingot -p benchmarks

# Built from a clean copy of what git would hold: setuptools puts whatever lies in build/lib into the wheel.
wheel: .venv/.installed
	@rm -rf build/source dist && mkdir -p build/source
	@cp -R $(PARTS) setup.py pyproject.toml README.md LICENSE build/source
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist build/source
	@ls dist/*.whl

# The base install is fresh, so that a missing requirement shows; what the tests need besides comes from .venv.
test-wheel: wheel $(MINILM)/model.safetensors
	@rm -rf build/wheel-venv && $(BIN)/python -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	build/wheel-venv/bin/ingot --version
	build/wheel-venv/bin/ingot env > /dev/null
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$(build/wheel-venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"
	INGOT_TEST_INSTALLED=1 build/wheel-venv/bin/python -P -m pytest -n $(JOBS) $(ARGS)

bench: .venv/.installed $(MINILM)/model.safetensors
	@$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info minilm.ingot
	rm -rf $(CACHE)/bench
	rm -f .venv/.installed
