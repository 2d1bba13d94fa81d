PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CORPUS := corpora/python_source.jsonl
QUESTIONS := corpora/python_docstrings.jsonl
DEMO := runs/demo

.PHONY: demo test lint

# Offline, from nothing to a model that answers: Python code to read, a tokenizer and a GPT trained on it, and a LoRA
# adapter that turns it to questions about Python; scores, and the answers before and after.
demo: $(READY)
	@rm -rf $(DEMO) $(DEMO)-lora
	$(BIN)/hf-finetune corpus source $(CORPUS) --max-bytes 8000000 --overwrite
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune train recipes/configs/python_code.yaml output_dir=$(DEMO) train.max_steps=250 --on cpu
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune generate $(DEMO) "def read_lines(path):" "class Stack:" --max-new-tokens 80
	$(BIN)/hf-finetune corpus docstrings $(QUESTIONS) --overwrite
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune train recipes/configs/python_docstrings.yaml model.path=$(DEMO) output_dir=$(DEMO)-lora --on cpu
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune generate $(DEMO)-lora "How do I call zipfile.ZipFile.extract?" --base --temperature 0 --max-new-tokens 24

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The set-up, made anew when what it installs has changed.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)
