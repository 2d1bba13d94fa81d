PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CORPUS := corpora/python_source.jsonl
DEMO := runs/demo

.PHONY: demo test lint

# A GPT from scratch, offline: Python code to read, a tokenizer and a model trained on it, its scores, some code of its own.
demo: $(READY)
	@rm -rf $(DEMO)
	$(BIN)/hf-finetune corpus source $(CORPUS) --max-bytes 8000000 --overwrite
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune train recipes/configs/python_code.yaml output_dir=$(DEMO) --on cpu
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune generate $(DEMO) "def read_lines(path):" "class Stack:" --max-new-tokens 80

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The set-up, made anew when what it installs has changed.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)
