# What a newcomer runs. `make demo` and `make test` each prepare what they need; nothing is
# prepared twice. PYTHON=… chooses the interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
# One more than there are cores, for tests wait as much as they compute; more than four help little.
WORKERS := $(shell n=$$(( $$(getconf _NPROCESSORS_ONLN) + 1 )); echo $$(( n > 4 ? 4 : n )))
# What src/polydev/desktop/packages.py names; a test holds the two alike.
DESKTOP := adwaita-icon-theme dbus-daemon firefox-esr fonts-dejavu-core fonts-noto-cjk \
  tigervnc-standalone-server wmctrl x11-utils x11-xserver-utils xdotool xfce4-panel \
  xfwm4 xterm

.PHONY: help setup demo up check lint test bench lock clean programs

help: ## Show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 14

setup: .venv/installed .venv/test-system programs ## Install everything: Python packages, Debian packages, the vendors' CLIs

demo: .venv/installed programs ## Show it working against the simulator, without any account
	@$(BIN)/polydev demo

up: .venv/installed programs ## Start the real thing on 127.0.0.1:8484
	@exec $(BIN)/polydev up

check: .venv/installed lint ## The fast half of the tests, about a minute
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow and not real"

test: setup lint ## Everything that CI runs
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

lint: .venv/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## Measure against the bare CLIs
	@$(BIN)/polydev bench

lock: .venv/installed ## Write all lock files anew from pyproject.toml and package.json
	scripts/lock

clean: ## Remove what was made here; the data directory stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/made:
	@scripts/make-venv .venv
	@touch $@

.venv/installed: .venv/made requirements/dev.txt pyproject.toml
	@echo "Installing Python packages …"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes \
	  -r requirements/dev.txt | sed -nu 's/^Collecting \([^ ]*\).*/  \1/p'
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv/test-system: .venv/made scripts/system-packages
	@scripts/system-packages postgresql chromium $(DESKTOP)
	@touch $@

# Looked at each time, since they lie outside this directory; quick when nothing is missing.
programs: .venv/installed
	@$(BIN)/polydev doctor --fix python sandbox programs
