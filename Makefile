# make demo   environment, the main job on the bundled sample, a report to open from disk
# make test   environment, lint, types, all tests: those of times, the suite, the slow ones

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SUITE = $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 1 --durations 12
DEMO ?= demo

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	CLIPPERF_HOME=$(CURDIR)/$(DEMO)/store CLIPPERF=$(BIN)/clipperf sh tools/demo.sh $(DEMO)

test: lint
	$(BIN)/python -m pytest -m timing
	$(SUITE) -m "not timing and not slow"
	$(SUITE) -m "slow and not timing"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "clipperf needs Python 3.11 to 3.13: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[export]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[export,dev,eval,trt-rtx,ort-trt-rtx,openvino-int8,ray]'
	# Types only: what that package depends on cannot be installed without NVIDIA's own index.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'tensorrt-stubs==10.13.0.35.1'
	$(BIN)/python tools/typing_stubs.py build/stubs
	touch $@

clean:
	rm -rf $(VENV) $(DEMO)
