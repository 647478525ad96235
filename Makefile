# make demo and make test do all set-up themselves: Python 3.11+ and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
# Tests run in so many processes: most of them wait for other processes most of the time.
JOBS ?= 2
# Nothing that runs here reports to anyone.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: help setup demo test chaos writers storms outage soak fuzz bench bench-alerts mlflow-versions check format clean

help:
	@echo "make demo    watch metricwatch do its whole job once, offline"
	@echo "make test    run all tests"
	@echo "make check   lint, types and import contracts; make format mends what can be mended"
	@echo "make chaos   kill daemon and worker 1,000 times and compare with a run without faults (20 to 60 minutes)"
	@echo "make writers, storms, outage, soak, fuzz   what else goes wrong in weeks, at its full size"
	@echo "make bench          what evaluations cost beside their networks, and the daemon at rest"
	@echo "make bench-alerts   false alerts, and how soon the true ones come, of many rules on synthetic curves"
	@echo "make mlflow-versions   the MLflow sink against real servers of other versions (needs a package index; minutes)"
	@echo "make setup   only set up .venv; make clean removes it"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "metricwatch needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' $(PLUGINS:%=-e ./%)
	touch $@

demo: setup
	$(BIN)/metricwatch demo

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# The suites of chance at their full size; make test runs a small part of each. SEED=1 tries another chance.
SEED ?= 0
FULL := $(BIN)/python -m pytest --full-size --seed $(SEED)

chaos: setup
	$(FULL) -s tests/chaos/test_kills.py

writers: setup
	$(FULL) tests/chaos/test_writers.py

storms: setup
	$(FULL) tests/chaos/test_storms.py

outage: setup
	$(FULL) -s tests/chaos/test_outage.py

soak: setup
	$(FULL) -s tests/chaos/test_soak.py

# Each prints a table; --help of each module names its sizes.
bench: setup
	$(BIN)/python -m tests.bench.pipeline
	$(BIN)/python -m tests.bench.daemon

fuzz: setup
	$(BIN)/python -m tests.chaos.fuzz_readers --seconds 600 --seed $(SEED)

# What alert rules find and how often they cry wolf, on curves of which the truth is known (four minutes of one core).
bench-alerts: setup
	$(BIN)/python -m tests.bench.alerts --seed $(SEED) --jobs $(JOBS) --details

# Real servers of other versions, each in an environment of its own that is removed afterwards. SQLAlchemy 2.1 has not
# what MLflow 2 and 3.1 import.
MLFLOW_VERSIONS ?= 2.9.2 2.22.5 3.1.4

mlflow-versions: setup
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && pythons= && for version in $(MLFLOW_VERSIONS); do \
	  $(PYTHON) -m venv "$$folder/$$version" && \
	  "$$folder/$$version/bin/python" -m pip install --quiet "mlflow==$$version" 'sqlalchemy<2.1' 'setuptools<80' || exit 1; \
	  pythons="$$pythons:$$folder/$$version/bin/python"; \
	done && SERVER_PYTHONS="$$pythons" $(BIN)/python -m pytest tests/integration/test_mlflow_versions.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) metricwatch-demo .mypy_cache .ruff_cache .import_linter_cache .hypothesis
