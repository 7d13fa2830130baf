# Recipes use relative paths only: the checkout's own path may hold spaces.
PYTHON ?= python3
# A Python that somebody named is used as it is; else the system's is taken where it was built better (scripts/bootstrap.py).
AS_IS := $(if $(filter command environment,$(origin PYTHON)),--as-is)
MINUTES ?= 5
ROWS ?= 10000000
ARGS ?=
BEGAN := $(shell date +%s)
RUN := .venv/bin/weighbridge
PY := PYTHONPATH=. .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run demo test check bench bench-books soak model figure migrate

help: ## Show what there is
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /|/' | while IFS='|' read -r name text; do \
		printf '  make %-11s %s\n' "$$name" "$$text"; done

setup: ## Make .venv from locks/gateway.txt (done by the others where needed)
	@$(PYTHON) scripts/bootstrap.py $(AS_IS)

setup-dev: ## Make .venv with what tests and checks need too
	@$(PYTHON) scripts/bootstrap.py --dev $(AS_IS)

run: setup ## Start everything; Ctrl-C stops it
	@$(RUN) up

demo: setup-dev ## Beside a running gateway: three clients and the ledger rows they made
	@$(PY) -m scripts.demo

test: ## All tests; ARGS="tests/policies -x" for some
	@$(if $(ARGS),$(PYTHON) scripts/bootstrap.py --dev $(AS_IS),$(PYTHON) -m tests.set_up $(BEGAN) $(AS_IS))
	@# What is imported is compiled once, not by each of the hundreds of processes that the tests start.
	@PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup-dev ## Format, lint, types, import contracts
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m basedpyright
	@PYTHONPATH=. .venv/bin/lint-imports

bench: setup-dev ## Measure the gateway's cost a call; prints no figure unless the books balance
	@$(PY) -m bench $(ARGS)

bench-books: setup-dev ## Fill a ledger with ROWS=10000000 through the posting path, then time reports and draining
	@$(PY) -m bench.ledger --rows $(ROWS) $(ARGS)

soak: setup-dev ## Load with faults for MINUTES=5, then the books
	@$(PY) -m pytest tests/soak --minutes=$(MINUTES) $(ARGS)

model: setup ## Train the demo model and its SQL adapter again from their corpora; print their scores
	@$(PY) -m engines.local.environment "$${WEIGHBRIDGE_HOME:-var}/engine-venv"
	@PYTHONPATH=. "$${WEIGHBRIDGE_HOME:-var}/engine-venv/bin/python" -m engines.local.model.train $(ARGS)
	@PYTHONPATH=. "$${WEIGHBRIDGE_HOME:-var}/engine-venv/bin/python" -m engines.local.model.adapt

figure: setup ## Time a sparse layer against the equal dense one, and draw it beside its prediction
	@$(PY) -m engines.local.environment "$${WEIGHBRIDGE_HOME:-var}/engine-venv"
	@PYTHONPATH=. "$${WEIGHBRIDGE_HOME:-var}/engine-venv/bin/python" -m bench.layer $(ARGS)

migrate: setup ## Bring the database named by the environment to this version
	@$(RUN) migrate
