# EMA Lab. Linux, macOS or WSL, Python 3.11 or newer; another Python: make setup PYTHON=python3.12
# ARGS goes to the program: make app ARGS="--port 8600", make test ARGS="-k kl -x"

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
BOOTSTRAP = @$(PYTHON) scripts/bootstrap.py
PYTEST = HF_HUB_OFFLINE=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup app test test-fast lint reference screenshots bench bench-quick bench-growth clean

help:
	@echo "make setup      prepare everything: packages and the embedded model"
	@echo "make app        open the dashboard, after preparing what of the packages is missing"
	@echo "make test       all tests"
	@echo "make test-fast  those that need neither a browser nor minutes"
	@echo "make lint       style, import layers, types"
	@echo "make screenshots  pictures of every page into docs/img"
	@echo "make bench      speed and memory against what people would use instead (under 40 minutes on two cores)"
	@echo "make bench-quick  the same with fewer repeats and less work (under 5 minutes)"
	@echo "make bench-growth  how time and memory grow with tokens, batch, vocabulary, runs and rows"
	@echo "make reference  write docs/reference/ from the code"
	@echo "make clean      remove .venv and caches; your runs and models stay"

setup:
	$(BOOTSTRAP) model

app:
	$(BOOTSTRAP)
	@exec .venv/bin/ema app $(ARGS)

# Two files at a time; those with a browser apart, since they wait for real seconds. Exit code 5: ARGS chose no test of this part.
test:
	$(BOOTSTRAP) model dev chromium
	$(PYTEST) -m "not browser" $(ARGS) || [ $$? -eq 5 ]
	$(PYTEST) -m browser $(ARGS) || [ $$? -eq 5 ]

test-fast:
	$(BOOTSTRAP) model dev
	$(PYTEST) -m "not slow and not browser" $(ARGS)

lint:
	$(BOOTSTRAP) dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports
	.venv/bin/mypy ema_core

# ARGS="--home FOLDER --only compare,chat"
screenshots:
	$(BOOTSTRAP) model dev chromium
	HF_HUB_OFFLINE=1 .venv/bin/python -m scripts.screenshots $(ARGS)

reference:
	$(BOOTSTRAP) dev
	.venv/bin/python scripts/reference.py

# ARGS="--only training" for some topics or rows
bench:
	$(BOOTSTRAP) model dev chromium peers
	.venv-bench/bin/python -m benchmarks.bench $(ARGS)

bench-quick:
	$(BOOTSTRAP) model dev chromium peers
	.venv-bench/bin/python -m benchmarks.bench --quick $(ARGS)

# ARGS=--rows-too for five million rows
bench-growth:
	$(BOOTSTRAP) model dev
	OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 .venv/bin/python -m benchmarks.growth $(ARGS)

clean:
	$(BOOTSTRAP) clean
