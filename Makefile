# make lab    play: JupyterLab on the first notebook          make test   every test, notebooks included
# make demo   the whole method without a browser               make lint   ruff
# make notebooks   run all notebooks and refresh their outputs

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PORT   ?= 8888

# Two threads and no hub: the bundled models need neither more nor the network.
export TOKENIZERS_PARALLELISM ?= false

.PHONY: lab demo test lint notebooks clean

lab: $(STAMP)
	cd notebooks && "$(abspath $(BIN))/jupyter" lab --port=$(PORT) 00_start_here.ipynb

demo: $(STAMP)
	$(BIN)/python -m gdrop_viz demo --output build/demo.html

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadscope --durations=12
	$(BIN)/python -m pytest tests/notebooks -p no:doctest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

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
