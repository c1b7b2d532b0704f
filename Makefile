# make demo   register two synthetic subjects and show the report
# make test   run every test
# make gpu    compare a GPU with the CPU
# make lint   style and types; make docs: the documentation under site/; make clean: start afresh
#
# A CPU build of PyTorch: make demo TORCH_INDEX=<address of PyTorch's index of CPU wheels>

PYTHON ?= python3
VENV ?= .venv
DEMO_OUTPUT ?= demo-output
TEST_JOBS ?= 2
TORCH_INDEX ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test gpu lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.package
	$(BIN)/deepreg_wf-demo $(DEMO_OUTPUT)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

gpu: $(VENV)/.package
	$(BIN)/python tools/gpu_check.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site

# PyTorch comes first and alone, so that the index above serves it and nothing else.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing PyTorch into $(VENV)'
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	touch $@

$(VENV)/.package: $(VENV)/.torch pyproject.toml
	@echo 'Installing deepreg_wf and what it needs into $(VENV)'
	$(INSTALL) --editable .
	touch $@

$(VENV)/.test $(VENV)/.docs $(VENV)/.dev: $(VENV)/.%: $(VENV)/.package
	$(INSTALL) --editable '.[$*]'
	touch $@
