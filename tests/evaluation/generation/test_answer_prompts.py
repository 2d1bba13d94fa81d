"""Answers to conversations: what `generate` and `chat` say, and how they stop."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from chat.chat_families import FAMILIES, tokenizer_of
from chat_models import parrot, saved_parrot, talking_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from models.scratch_models import tiny_model
from transformers import GenerationConfig, Trainer, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.utils import add_fused_lm_head
from tuned_adapters import adapter_on, save, saved_base, train

from hf_finetune.chat.template import encode_prompt, load_chat_template
from hf_finetune.config.sections import DataSection, EvalSection
from hf_finetune.environment import progress_lines
from hf_finetune.errors import ConfigError, DataError, ModelError
from hf_finetune.evaluation.generation.display import escape_for_terminal, format_side_by_side
from hf_finetune.evaluation.generation.prompts import (
    answer_prompts,
    continue_prompts,
    generate_answer,
    generate_responses,
)
from hf_finetune.evaluation.generation.sample_callback import SamplePrompts
from hf_finetune.evaluation.generation.streaming import IncrementalDetokenizer, decode_after
from hf_finetune.models.base_and_tuned import find_base_of_run, run_base_and_tuned
from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.tokenizer_training import train_tokenizer

TOKENIZER = talking_tokenizer()
SAYS_ABC = {"\n": "a", "a": "b", "b": "c"}
GREEDY = EvalSection(temperature=0, max_new_tokens=20)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def drawing(**settings):
    return EvalSection(**{"temperature": 1.0, "top_k": None, "max_new_tokens": 30} | settings)


def thinker(**fields):
    """A model whose answers depend on all that was said."""
    return tiny_model(vocab_size=len(TOKENIZER), max_position_embeddings=256, **fields)


def greedy_by_hand(model, ids, ends, most):
    new = []
    while len(new) < most and (not new or new[-1] not in ends):
        with torch.no_grad():
            new.append(model(torch.tensor([[*ids, *new]]), use_cache=False).logits[0, -1].argmax().item())
    return new


def test_an_answer_ends_before_the_token_that_ends_a_turn():
    [sample] = answer_prompts(parrot(TOKENIZER, SAYS_ABC), TOKENIZER, ["what?"], GREEDY)
    assert (sample.prompt, sample.continuation, sample.tokens, sample.finished) == ("what?", "abc", 4, True)


def test_the_whole_conversation_is_answered_token_by_token_as_the_model_says():
    model = thinker()
    messages = [{"role": "system", "content": "Be kind."}, user("hi"), assistant("yes?"), user("what is it?")]
    asked = "".join(TOKENIZER.convert_ids_to_tokens(encode_prompt(TOKENIZER, messages)))
    turns = ["System:\nBe kind.", "User:\nhi", "Assistant:\nyes?", "User:\nwhat is it?", "Assistant:\n"]
    assert asked == "<|bos|>" + "<|eos|>\n".join(turns)
    expected = greedy_by_hand(model, encode_prompt(TOKENIZER, messages), [TOKENIZER.eos_token_id], 20)
    sample = generate_answer(model, TOKENIZER, messages, GREEDY)
    text = expected[:-1] if sample.finished else expected
    assert (sample.continuation, sample.tokens) == (TOKENIZER.decode(text), len(expected))


@pytest.mark.parametrize("name", ["gemma3", "llama3", "qwen2_5", "phi3"])
def test_the_end_of_a_turn_stops_whatever_the_end_token_of_texts_is(name):
    family = next(family for family in FAMILIES if family.name == name)
    tokenizer = tokenizer_of(family)
    last = encode_prompt(tokenizer, [user("A")])[-1]
    after = {tokenizer.convert_ids_to_tokens(last): "x", "x": "y", "y": family.turn.removeprefix("{}")}
    [sample] = answer_prompts(parrot(tokenizer, after), tokenizer, ["A"], GREEDY)
    assert (sample.continuation, sample.finished) == ("xy", True)


def test_tokens_that_the_models_own_settings_end_at_end_an_answer_too():
    model = parrot(TOKENIZER, SAYS_ABC | {"c": "c"})
    assert generate_answer(model, TOKENIZER, [user("A")], GREEDY).continuation == "ab" + 18 * "c"
    model.generation_config.eos_token_id = [TOKENIZER.eos_token_id, *TOKENIZER.convert_tokens_to_ids(["c"])]
    assert generate_answer(model, TOKENIZER, [user("A")], GREEDY).continuation == "ab"


def test_an_answer_stops_where_the_positions_do_and_a_conversation_that_leaves_none_is_refused():
    asked = len(encode_prompt(TOKENIZER, [user("A")]))
    endless = {"\n": "a", "a": "a"}
    sample = generate_answer(parrot(TOKENIZER, endless, positions=asked + 3), TOKENIZER, [user("A")], GREEDY)
    assert (sample.continuation, sample.finished, sample.prompt_tokens_cut) == ("aaa", False, 0)
    with pytest.raises(ModelError, match=f"has {asked} tokens, the model takes {asked} with its answer"):
        generate_answer(parrot(TOKENIZER, endless, positions=asked), TOKENIZER, [user("A")], GREEDY)


def test_top_p_limits_what_is_drawn():
    model = parrot(TOKENIZER, {})
    model.lm_head.weight.data.zero_()
    likely = TOKENIZER.convert_tokens_to_ids(["a", "b"])
    model.lm_head.weight.data[likely] = 4.0  # e^4 against 61 times e^0: 64 % of the probability
    [narrow] = answer_prompts(model, TOKENIZER, ["A"], drawing(top_p=0.6))
    [wide] = answer_prompts(model, TOKENIZER, ["A"], drawing(top_p=1.0))
    assert set(narrow.continuation) == {"a", "b"}
    assert len(set(wide.continuation)) > 4


def test_a_repetition_penalty_counts_the_answers_own_tokens_and_not_the_end_tokens_of_the_conversation():
    model = parrot(TOKENIZER, SAYS_ABC)
    messages = [user("A"), assistant("B"), user("A")]
    # 10 / 1.5 is below the 8 of "z": an end token that counted as a repetition would not be taken
    assert generate_answer(model, TOKENIZER, messages, GREEDY.model_copy(update={"repetition_penalty": 1.5})).finished
    model = parrot(TOKENIZER, {"\n": "a", "a": "a"})
    with torch.no_grad():
        model.lm_head.weight[TOKENIZER.convert_tokens_to_ids("z"), TOKENIZER.convert_tokens_to_ids("a")] = 8.0
    once = GREEDY.model_copy(update={"repetition_penalty": 1.5})
    assert generate_answer(model, TOKENIZER, messages, GREEDY).continuation.startswith("aaa")
    assert generate_answer(model, TOKENIZER, messages, once).continuation.startswith("az")


def test_a_repetition_penalty_counts_the_tokens_of_a_text_that_is_continued():
    model = parrot(TOKENIZER, {"a": "b"})
    with torch.no_grad():
        model.lm_head.weight[TOKENIZER.convert_tokens_to_ids("z"), TOKENIZER.convert_tokens_to_ids("a")] = 8.0
    penalised = GREEDY.model_copy(update={"repetition_penalty": 1.5, "max_new_tokens": 1})
    assert continue_prompts(model, TOKENIZER, ["ba"], GREEDY)[0].continuation.startswith("b")
    assert continue_prompts(model, TOKENIZER, ["ba"], penalised)[0].continuation == "z"


def test_answers_are_seeded_one_by_one():
    model = thinker()
    settings = drawing(temperature=1.5, seed=3)
    first, second = answer_prompts(model, TOKENIZER, ["A", "A"], settings)
    assert (first.seed, second.seed) == (3, 4)
    assert first.continuation != second.continuation
    torch.rand(9)
    assert generate_answer(model, TOKENIZER, [user("A")], settings, 1) == second


def test_a_system_message_opens_the_conversation():
    model = thinker()
    told = generate_answer(model, TOKENIZER, [{"role": "system", "content": "Say no."}, user("A")], GREEDY)
    assert answer_prompts(model, TOKENIZER, ["A"], GREEDY, "Say no.") == [told]
    assert answer_prompts(model, TOKENIZER, ["A"], GREEDY) != [told]


def test_a_template_that_takes_no_system_message_says_so():
    tokenizer = tokenizer_of(next(family for family in FAMILIES if family.name == "gemma"))
    with pytest.raises(DataError, match="refuses it: System role not supported"):
        answer_prompts(parrot(tokenizer, {}), tokenizer, ["A"], GREEDY, "Be kind.")


def test_characters_of_a_system_message_that_the_tokenizer_lacks_are_named():
    with pytest.raises(ModelError, match=r"never seen 'é' \(U\+00E9\)"):
        answer_prompts(parrot(TOKENIZER, SAYS_ABC), TOKENIZER, ["A"], GREEDY, "Sois zélé.")


def test_raw_continues_what_a_chat_would_answer():
    model = thinker()
    assert generate_responses(model, TOKENIZER, ["A"], GREEDY) == answer_prompts(model, TOKENIZER, ["A"], GREEDY)
    assert generate_responses(model, TOKENIZER, ["A"], GREEDY, raw=True) == continue_prompts(
        model, TOKENIZER, ["A"], GREEDY
    )
    with pytest.raises(ConfigError, match="leave --system out"):
        generate_responses(model, TOKENIZER, ["A"], GREEDY, system="x", raw=True)


def test_pieces_join_to_the_answer_and_the_end_token_is_none_of_them():
    pieces = []
    sample = generate_answer(parrot(TOKENIZER, SAYS_ABC), TOKENIZER, [user("A")], GREEDY, write=pieces.append)
    assert pieces == ["a", "b", "c", ""]
    assert sample.continuation == "abc"


BYTES = train_tokenizer("bpe", ["naïve café, 東京 and emoji 🙂 " * 3], 290)
KINDS = {"own": BYTES} | {
    family.kind: tokenizer_of(family) for family in FAMILIES if family.name in ("qwen2_5", "phi3", "gemma3")
}


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10**6), text=st.text(st.sampled_from("aé東🙂 \n,.<|>the"), max_size=20))
def test_streamed_pieces_join_to_the_text_and_hold_no_half_character(kind, seed, text):
    tokenizer = KINDS[kind]
    before = tokenizer("User:\nA", add_special_tokens=False)["input_ids"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer.decode([*before, *ids], clean_up_tokenization_spaces=False)
    pieces = IncrementalDetokenizer(tokenizer, before)
    shown = [pieces.add(token) for token in ids]
    assert "".join(shown) + pieces.flush() == whole.removeprefix(tokenizer.decode(before))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(tokenizer), (12,), generator=generator).tolist()  # broken characters among them
    broken = IncrementalDetokenizer(tokenizer, before)
    shown += [broken.add(token) for token in drawn]
    assert not any(piece.endswith("\ufffd") for piece in shown)
    assert decode_after(tokenizer, before, drawn) == "".join(shown[len(ids) :]) + broken.flush()
    assert broken.flush() == ""


@given(seed=st.integers(0, 10**6))
def test_bytes_that_are_no_character_are_shown_as_the_decoder_shows_them(seed):
    drawn = torch.randint(3, len(BYTES), (30,), generator=torch.Generator().manual_seed(seed)).tolist()
    assert decode_after(BYTES, [], drawn) == BYTES.decode(drawn)


def test_spaces_before_commas_stay_even_where_the_tokenizer_would_clean_up():
    tokenizer = train_tokenizer("word", ["a , b"], 20)
    tokenizer.clean_up_tokenization_spaces = True
    ids = tokenizer("a , b", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "a, b"
    assert decode_after(tokenizer, [], ids) == "a , b"


def test_a_character_of_several_tokens_is_shown_once_it_is_whole():
    ids = BYTES("🦀", add_special_tokens=False)["input_ids"]
    assert len(ids) > 2
    pieces = IncrementalDetokenizer(BYTES, [])
    assert [pieces.add(token) for token in ids] == [*[""] * (len(ids) - 1), "🦀"]


@pytest.mark.parametrize("wrap", ["adapter", "fused head", "both"])
def test_a_model_in_training_answers_as_it_stands_and_keeps_no_trace(wrap, tmp_path):
    base = saved_base(tmp_path / "base", vocab_size=len(TOKENIZER))
    TOKENIZER.save_pretrained(base)
    expected = answer_prompts(load_for_generation(str(base))[0], TOKENIZER, ["A"], GREEDY)
    model = adapter_on(base) if wrap != "fused head" else load_for_generation(str(base))[0]
    inner = model.get_base_model() if wrap != "fused head" else model
    if wrap != "adapter":
        add_fused_lm_head(inner)
    own = inner.generation_config = GenerationConfig(top_p=0.1, repetition_penalty=7.0)
    model.train()
    modes = [module.training for module in model.modules()]
    state, prepare = torch.get_rng_state(), inner.prepare_inputs_for_generation
    assert answer_prompts(model, TOKENIZER, ["A"], GREEDY) == expected  # lora_B is zero
    assert [module.training for module in model.modules()] == modes
    assert inner.generation_config is own
    assert inner.prepare_inputs_for_generation == prepare
    assert torch.equal(torch.get_rng_state(), state)


def test_an_adapter_is_compared_with_itself_switched_off(tmp_path):
    base = saved_base(tmp_path / "base", vocab_size=len(TOKENIZER))
    folder = save(train(adapter_on(base), steps=25), tmp_path / "adapter")
    TOKENIZER.save_pretrained(folder)

    def speak(model, tokenizer):
        return answer_prompts(model, tokenizer, ["A", "b"], drawing())

    before, after = run_base_and_tuned(str(folder), None, speak, speak)
    assert before == speak(load_for_generation(str(base))[0], TOKENIZER)
    assert after == speak(*load_for_generation(str(folder)))
    assert all(one.continuation != other.continuation for one, other in zip(before, after, strict=True))


def test_a_whole_model_is_compared_with_the_base_of_its_run(tmp_path):
    base = saved_parrot(tmp_path / "base", {"\n": "n", "n": "o"}, chat=False)
    tuned = saved_parrot(tmp_path / "tuned", SAYS_ABC)

    def speak(model, tokenizer):
        return answer_prompts(model, tokenizer, ["A"], GREEDY)

    with pytest.raises(ConfigError, match=r"no run\.yaml.*--base-path"):
        run_base_and_tuned(tuned, None, speak, speak)
    [before], [after] = run_base_and_tuned(tuned, base, speak, speak)
    assert (before.continuation, after.continuation) == ("no", "abc")
    Path(tuned, "run.yaml").write_text(f"model:\n  path: {base}\n")
    assert run_base_and_tuned(tuned, None, speak, speak) == ([before], [after])


def test_a_run_says_which_model_it_went_on_from_and_at_which_commit(tmp_path):
    (tmp_path / "run.yaml").write_text("model:\n  scratch: {}\n")
    with pytest.raises(ConfigError, match="random weights"):
        find_base_of_run(str(tmp_path))
    (tmp_path / "run.yaml").write_text("model:\n  path: a/b\n  revision: v1\n")
    assert find_base_of_run(str(tmp_path)) == ("a/b", "v1")


def test_a_base_of_another_size_is_refused(tmp_path):
    other = saved_base(tmp_path / "other")
    tuned = saved_parrot(tmp_path / "tuned", SAYS_ABC)

    def silent(model, tokenizer):
        return []

    with pytest.raises(ModelError, match="has embeddings for 61 tokens"):
        run_base_and_tuned(tuned, str(other), silent, silent)


@pytest.mark.parametrize("ask", [answer_prompts, continue_prompts])
def test_slow_answers_are_counted_while_they_are_made(ask, caplog, monkeypatch):
    monkeypatch.setattr(progress_lines, "INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO, "hf_finetune")
    ask(parrot(TOKENIZER, SAYS_ABC), TOKENIZER, ["A", "B", "C"], GREEDY)
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(", ")[0].rsplit(" ", 2)[0] for line in said] == ["1 of 3", "2 of 3"]


def test_what_a_model_wrote_cannot_steer_a_terminal():
    assert escape_for_terminal("a\tb\n\x1b[2J\x9b東🙂\u200d") == "a\tb\n\\x1b[2J\\x9b東🙂\u200d"
    sample = generate_answer(parrot(TOKENIZER, SAYS_ABC), TOKENIZER, [user("[bold]:key:")], GREEDY)
    assert format_side_by_side(sample, sample).title.plain == "[bold]:key:"


def chat_events(sampler, model, tmp_path):
    args, control = TrainingArguments(str(tmp_path), report_to=[]), TrainerControl()
    for event, step in (("on_train_begin", 0), ("on_evaluate", 0), ("on_evaluate", 4)):
        getattr(sampler, event)(args, TrainerState(global_step=step), control, model=model)
    sampler.take(model, 4, main=True)


def test_a_chat_run_is_sampled_before_its_first_step_and_a_text_run_is_not(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    model, settings = parrot(TOKENIZER, SAYS_ABC), EvalSection(prompts=["A"], temperature=0)
    asked, told = SamplePrompts(TOKENIZER, settings, chat=True), SamplePrompts(TOKENIZER, settings)
    chat_events(asked, model, tmp_path)
    assert [(sample["step"], sample["continuation"]) for sample in asked.as_dicts()] == [(0, "abc"), (4, "abc")]
    assert "sample at step 0\n  user: A\n  assistant: abc" in caplog.text
    chat_events(told, model, tmp_path)
    assert [(sample["step"], sample["continuation"]) for sample in told.as_dicts()] == [(0, ""), (4, "")]


def test_a_resumed_run_says_what_was_said_before_and_asks_for_nothing_anew(tmp_path):
    model, settings = parrot(TOKENIZER, SAYS_ABC), EvalSection(prompts=["A"], temperature=0)
    asked, args = SamplePrompts(TOKENIZER, settings, chat=True), TrainingArguments(str(tmp_path), report_to=[])
    chat_events(asked, model, tmp_path)
    resumed = SamplePrompts(TOKENIZER, settings, chat=True)
    resumed.on_train_begin(args, TrainerState(global_step=4), TrainerControl(), model=model)
    assert resumed.as_dicts() == []
    resumed.restore_state(json.loads(json.dumps(asked.save_state())))
    assert resumed.as_dicts() == asked.as_dicts()


def test_sampling_changes_nothing_in_training(tmp_path):
    ids = encode_prompt(TOKENIZER, [user("hi"), assistant("yes?")])
    rows = [{"input_ids": ids, "labels": ids}] * 8

    def losses(*callbacks):
        torch.manual_seed(0)
        model = thinker(hidden_dropout=0.2)
        args = TrainingArguments(str(tmp_path), max_steps=3, use_cpu=True, report_to=[], logging_steps=1, seed=5)
        trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows, callbacks=list(callbacks))
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    sampler = SamplePrompts(TOKENIZER, EvalSection(prompts=["A"], max_new_tokens=5), chat=True)
    assert losses(sampler) == losses()
    assert [step for step, _ in sampler.samples] == [0, 3]


def test_the_last_samples_are_those_of_the_model_that_is_kept(tmp_path):
    ids = encode_prompt(TOKENIZER, [user("hi"), assistant("yes?")])
    rows = [{"input_ids": ids, "labels": ids}] * 8
    args = TrainingArguments(
        str(tmp_path), max_steps=5, use_cpu=True, report_to=[], eval_strategy="steps", eval_steps=2, save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True, learning_rate=1e-2,
    )  # fmt: skip
    settings = EvalSection(prompts=["A"], temperature=0, max_new_tokens=10)
    sampler = SamplePrompts(TOKENIZER, settings, chat=True)
    torch.manual_seed(0)
    trainer = Trainer(thinker(), args, train_dataset=rows, eval_dataset=rows, callbacks=[sampler])
    trainer.train()
    trainer.evaluate()  # as a recipe does: the best model, not that of the last step
    assert [step for step, _ in sampler.samples] == [0, 2, 4, 5, 2]
    assert sampler.samples[-1][1] == answer_prompts(trainer.model, TOKENIZER, ["A"], settings)[0]
    assert sampler.samples[1][1] == sampler.samples[-1][1] != sampler.samples[-2][1]


def test_another_template_of_ours_answers_too():
    tokenizer = train_tokenizer("bpe", ["a b c"], 300)
    load_chat_template(DataSection(train="x", chat_template="alpaca"), tokenizer)
    [sample] = answer_prompts(parrot(tokenizer, SAYS_ABC), tokenizer, ["A"], GREEDY)
    assert sample.finished


def test_every_prompt_that_the_template_refuses_is_named_before_one_is_answered():
    tokenizer = talking_tokenizer()
    tokenizer.chat_template = (
        "{% if 'bad' in messages[-1].content %}{{ raise_exception('no') }}{% endif %}" + tokenizer.chat_template
    )
    with pytest.raises(DataError) as refused:
        answer_prompts(None, tokenizer, ["hi", "bad", "so", "too bad"], GREEDY)
    what = "the chat template refuses it: no [HF141]"
    assert str(refused.value).splitlines() == [f"eval.prompts[1]: {what}", f"eval.prompts[3]: {what}", "2 problems"]
    tokenizer.chat_template = "{% for m in messages %}{{ 'a' * 10 ** 9 }}{% endfor %}"
    with pytest.raises(DataError, match=r"^eval.prompts\[0\]: the chat template took more than 256 MiB"):
        answer_prompts(None, tokenizer, ["hi", "so"], GREEDY)
