# make lab    play: JupyterLab on the first notebook          make test   every test, notebooks included
# make demo   the whole method without a browser               make check  style, types and the quick tests
# make lint   style and types                                  make notebooks   run all, refresh their outputs
# make torture   the long reliability campaigns                make architectures   every text model of transformers

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PORT   ?= 8888

# Jupyter refuses to run as root unless told; it listens on this machine alone and asks for its token
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

export TOKENIZERS_PARALLELISM ?= false

.PHONY: lab demo test check durations test-lessons torture architectures audit lint notebooks clean

lab: $(STAMP)
	cd notebooks && "$(abspath $(BIN))/jupyter" lab --ip=localhost --port=$(PORT) $(AS_ROOT) 00_start_here.ipynb

demo: $(STAMP)
	$(BIN)/python -m gdrop_viz demo --output build/demo.html

# One thread per worker: two workers share a small machine, and spinning threads would only slow each other down.
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE PYTHONPATH=.

test: $(STAMP) lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadscope --durations=10 -m "not browser" -p no:nbval --junitxml=build/tests.xml
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadscope --durations=5 notebooks
	$(ONE_THREAD) $(BIN)/python -m pytest -m "browser and not lesson" --durations=5 tests/browser

# while you work: style, types, and the tests that need less than a second each
check: $(STAMP) lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not browser" -p no:nbval --junitxml=build/check.xml

# which tests those are: tests/slow_tests.txt, from what `make test` and then `make check` have measured
durations: $(STAMP)
	PYTHONPATH=. $(BIN)/python -m tests.durations $(wildcard build/tests.xml build/check.xml)

# every lesson in a real JupyterLab and the data-paucity lesson as a Voila app: what nbval cannot see
test-lessons: $(STAMP)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m lesson --durations=0 tests/browser

# kills, damaged files, bad arguments, interrupts and endurance at full counts: half an hour on two cores; goes on
# where it was stopped. The table of what came of them is docs/reliability.md.
torture: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m tests.torture $(ONLY)

# every text model of the installed transformers against brute force: an hour on one core; goes on where it was stopped.
# The table of what came of them is docs/architectures.md.
architectures: $(STAMP)
	HF_HUB_OFFLINE=1 $(ONE_THREAD) $(BIN)/python -m tests.architectures

# known weaknesses of the pinned versions, from PyPI's database (needs the network); a tool of its own, not of the project
audit: $(STAMP)
	$(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit
	build/audit/bin/pip-audit --no-deps --disable-pip -r requirements.txt

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy gdrop_viz

notebooks: $(STAMP)
	$(BIN)/python notebooks/refresh.py

# A bare Debian has no ensurepip: then ask apt for it where we may, and say so where we may not.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python >= 3.10 is needed; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -q update && \
	  apt-get install -q -y python3-venv && $(PYTHON) -m venv $(VENV); } || \
	  { rm -rf $(VENV); echo "Python's venv module is missing. On Debian: apt-get install python3-venv"; exit 1; }

$(STAMP): requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

clean:
	rm -rf build dist .pytest_cache .ruff_cache
