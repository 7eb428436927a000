# Four commands: `make setup`, `make run`, `make test`, `make twin`.
# They need Python 3.11 to 3.13 with pip, and nothing else.
PYTHON ?= python3
# Kaggle has Python 3.12: where there is one, the twin has it too.
TWIN_PYTHON ?= $(shell for python in python3.12 "$$(pyenv prefix 3.12 2>/dev/null)/bin/python"; do \
    "$$python" --version >/dev/null 2>&1 && echo "$$python" && exit; done; echo $(PYTHON))
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: setup run test lint pairs notebooks twin

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "error: Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is " + sys.version.split()[0] + "; name another with PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

# The series on the data it finds: FLOWERS_DATA, what FLOWERS_KAGGLE or Kaggle mounts, else the built-in sample, drawn once and kept.
run: setup
	@$(BIN)/python -m flowerlib run --sample

test: lint pairs
	$(BIN)/pytest --ignore=tests/test_notebooks.py
	$(MAKE) --no-print-directory notebooks

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# Every .py equals its .ipynb, which has a kernelspec and no outputs.
pairs: setup
	$(BIN)/pytest tests/test_notebooks.py

# Every notebook on the built-in sample, in a folder of its own, so that nothing that lies about is read.
notebooks: setup
	$(BIN)/python -m flowerlib sample build/sample
	rm -rf build/notebooks && mkdir -p build && cp -r notebooks build/notebooks
	FLOWERS_DATA=$(CURDIR)/build/sample $(BIN)/pytest --nbmake --nbmake-timeout=900 build/notebooks

# Every kernel as it is sent to Kaggle, executed as Kaggle's TPU machine does: its packages, its mounts, no network.
twin: setup .twin/installed
	$(BIN)/python -m flowerlib sample build/sample
	$(BIN)/python tests/twin/run.py --python .twin/bin/python --data build/sample

.twin/installed: tests/twin/requirements.txt
	$(TWIN_PYTHON) -m venv .twin
	.twin/bin/pip install --quiet --requirement tests/twin/requirements.txt
	@touch $@
