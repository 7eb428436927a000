# `make help` lists the targets: the text after `##` on the line of each.
# They need Python 3.11 to 3.13 with pip, and nothing else.
PYTHON ?= python3
# Kaggle has Python 3.12: where there is one, the twin has it too.
TWIN_PYTHON ?= $(shell for python in python3.12 "$$(pyenv prefix 3.12 2>/dev/null)/bin/python"; do \
    "$$python" --version >/dev/null 2>&1 && echo "$$python" && exit; done; echo $(PYTHON))
BIN := .venv/bin
INSTALLED := .venv/installed
# On all cores, at most four: each process takes up to 5 GB.
PARALLEL := --numprocesses=logical --maxprocesses=4 --dist worksteal

.PHONY: help setup run test lint pairs notebooks twin versions
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(INSTALLED)  ## set up .venv with everything, 3.6 GB

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "error: Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is " + sys.version.split()[0] + "; name another with PYTHON=")'
	$(PYTHON) -m venv .venv

$(INSTALLED): pyproject.toml requirements.txt | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

# What running needs, and no test tools.
.venv/runs: pyproject.toml requirements.txt | .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

# The series on the data it finds: FLOWERS_DATA, what FLOWERS_KAGGLE or Kaggle mounts, else the built-in sample, drawn once and kept.
run: .venv/runs  ## run the whole series, leave outputs/index.html
	@$(BIN)/python -m flowerlib run --sample

test: lint pairs  ## lint, check types and pairs, run the tests and every notebook
	$(BIN)/pytest $(PARALLEL) --ignore=tests/test_notebooks.py
	$(MAKE) --no-print-directory notebooks

lint: setup  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Every .py equals its .ipynb, which has a kernelspec and no outputs.
pairs: setup  ## check that every .ipynb is what its .py says
	$(BIN)/pytest tests/test_notebooks.py

# Every notebook on the built-in sample, in a folder of its own, so that nothing that lies about is read.
notebooks: setup  ## run every notebook on the built-in sample
	$(BIN)/python -m flowerlib sample build/sample
	rm -rf build/notebooks && mkdir -p build && cp -r notebooks build/notebooks
	FLOWERS_DATA=$(CURDIR)/build/sample $(BIN)/pytest $(PARALLEL) --dist load --nbmake --nbmake-timeout=900 \
	    --deselect build/notebooks/20_ensemble.ipynb build/notebooks
	FLOWERS_DATA=$(CURDIR)/build/sample $(BIN)/pytest --nbmake build/notebooks/20_ensemble.ipynb

# Kernels as they are sent to Kaggle, executed as Kaggle's machines do: their packages, their mounts, no network. All as on
# the machine with a TPU, then those that need no accelerator, and one that trains, as on the one with GPUs.
twin: setup .twin/tpu/installed .twin/gpu/installed  ## run Kaggle's kernels as its machines would
	$(BIN)/python -m flowerlib sample build/sample
	for machine in tpu gpu; do \
	    $(BIN)/python tests/twin/run.py $$machine --python .twin/$$machine/bin/python --data build/sample || exit 1; \
	done

.twin/%/installed: tests/twin/%.txt
	$(TWIN_PYTHON) -m venv .twin/$*
	.twin/$*/bin/pip install --quiet --requirement $<
	@touch $@

# The tests, and two notebooks on both backends, with the packages of Kaggle's CPU and GPU image, then with the oldest
# that requirements.txt allows.
versions: .versions/kaggle/installed .versions/oldest/installed setup  ## run the tests with Kaggle's and with the oldest packages
	$(BIN)/python -m flowerlib sample build/sample
	for python in .versions/kaggle/bin/python .versions/oldest/bin/python; do \
	    $$python -m pytest $(PARALLEL) --ignore=tests/test_notebooks.py || exit 1; \
	    for backend in tensorflow jax; do \
	        rm -rf build/versions; \
	        KERAS_BACKEND=$$backend $$python -m flowerlib run 00_quickstart 03_finetune --data build/sample --out build/versions \
	            || exit 1; \
	    done; \
	done

.versions/kaggle/installed: tests/versions/kaggle.txt pyproject.toml requirements.txt
	$(TWIN_PYTHON) -m venv .versions/kaggle
	.versions/kaggle/bin/pip install --quiet --editable '.[test]' --constraint tests/versions/kaggle.txt
	@touch $@

.versions/oldest/installed: tests/versions/oldest.txt pyproject.toml requirements.txt
	$(PYTHON) -m venv .versions/oldest
	.versions/oldest/bin/pip install --quiet uv
	.versions/oldest/bin/uv pip install --quiet --python .versions/oldest/bin/python --resolution lowest-direct \
	    --constraint tests/versions/oldest.txt --editable '.[test]'
	@touch $@
