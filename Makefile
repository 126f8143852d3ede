# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make reproduce   install, run the lab, write figures/lab/
#   make test        install, check style, run every component notebook and the tests
# two more train real students and make the site:
#   make real        pretrained students on real questions: hours, resumable
#   make docs        install, write _docs/
# and before a release
#   make test-long   the tests that `make test` leaves out because each takes most of a minute
SHELL := /bin/bash
PYTHON ?= python3
PROFILE ?= lab
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
PAGES := $(wildcard nbs/[0-9]*.ipynb nbs/guides/*.ipynb) nbs/lab_results.ipynb nbs/index.ipynb
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: reproduce real test test-long install notebooks readme types docs clean
reproduce: install
	@echo "== reproduce: profile $(PROFILE); interrupt at will, finished runs are kept"
	$(BIN)/cot-distill reproduce --profile $(PROFILE)

# pretrained students on real questions; see [real] in settings.ini for what it needs
real: install
	$(PIP) -e ".[gguf]"
	$(BIN)/cot-distill students
	$(BIN)/cot-distill reproduce --profile real

test: install
	@echo "== notebooks: style, clean, in step with the package, run from top to bottom"
	$(BIN)/python tests/notebooks.py
	@echo "== tests"
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

test-long: install
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(BIN)/pytest -m long

# installed once for the versions in constraints.txt; changed requirements install again
install: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	@echo "== install into .venv (once, about two minutes)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e ".[dev]"
	touch $@

# run every component notebook in place and keep its outputs; README.md from the index
notebooks: install
	$(BIN)/python tests/notebooks.py --badges
	$(BIN)/nbdev-export
	for nb in $(PAGES) nbs/experiments/table_*.ipynb; do \
	  echo $$nb; \
	  $(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute --inplace $$nb || exit 1; \
	done
	$(BIN)/nbdev-clean
	$(MAKE) readme

readme: install
	$(BIN)/python tests/notebooks.py --readme

# type hints, as far as they go
types: install
	$(PIP) -e ".[types]"
	$(BIN)/basedpyright

docs: install
	$(PIP) -e ".[docs]"
	$(BIN)/sphinx-build -W --keep-going -c docs nbs _docs

clean:
	rm -rf data/cache data/results/lab _docs jupyter_execute
