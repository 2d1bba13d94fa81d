"""Answers of a batch against one by one: the same prompts, the same model, greedy, on the CPU or a GPU.

    python benchmarks/batched_generation.py [--model FOLDER] [--preset nano] [--prompts 64]
        [--tokens 64] [--batch-size 16] [--rounds 5]

Both sides are `generate_batch`, as in `hf-finetune score`; one by one has a batch size of 1. They take turns; medians
of the wall times are compared, and the texts with those of `hf-finetune generate`, which goes prompt by prompt. Without
a model, a ScratchGPT of a preset with random weights is measured that ends no text before its limit: each side
generates the same number of tokens.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.template import encode_prompt, load_chat_template
from hf_finetune.config.sections import DataSection, EvalSection, ScratchSection
from hf_finetune.evaluation.generation.batch import generate_batch
from hf_finetune.evaluation.generation.prompts import answer_prompts
from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.scratch_gpt import ScratchGPTForCausalLM
from hf_finetune.models.scratch_presets import build_scratch_config
from hf_finetune.models.tokenizer_training import train_tokenizer

WORDS = [f"word{number}" for number in range(2_000)]
BYTES_AND_SPECIAL = 256 + 3  # the first tokens of a `bpe` tokenizer of ours


def random_model(preset: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = train_tokenizer("bpe", [" ".join(WORDS)] * 2, 2_000)
    load_chat_template(DataSection(train="none"), tokenizer)
    config = build_scratch_config(
        ScratchSection(preset=preset),
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = ScratchGPTForCausalLM(config)
    with torch.no_grad():  # a fresh model's branches are silent, and all its tokens alike
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        # It says words, as a model that was trained: neither its special tokens nor single bytes.
        model.lm_head.weight[:BYTES_AND_SPECIAL] = 0.0
    return model.eval(), tokenizer


def some_prompts(number: int) -> list[str]:
    chosen = random.Random(0)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(2, 12))) for _ in range(number)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    model, tokenizer = load_for_generation(options.model) if options.model else random_model(options.preset)
    if torch.cuda.is_available():
        model.to("cuda")
    settings = EvalSection(temperature=0, max_new_tokens=options.tokens)
    prompts = some_prompts(options.prompts)
    ids = [encode_prompt(tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]
    said: dict[int, list[str]] = {}

    def timed(batch_size: int) -> tuple[float, float]:
        """Seconds by the clock and of all cores."""
        start, start_of_cores = time.perf_counter(), time.process_time()
        answers = generate_batch(model, tokenizer, ids, settings, batch_size=batch_size)
        said[batch_size] = [answer.text for answer in answers]
        return time.perf_counter() - start, time.process_time() - start_of_cores

    expected = [sample.continuation for sample in answer_prompts(model, tokenizer, prompts, settings)]
    rounds = [(*timed(1), *timed(options.batch_size)) for _ in range(options.rounds)]
    slow, slow_cores, fast, fast_cores = (statistics.median(each) for each in zip(*rounds, strict=True))
    same = sum(one == other for one, other in zip(expected, said[options.batch_size], strict=True))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters / 1e6:.1f} M parameters on {model.device}, {torch.get_num_threads()} threads")
    print(f"one by one: {slow:.2f} s, {options.prompts / slow:.2f} prompts/s")
    print(f"batches of {options.batch_size}: {fast:.2f} s, {options.prompts / fast:.2f} prompts/s")
    print(f"the same text: {same} of {options.prompts}")
    print(f"ratio: {slow / fast:.2f} by the clock, {slow_cores / fast_cores:.2f} in time of the cores")


if __name__ == "__main__":
    main()
