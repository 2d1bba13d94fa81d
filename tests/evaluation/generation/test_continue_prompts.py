import random

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hf_finetune.config.sections import EvalSection
from hf_finetune.errors import ModelError, NonFiniteError
from hf_finetune.evaluation.generation import prompts as generation
from hf_finetune.evaluation.generation.prompts import check_prompts, continue_prompts
from hf_finetune.models.tokenizer_training import train_tokenizer

CHAR = train_tokenizer("char", ["abcdefghij \n"])
POSITIONS = 32


def gpt2(positions=POSITIONS, tokenizer=CHAR):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=positions,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    # It would end within a few tokens: only some tests are about that.
    never_ends(model, tokenizer)
    return model


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(CHAR), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=POSITIONS, initializer_range=0.5, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    never_ends(model, CHAR)
    return model


def never_ends(model, tokenizer):
    """Forbid all tokens but characters, by the weights: so that no setting of `generate` is needed for it."""
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    head.weight.data.copy_(model.lm_head.weight.data)
    head.bias.data.zero_()
    head.bias.data[tokenizer.all_special_ids] = -1e4
    model.lm_head = head


def always_ends(model, tokenizer):
    model.lm_head.bias.data[tokenizer.eos_token_id] = 1e5


def greedy(max_new_tokens):
    return EvalSection(temperature=0, max_new_tokens=max_new_tokens)


def greedy_by_hand(model, ids, count):
    """The likeliest next token of the whole text, again and again, without a cache."""
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item()]
    return ids


@pytest.mark.parametrize("temperature", [0, 1])
def test_finite_weights_of_which_logits_overflow_say_nothing(temperature):
    model = gpt2()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(3e38)
    settings = EvalSection(temperature=temperature, max_new_tokens=3)
    with pytest.raises(NonFiniteError, match="the model's next token has NaN or infinite logits") as refused:
        continue_prompts(model, CHAR, ["abc"], settings)
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("prompt", ["abc", "a\n j", ""])
def test_temperature_zero_takes_the_likeliest_token_each_time(make, prompt):
    model = make().eval()
    ids = [CHAR.bos_token_id, *CHAR.convert_tokens_to_ids(list(prompt))]
    expected = greedy_by_hand(model, ids, 12)[len(ids) :]
    [sample] = continue_prompts(model, CHAR, [prompt], greedy(12))
    assert sample.continuation == "".join(CHAR.convert_ids_to_tokens(expected))
    assert (sample.prompt, sample.tokens, sample.finished, sample.prompt_tokens_cut) == (prompt, 12, False, 0)


def test_one_top_token_is_greedy_at_any_temperature():
    model = gpt2()
    hot = EvalSection(temperature=50.0, top_k=1, max_new_tokens=10)
    [sampled], [likeliest] = (
        continue_prompts(model, CHAR, ["ab"], hot),
        continue_prompts(model, CHAR, ["ab"], greedy(10)),
    )
    assert sampled.continuation == likeliest.continuation


def test_top_k_limits_what_is_drawn_and_none_does_not():
    model = gpt2()
    model.lm_head.weight.data.zero_()  # every character equally likely, but for what the bias says
    favored = CHAR.convert_tokens_to_ids(["a", "b"])
    model.lm_head.bias.data[favored] = 0.1
    two = EvalSection(temperature=1.0, top_k=2, max_new_tokens=30)
    free = EvalSection(temperature=1.0, top_k=None, max_new_tokens=30)
    assert set(continue_prompts(model, CHAR, ["c"], two)[0].continuation) == {"a", "b"}
    assert len(set(continue_prompts(model, CHAR, ["c"], free)[0].continuation)) > 5


def test_the_same_seed_gives_the_same_text_and_another_seed_another():
    model = gpt2()

    def drawn(seed):
        settings = EvalSection(temperature=1.5, top_k=None, max_new_tokens=25, seed=seed)
        return [sample.continuation for sample in continue_prompts(model, CHAR, ["ab", "ab"], settings)]

    first = drawn(3)
    torch.rand(7)
    assert drawn(3) == first
    assert drawn(4) != first
    # the second prompt has the next seed, and can be drawn by itself with it
    assert first[0] != first[1]
    assert drawn(4)[0] == first[1]


def test_random_states_are_afterwards_what_they_were():
    model = gpt2()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    [sample] = continue_prompts(model, CHAR, ["ab"], EvalSection(temperature=1.0, max_new_tokens=40))
    assert sample.tokens == 40
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_random_states_of_the_gpu_are_afterwards_what_they_were():
    model = gpt2().to("cuda")
    settings = EvalSection(temperature=1.5, max_new_tokens=20, seed=5)
    before = torch.cuda.get_rng_state()
    first = continue_prompts(model, CHAR, ["ab"], settings)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    torch.rand(3, device="cuda")
    assert continue_prompts(model, CHAR, ["ab"], settings) == first


def test_modes_and_settings_of_the_model_are_afterwards_what_they_were():
    model = gpt2()
    model.train()
    model.transformer.h[0].eval()  # a frozen part
    model.config.use_cache = False
    own = model.generation_config = GenerationConfig(top_p=0.1, repetition_penalty=7.0)
    modes = [module.training for module in model.modules()]
    continue_prompts(model, CHAR, ["ab"], EvalSection(max_new_tokens=5))
    assert [module.training for module in model.modules()] == modes
    assert model.config.use_cache is False
    assert model.generation_config is own


def test_dropout_is_off_while_a_training_model_is_sampled():
    model = gpt2()
    expected = continue_prompts(model.eval(), CHAR, ["ab"], greedy(20))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    assert continue_prompts(model.train(), CHAR, ["ab"], greedy(20)) == expected


def test_modes_come_back_after_an_error(monkeypatch):
    model = gpt2().train()
    state = torch.get_rng_state()

    def fails(*_):
        torch.rand(2)
        raise ZeroDivisionError

    monkeypatch.setattr(generation, "continue_prompt", fails)
    with pytest.raises(ZeroDivisionError):
        continue_prompts(model, CHAR, ["ab"], EvalSection())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_generation_settings_that_came_with_the_model_do_not_slip_in():
    model = gpt2()
    settings = EvalSection(temperature=1.0, top_k=None, max_new_tokens=20)
    plain = continue_prompts(model, CHAR, ["ab"], settings)
    model.generation_config = GenerationConfig(top_p=0.01, repetition_penalty=9.0, min_new_tokens=3, num_beams=2)
    assert continue_prompts(model, CHAR, ["ab"], settings) == plain


def test_generation_stops_at_the_end_token_which_is_not_written():
    model = gpt2()
    always_ends(model, CHAR)
    [sample] = continue_prompts(model, CHAR, ["ab"], EvalSection(max_new_tokens=30))
    assert (sample.continuation, sample.tokens, sample.finished) == ("", 1, True)


def test_a_text_longer_than_the_positions_goes_on_from_its_later_half():
    model = gpt2().eval()
    [sample] = continue_prompts(model, CHAR, ["abc"], greedy(100))
    window, text = [CHAR.bos_token_id, *CHAR.convert_tokens_to_ids(list("abc"))], []
    while len(text) < 100:
        grown = greedy_by_hand(model, window, min(POSITIONS - len(window), 100 - len(text)))
        text += grown[len(window) :]
        window = grown[-POSITIONS // 2 :]
    assert sample.tokens == 100
    assert sample.continuation == "".join(CHAR.convert_ids_to_tokens(text))


@pytest.mark.parametrize(("length", "cut"), [(30, 0), (31, 1), (32, 2), (500, 470)])
def test_a_prompt_beyond_the_positions_is_cut_on_the_left_and_the_cut_is_counted(length, cut, caplog):
    model = gpt2().eval()
    prompt = ("abcdefghij" * 50)[:length]
    [sample] = continue_prompts(model, CHAR, [prompt], greedy(1))
    kept = [CHAR.bos_token_id, *CHAR.convert_tokens_to_ids(list(prompt))][cut:]
    assert sample.prompt_tokens_cut == cut
    assert sample.continuation == CHAR.decode(greedy_by_hand(model, kept, 1)[-1:])
    assert ("cut" in caplog.text) == (cut > 0)


@pytest.mark.parametrize("positions", [2, 3])
def test_the_fewest_positions_still_generate(positions):
    [sample] = continue_prompts(gpt2(positions), CHAR, ["abc"], greedy(7))
    assert sample.tokens == 7


def test_characters_that_the_alphabet_lacks_are_refused_by_name_in_all_prompts_before_anything_is_drawn():
    with pytest.raises(ModelError) as caught:
        continue_prompts(None, CHAR, ["abc", "aéé🧑b", "ab\u0301"], EvalSection())
    assert [problem.key for problem in caught.value.problems] == ["eval.prompts[1]", "eval.prompts[2]"]
    assert "never seen 'é' (U+00E9), '🧑' (U+1F9D1)" in str(caught.value)


def test_words_that_the_vocabulary_lacks_are_refused_by_name():
    words = train_tokenizer("word", ["to be or not to be"], 100)
    check_prompts(words, ["not to be"])
    with pytest.raises(ModelError, match="never seen 'question'"):
        check_prompts(words, ["to question"])


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ModelError, match="U\\+DC80"):
        check_prompts(train_tokenizer("bpe", ["a"], 259), ["a\udc80"])


def test_a_prompt_that_spells_an_end_token_does_not_end_anything():
    tokenizer = train_tokenizer("bpe", ["abc " * 10], 270)
    model = gpt2(64, tokenizer).eval()
    [sample] = continue_prompts(model, tokenizer, ["<|eos|>"], greedy(5))
    ids = [tokenizer.bos_token_id, *tokenizer.convert_tokens_to_ids(list("<|eos|>"))]
    assert sample.continuation == tokenizer.decode(greedy_by_hand(model, ids, 5)[len(ids) :])


def test_a_tokenizer_without_a_begin_token_starts_an_empty_prompt_at_an_end():
    tokenizer = train_tokenizer("char", ["abcdefghij \n"])
    tokenizer.bos_token = None
    model = gpt2().eval()
    expected = greedy_by_hand(model, [tokenizer.eos_token_id], 4)[1:]
    [sample] = continue_prompts(model, tokenizer, [""], greedy(4))
    assert sample.continuation == tokenizer.decode(expected)


def test_no_prompts_give_no_samples():
    assert continue_prompts(gpt2(), CHAR, [], EvalSection()) == []
