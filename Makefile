# make help lists the targets. Every target makes and reuses .venv, and fetches what it lacks.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
WORKERS ?= 3
FASHION := /usr/share/datasets/fashion-mnist

.PHONY: help demo test test-slow check bench clean
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

$(STAMP): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "sdc needs Python 3.10 or newer; try make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip setuptools wheel
	$(BIN)/python -m pip install -q --no-build-isolation -e '.[dev]'
	touch $@

# Fashion-MNIST: Debian's package where apt is at hand and we may use it; elsewhere `sdc extract` downloads it.
.PHONY: data
data:
	@test -d $(FASHION) || { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] \
	  && apt-get update -qq && apt-get install -y -qq dataset-fashion-mnist; } \
	  || echo "Fashion-MNIST will be downloaded"

demo: $(STAMP) data ## images to searchable codes on Fashion-MNIST, 12k images, under 6 minutes
	bash bench/demo.sh

test: $(STAMP) data ## the test suite and what it covers, under 6 minutes on 2 cores
	$(BIN)/python -m slipcover -m pytest -n $(WORKERS)
	$(BIN)/python tests/support/covered.py

test-slow: $(STAMP) data ## what takes longer: many kills, full-size runs; under 25 minutes
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

check: $(STAMP) ## lint, types, layers, and the shape of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/structure.py

bench: $(STAMP) data ## every benchmark, each checks its result before it prints
	for file in bench/*_bench.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean: ## remove the demo's and the builds' files
	rm -rf demo build dist *.egg-info
