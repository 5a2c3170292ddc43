# Each target sets up what it needs: a .venv made with this machine's own python3 and pip, installed once.
PYTHON ?= python3
MINUTES ?= 10
BIN := .venv/bin
STAMP := .venv/.installed
EXTRAS := .venv-extras/.installed
# Files of tests run side by side, in at most four processes of one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
SITE := import site; print(site.getsitepackages()[0])

.DEFAULT_GOAL := help
.PHONY: help demo test long cells processes fast extras lint bench docs golden api pictures reproduce clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "unmask needs Python 3.11 or newer and finds no $(PYTHON): install it, or say make PYTHON=/path/to/python3."; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"unmask needs Python 3.11 or newer and {sys.executable} is {v[0]}.{v[1]}: say make PYTHON=/path/to/a/newer/python3.")'
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian, Ubuntu: apt-get install python3-venv)."; exit 1; }
	@echo "Installing unmask and what it needs into .venv (once; some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,plots]'
	@touch $@

demo: $(STAMP) ## Show the main job on the bundled model, offline
	@$(BIN)/unmask demo

test: $(STAMP) ## Run all tests but the commands of the docs, long runs, cells of unmask reproduce and several processes
	@$(PYTEST) -m "not fences and not long and not cells and not processes"

long: $(STAMP) ## Run the tests of whole commands that take half a minute and more
	@$(PYTEST) -m long

cells: $(STAMP) ## Run the tests that do cells of unmask reproduce
	@$(PYTEST) -m cells

processes: $(STAMP) ## Run the tests that start several processes of a run
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m processes

fast: $(STAMP) ## Run the tests without the slow ones
	@$(PYTEST) -m "not slow and not processes"

# The packages of .venv are seen from .venv-extras, which then has the libraries of the extras alone.
$(EXTRAS): $(STAMP)
	@$(PYTHON) -m venv .venv-extras
	@$(BIN)/python -c '$(SITE)' > "$$(.venv-extras/bin/python -c '$(SITE)')/venv.pth"
	@echo "Installing the libraries of the extras into .venv-extras (once; some minutes) ..."
	@.venv-extras/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[hf,int8,antibody,tasks,harness,browser,constrain,openai,ray]'
	@touch $@

extras: $(EXTRAS) ## Run the tests that need libraries of an extra, in an environment that has them; a skip is a failure
	@.venv-extras/bin/python -m pytest -m extras --no-skips

lint: $(STAMP) ## Check style, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

# An interrupted run keeps what is done; only a cell that failed is a failure.
reproduce: $(STAMP) ## Run the comparisons of MDLM at the fast scale, as many as MINUTES=10 allow
	@timeout --signal=INT $(MINUTES)m $(BIN)/unmask reproduce mdlm --fast --out runs/fast > /dev/null; code=$$?; \
	  [ $$code = 0 ] || [ $$code = 124 ] || exit $$code
	@! grep -l '"state": "failed"' runs/fast/cells/*.json

bench: $(STAMP) ## Measure training and decoding on this machine (JSON)
	@$(BIN)/unmask bench train --json
	@$(BIN)/unmask bench decode --json
	@$(BIN)/unmask bench ancestral --json

docs: $(STAMP) ## Run the commands and examples of README and docs (SHARD=1/3: a third of the pages)
	@$(BIN)/python -m pytest -m fences --durations=0 tests/e2e/test_docs.py

golden: $(STAMP) ## Rewrite the golden files from what the code does now (then read the diff)
	@$(BIN)/python -m pytest --golden tests/golden tests/laws/test_resume.py -k golden

api: $(STAMP) ## Write docs/api.md from the docstrings
	@$(BIN)/python tools/api_page.py

pictures: $(STAMP) ## Write the outputs and pictures of README, and draw who imports whom (docs/pictures)
	@$(BIN)/python tools/page_outputs.py
	@$(BIN)/python tools/import_picture.py

clean: ## Delete the virtual environment and caches
	@rm -rf .venv .venv-extras .pytest_cache .ruff_cache .hypothesis
