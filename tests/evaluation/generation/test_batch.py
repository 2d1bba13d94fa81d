"""Answers of many prompts at once: the same as one by one, whatever the model, its positions and the batch."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from chat_models import LETTERS, parrot, talking_tokenizer
from models.scratch_models import tiny_model
from scipy.stats import chisquare
from transformers import (
    BloomConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.bloom import BloomForCausalLM
from tuned_adapters import TOKENIZER as ADAPTED
from tuned_adapters import adapter_on, saved_base, train

from hf_finetune.chat.template import encode_prompt
from hf_finetune.config.sections import EvalSection, ScratchSection
from hf_finetune.errors import ModelError
from hf_finetune.evaluation.generation.batch import generate_batch
from hf_finetune.evaluation.generation.prompts import generate_answer
from hf_finetune.evaluation.generation.session import DrawnTokens
from hf_finetune.models.scratch_gpt import ScratchGPTForCausalLM
from hf_finetune.models.scratch_presets import build_scratch_config

TOKENIZER = talking_tokenizer()
SIZE = len(TOKENIZER)
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": SIZE, **SPECIAL}
LLAMA = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 128}


def drawn(model_class, config):
    """Weights large enough that a text depends on all that came before it."""
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


MODELS = {
    "gpt2": lambda: drawn(
        GPT2LMHeadModel,
        GPT2Config(vocab_size=SIZE, n_positions=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    ),
    "llama": lambda: drawn(LlamaForCausalLM, LlamaConfig(**LLAMA)),
    "qwen3": lambda: drawn(Qwen3ForCausalLM, Qwen3Config(**LLAMA, head_dim=8)),
    "sliding window": lambda: drawn(
        Qwen3ForCausalLM,
        Qwen3Config(**LLAMA, head_dim=8, use_sliding_window=True, sliding_window=24, max_window_layers=0),
    ),
    "opt, learned positions": lambda: drawn(
        OPTForCausalLM,
        OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=128),
    ),
    "bloom, no positions": lambda: drawn(
        BloomForCausalLM, BloomConfig(vocab_size=SIZE, hidden_size=32, n_layer=2, n_head=4, **SPECIAL)
    ),
    "scratch, modern": lambda: tiny_model(vocab_size=SIZE, max_position_embeddings=128),
    "scratch, grouped": lambda: tiny_model(vocab_size=SIZE, max_position_embeddings=128, num_key_value_heads=2),
    "scratch, gpt2": lambda: tiny_model(vocab_size=SIZE, max_position_embeddings=128, family="gpt2"),
    "scratch, sdpa": lambda: tiny_model(vocab_size=SIZE, max_position_embeddings=128, attention="sdpa"),
    "scratch, preset nano": lambda: drawn(
        ScratchGPTForCausalLM, build_scratch_config(ScratchSection(preset="nano"), vocab_size=SIZE, **SPECIAL)
    ),
}


def greedy(most=16, **fields):
    return EvalSection(temperature=0, max_new_tokens=most, **fields)


def texts(number, longest=60):
    chosen = random.Random(0)
    return ["".join(chosen.choices(LETTERS, k=chosen.randint(1, longest))) for _ in range(number)]


def asked(text):
    return [{"role": "user", "content": text}]


def encoded(prompts):
    return [encode_prompt(TOKENIZER, asked(prompt)) for prompt in prompts]


def one_by_one(model, prompts, settings):
    """(text, tokens, finished) of each, as `generate` and `chat` answer."""
    samples = [generate_answer(model, TOKENIZER, asked(prompt), settings) for prompt in prompts]
    return [(sample.continuation, sample.tokens, sample.finished) for sample in samples]


def at_once(model, prompts, settings, batch_size=16, tokenizer=TOKENIZER):
    answers = generate_batch(model, tokenizer, prompts, settings, batch_size=batch_size)
    return [(each.text, each.tokens, each.finished) for each in answers]


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_says_what_one_by_one_says_64_of_64(name):
    model, prompts = MODELS[name](), texts(64)
    expected = one_by_one(model, prompts, greedy())
    assert at_once(model, encoded(prompts), greedy()) == expected
    assert len({text for text, *_ in expected}) > 4  # a model that says the same of everything proves nothing


def test_rows_end_by_themselves_while_others_go_on():
    model = MODELS["llama"]()
    with torch.no_grad():
        model.lm_head.weight[TOKENIZER.eos_token_id] *= 2.0
    expected = one_by_one(model, texts(64), greedy(40))
    assert at_once(model, encoded(texts(64)), greedy(40)) == expected
    assert 10 < sum(finished for *_, finished in expected) < 64
    assert all(tokens == 40 for _, tokens, finished in expected if not finished)


def test_the_batch_size_and_the_order_of_the_prompts_do_not_matter():
    model, prompts = MODELS["scratch, gpt2"](), encoded(texts(20))
    first = at_once(model, prompts, greedy(), batch_size=1)
    for batch_size in (3, 20, 64):
        assert at_once(model, prompts, greedy(), batch_size) == first
    assert at_once(model, prompts[::-1], greedy(), 7) == first[::-1]
    assert at_once(model, [], greedy()) == []


def test_an_adapter_answers_as_itself_and_not_as_its_base(tmp_path):
    model = train(adapter_on(saved_base(tmp_path), {"r": 8}), steps=8)
    chosen = random.Random(1)
    prompts = [[chosen.randint(3, 60) for _ in range(chosen.randint(1, 40))] for _ in range(32)]
    alone = [at_once(model, [prompt], greedy(), tokenizer=ADAPTED)[0] for prompt in prompts]
    assert at_once(model, prompts, greedy(), tokenizer=ADAPTED) == alone
    with model.disable_adapter():
        assert at_once(model, prompts, greedy(), tokenizer=ADAPTED) != alone


def test_a_repetition_penalty_counts_no_padding_and_no_prompt():
    model, settings = MODELS["llama"](), greedy(repetition_penalty=1.5)
    expected = one_by_one(model, texts(32), settings)
    assert at_once(model, encoded(texts(32)), settings) == expected
    assert expected != one_by_one(model, texts(32), greedy())


def test_a_padding_token_that_is_the_end_token_changes_nothing():
    tokenizer, model = talking_tokenizer(), MODELS["gpt2"]()
    expected = at_once(model, encoded(texts(20)), greedy(30))
    tokenizer.pad_token = tokenizer.eos_token
    assert at_once(model, encoded(texts(20)), greedy(30), tokenizer=tokenizer) == expected


def test_an_answer_ends_where_the_template_or_the_model_ends_it():
    model = parrot(TOKENIZER, {"\n": "a", "a": "b", "b": "c", "c": "d"})
    prompts = encoded(["x", "a longer one"])
    assert at_once(model, prompts, greedy()) == [("abcd", 5, True)] * 2
    model.generation_config = GenerationConfig(eos_token_id=[TOKENIZER.convert_tokens_to_ids("c"), 2])
    assert at_once(model, prompts, greedy()) == [("ab", 3, True)] * 2


@pytest.mark.parametrize("name", ["gpt2", "scratch, gpt2", "llama"])
def test_prompts_up_to_the_last_position_leave_room_by_losing_their_start(name, caplog):
    model, longer = MODELS[name](), texts(12, longest=12)
    prompts = [[1, *row] for row in np.random.default_rng(0).integers(4, SIZE, (8, 199)).tolist()] + encoded(longer)
    cut = [prompt[-112:] for prompt in prompts]
    with caplog.at_level(logging.WARNING):
        found = at_once(model, prompts, greedy())
    assert "8 of 20 prompts are cut at their start: of 128 positions, 16 are for the answer" in caplog.text
    assert found == at_once(model, cut, greedy())
    assert found == [at_once(model, [prompt], greedy())[0] for prompt in prompts]


def test_a_short_prompt_has_all_the_room_that_the_model_has(caplog):
    model = MODELS["gpt2"]()
    with torch.no_grad():
        model.lm_head = torch.nn.Linear(32, SIZE)
        model.lm_head.bias[TOKENIZER.all_special_ids] = -1e4
    prompts = [[1] * length for length in (4, 100, 4, 30, 127)]
    lengths = [tokens for _, tokens, _ in at_once(model, prompts, greedy(1_000))]
    assert lengths == [124, 64, 124, 98, 64]  # never less than half of the positions
    assert "2 of 5 prompts" in caplog.text


def test_a_prompt_without_tokens_begins_a_text():
    model = MODELS["llama"]()
    assert at_once(model, [[], [5, 6]], greedy())[0] == at_once(model, [[TOKENIZER.bos_token_id]], greedy())[0]


def test_sampling_is_the_same_for_the_same_seed_and_any_batch_size_and_leaves_no_trace():
    model, prompts = MODELS["llama"](), encoded(texts(12))
    model.train()
    settings = EvalSection(temperature=1.0, top_k=None, max_new_tokens=16, seed=3)
    before = torch.get_rng_state(), model.generation_config
    first = at_once(model, prompts, settings, batch_size=4)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert model.generation_config is before[1]
    assert model.training
    torch.rand(3)
    for batch_size in (1, 4, 5, 16):
        assert at_once(model, prompts, settings, batch_size) == first
    assert at_once(model, prompts, settings.model_copy(update={"seed": 4}), batch_size=4) != first
    alone = generate_batch(model, TOKENIZER, prompts[7:8], settings, batch_size=1, numbers=[7])
    assert [(each.text, each.tokens, each.finished) for each in alone] == first[7:8], "as another process has it"


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_equal_prompts_have_answers_of_their_own(batch_size):
    model, prompt = MODELS["llama"](), encoded(texts(1))[0]
    settings = EvalSection(temperature=1.0, top_k=None, max_new_tokens=16, seed=3)
    assert len(set(at_once(model, [prompt] * 32, settings, batch_size))) >= 30


def test_tokens_are_drawn_as_often_as_the_model_says():
    scores = torch.log(torch.tensor([0.5, 0.0, 0.2, 0.3]))
    draw = DrawnTokens([torch.Generator().manual_seed(number) for number in range(4000)])
    drawn = draw(torch.zeros(4000, 1), scores.repeat(4000, 1)).argmax(dim=-1)
    counts = torch.bincount(drawn, minlength=4)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2, 3]].numpy(), [2000, 800, 1200]).pvalue > 0.001


def running_out(model, most):
    """Let the model run out of memory for more than `most` rows, as a GPU does."""

    def check(module, args, kwargs):
        if len(kwargs["input_ids"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return model.register_forward_pre_hook(check, with_kwargs=True)


def test_a_batch_that_memory_does_not_hold_is_halved_and_nothing_is_lost(caplog):
    model, prompts = MODELS["llama"](), encoded(texts(21))
    expected = at_once(model, prompts, greedy())
    running_out(model, 3)
    with caplog.at_level(logging.WARNING):
        assert at_once(model, prompts, greedy(), batch_size=16) == expected
    tried = [record.args for record in caplog.records if "out of memory" in record.getMessage()]
    assert tried == [(16, 8), (8, 4), (4, 2)]


def test_a_single_prompt_that_memory_does_not_hold_is_refused_and_other_errors_pass():
    model, prompts = MODELS["llama"](), encoded(texts(3))
    hook = running_out(model, 0)
    with pytest.raises(ModelError, match=r"no memory to answer a single prompt.*; lower eval\.max_new_tokens"):
        at_once(model, prompts, greedy())
    hook.remove()
    model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        at_once(model, prompts, greedy())
    assert not model.training


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_on_the_gpu_says_what_one_by_one_says():
    model, prompts = MODELS["llama"]().to("cuda"), texts(64)
    expected = one_by_one(model, prompts, greedy())
    assert at_once(model, encoded(prompts), greedy()) == expected
