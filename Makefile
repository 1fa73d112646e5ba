# `make demo` and `make test` install what they need into .venv, then run; `make help` lists the rest.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# What tests/ starts as real servers: an RTSP server of GStreamer, and MQTT.
SERVERS := mosquitto python3-gi gir1.2-gst-rtsp-server-1.0 \
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly
EXTRAS := train,live,openvino,plots,tensorboard,rtx,dev

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test servers lint format wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'Options: ARGS="..." is passed on to the command, PYTHON=python3.12 picks the interpreter.'

# Anew when the dependencies change; an installation that was broken off leaves no stamp.
$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
	    { echo "Error: $(PYTHON) was not found. Install Python 3.10 or later, or say PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "Error: mip-edge needs Python 3.10 or later, but $(PYTHON) is $$($(PYTHON) -V 2>&1). Say PYTHON=python3.12 (or later)." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "Error: $(PYTHON) lacks the venv module. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing mip-edge and its dependencies into $(VENV) (once; some minutes)"
	@rm -f $@
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(INSTALLED) ## synthetic day and night: train, evaluate, export, match on two cameras
	$(BIN)/mip-edge demo --overwrite $(ARGS)

test: $(INSTALLED) ## run the tests
	$(BIN)/python -m pytest $(ARGS)

servers: ## install the real servers that tests need (RTSP, MQTT), with apt-get
	@command -v apt-get >/dev/null || \
	    { echo "Error: there is no apt-get here. Install by other means what Debian calls: $(SERVERS)" >&2; exit 1; }
	@dpkg -s $(SERVERS) >/dev/null 2>&1 || \
	    { [ "$$(id -u)" = 0 ] || { echo "Error: apt-get needs root. Say: sudo make servers" >&2; exit 1; }; \
	    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $(SERVERS); }
	@echo 'The servers are installed. To run the tests that use them: MIP_EDGE_TEST_SERVERS=1 make test'

lint: $(INSTALLED) ## ruff (lint and format), mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## let ruff format the code and sort the imports
	$(BIN)/ruff check --fix-only --select I .
	$(BIN)/ruff format .

wheel: $(INSTALLED) ## build dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation $(ARGS)

clean: ## remove the environment, caches and built wheels (runs/ stays)
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
