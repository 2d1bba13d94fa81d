"""What a model gives away: canaries that it was trained on, and rows that it continues word for word."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from chat.chat_families import FAMILIES, tokenizer_of
from models.scratch_models import tiny_model, token_ids
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from hf_finetune.chat.template import get_training_template, load_chat_template
from hf_finetune.config.sections import DataSection
from hf_finetune.data.corpora.canaries import Canary, make_canaries
from hf_finetune.errors import ModelError
from hf_finetune.evaluation.generation.session import set_eval_mode
from hf_finetune.evaluation.probes import memorization
from hf_finetune.evaluation.probes.memorization import (
    _average_exposure,
    compute_exposure,
    describe_memorization,
    measure_verbatim,
)
from hf_finetune.evaluation.statistics.intervals import compute_wilson_interval
from hf_finetune.models.tokenizer_training import train_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,:?\n0123456789"


def characters():
    tokenizer = train_tokenizer("char", [LETTERS])
    load_chat_template(DataSection(train="x"), tokenizer)
    return tokenizer


def llama(tokenizer, **fields):
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes, **ids, **fields)
        )


def statements(tokenizer, canary, secrets):
    return memorization._encode_statements(tokenizer, get_training_template(tokenizer), canary, secrets)


def trained_on(tokenizer, rows, epochs):
    model = llama(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor(rows)
    for _ in range(epochs):
        for batch in torch.randperm(len(ids), generator=generator).split(16):
            model(input_ids=ids[batch], labels=ids[batch]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def gossip():
    """A tokenizer, canaries of 1, 10 and 100 copies, and a model that was trained on them for two rounds."""
    tokenizer, canaries = characters(), make_canaries(5, row_format="text")
    rows = [statements(tokenizer, each, [each.secret])[0].input_ids for each in canaries for _ in range(each.copies)]
    return tokenizer, canaries, trained_on(tokenizer, rows, epochs=3)


def test_exposure_grows_with_the_copies_and_the_secret_seen_most_is_given_away(gossip):
    tokenizer, canaries, model = gossip
    once, some, many = compute_exposure(model, tokenizer, canaries, secrets=256)
    assert (once["copies"], some["copies"], many["copies"]) == (1, 10, 100)
    assert {each["canaries"] for each in (once, some, many)} == {5}
    assert {each["most_possible"] for each in (once, some, many)} == {8.0}
    assert once["exposure"] < some["exposure"] < many["exposure"] + 1e-9
    assert once["exposure"] < 4
    assert many["exposure"] > 7.5
    assert many["extracted"] >= 0.8
    assert once["extracted"] == 0
    assert many["p_value"] < 1e-6
    words = describe_memorization([once, many], None)
    assert words[0].startswith("canaries planted once: exposure ")
    assert words[1].startswith("canaries planted 100 times: exposure 8.0 of 8.0 bits")
    assert words[1].endswith("known to the model")


def test_what_is_said_to_be_given_away_is_what_the_model_generates(gossip):
    tokenizer, canaries, model = gossip
    for canary in canaries:
        (whole,) = statements(tokenizer, canary, [canary.secret])
        prompt = torch.tensor([whole.input_ids[: whole.answer_start]])
        room = len(whole.input_ids) - whole.answer_start
        made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=room, do_sample=False)
        (alone,) = compute_exposure(model, tokenizer, [canary], secrets=2)
        assert alone["extracted"] == (made[0].tolist() == whole.input_ids)
        assert "interval" not in alone


def test_a_model_that_never_saw_them_has_1_44_bits():
    tokenizer, canaries = characters(), make_canaries(120, [1], row_format="text")
    (found,) = compute_exposure(llama(tokenizer), tokenizer, canaries, secrets=64)
    uniform = math.log2(64) - np.mean(np.log2(np.arange(1, 65)))
    assert found["exposure"] == pytest.approx(uniform, abs=0.35)
    assert pytest.approx(1 / math.log(2), abs=0.1) == uniform
    assert found["interval"][0] < uniform < found["interval"][1]
    assert "0 of 120 given away whole: like secrets that it never saw" in describe_memorization([found], None)[0]


@pytest.mark.parametrize("canaries", [1, 2, 5])
@pytest.mark.parametrize("groups", [1, 3])
def test_of_secrets_that_were_never_seen_at_most_one_run_in_twenty_is_said_to_know_any(canaries, groups):
    random, alarms = np.random.default_rng(0), 0
    for _ in range(2000):
        ranks = random.integers(1, 1025, (groups, canaries))
        averages = [_average_exposure(10 - np.log2(each)) for each in ranks]
        found = [
            {"copies": 1, "canaries": canaries, "most_possible": 10.0, "extracted": 0.0, **each} for each in averages
        ]
        alarms += any("known to the model" in line for line in describe_memorization(found, None))
    assert alarms / 2000 <= 0.06


def test_one_secret_that_is_likelier_than_all_others_is_known():
    found = {"copies": 1, "canaries": 1, "most_possible": 10.0, "extracted": 0.0, **_average_exposure(np.array([10.0]))}
    assert found["p_value"] == pytest.approx(1 / 1024)
    assert "known to the model" in describe_memorization([found], None)[0]


def test_a_model_to_which_all_secrets_are_alike_ranks_them_in_the_middle():
    tokenizer = characters()
    model = llama(tokenizer)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = compute_exposure(model, tokenizer, make_canaries(2, [1], row_format="text"), secrets=64)
    assert found[0]["exposure"] == pytest.approx(1.0, abs=0.05)


def gpt2(tokenizer):
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=128))


def scratch(tokenizer):
    return tiny_model(vocab_size=len(tokenizer), max_position_embeddings=128)


def mamba(tokenizer):
    return MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4))


def adapted(tokenizer):
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    return get_peft_model(llama(tokenizer), lora).train()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft
@pytest.mark.parametrize("make", [llama, gpt2, scratch, mamba, adapted])
@pytest.mark.parametrize("asked", [False, True])
def test_losses_are_those_of_whole_rows_read_one_by_one(make, asked, monkeypatch):
    tokenizer = characters()
    torch.manual_seed(0)
    model = make(tokenizer)
    inner = model.get_base_model() if make is adapted else model
    training = inner.training
    canary = Canary("Bodiga", "1 2 3 4 5 6", 1, asked)
    secrets = [canary.secret, "9 8 7 6 5 4", "0 0 0 0 0 0", "1 2 3 4 5 7", "5 5 1 2 3 0"]
    rows = [each.input_ids for each in statements(tokenizer, canary, secrets)]
    monkeypatch.setattr(memorization, "MAX_ROWS", 2)
    with set_eval_mode(inner), torch.no_grad():
        found = memorization._compute_losses(inner, tokenizer, rows)
        whole = []
        for row in rows:
            ids = torch.tensor([row])
            logits = inner(input_ids=ids).logits.log_softmax(-1)[0, :-1]
            whole.append(-float(logits.gather(1, ids[0, 1:, None]).sum()))
    assert inner.training == training
    assert found - found[0] == pytest.approx(np.array(whole) - whole[0], abs=2e-3)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_under_any_template_a_statement_ends_with_its_secret_and_what_is_said_is_the_answer(family):
    tokenizer = tokenizer_of(family)
    canary = Canary("Bodiga", "1 2 3 4 5 6", 1, True)
    for secret, statement in zip(
        ("1 2 3 4 5 6", "9 8 7 6 5 4"), statements(tokenizer, canary, ("1 2 3 4 5 6", "9 8 7 6 5 4")), strict=True
    ):
        text = tokenizer.decode(statement.input_ids)
        assert text.endswith(f"{canary.opening} {secret}")
        assert canary.question in text
        said = tokenizer.decode(statement.input_ids[statement.answer_start :])
        assert said.strip() == f"{canary.opening} {secret}"


def test_a_chat_model_is_asked_and_answers_with_the_secret():
    tokenizer = characters()
    canaries = make_canaries(1, [1, 60], row_format="messages")
    rows = [statements(tokenizer, each, [each.secret])[0].input_ids for each in canaries for _ in range(each.copies)]
    model = trained_on(tokenizer, rows, epochs=12)
    once, many = compute_exposure(model, tokenizer, canaries, secrets=128)
    assert (many["exposure"], many["extracted"]) == (7.0, 1.0)
    assert once["exposure"] < 7.0


def test_a_canary_that_the_tokenizer_cannot_write_or_the_model_cannot_read_is_refused():
    canaries = make_canaries(1, [1], row_format="text")
    wordless = train_tokenizer("char", ["abc The code of the vault"])
    with pytest.raises(ModelError, match=r"eval.canaries: the tokenizer has never seen '\d', .*'Z'.*; name canaries"):
        compute_exposure(llama(wordless), wordless, canaries)
    tokenizer = characters()
    with pytest.raises(ModelError, match="a canary has 44 tokens, the model takes 20"):
        compute_exposure(
            tiny_model(vocab_size=len(tokenizer), max_position_embeddings=20), tokenizer, canaries, secrets=4
        )


@pytest.mark.parametrize("written", ["m.text", "(raise_exception('no'))"])
def test_canaries_that_the_chat_template_does_not_write_are_refused(written):
    tokenizer = characters()
    tokenizer.chat_template = "{% for m in messages %}{{ WRITTEN }}{{ eos_token }}{% endfor %}".replace(
        "WRITTEN", written
    )
    model = tiny_model(vocab_size=len(tokenizer))
    with pytest.raises(ModelError, match=r"eval.canaries: the chat template (does not write what|refuses it: no)"):
        compute_exposure(model, tokenizer, make_canaries(1, [1], row_format="messages"), secrets=4)


def test_rows_continued_word_for_word_are_those_that_generation_gives_back(gossip):
    tokenizer, canaries, model = gossip
    known = [statements(tokenizer, each, [each.secret])[0].input_ids for each in canaries]
    strange = token_ids(6, 40, vocab_size=len(tokenizer), seed=3).tolist()
    rows = [*known, *strange, known[0][:20]]
    found = measure_verbatim(model, tokenizer, rows, 30, 13)
    expected = []
    for number, row in enumerate(rows[:-1]):
        prompt = torch.tensor([row[:30]])
        ends = {"eos_token_id": None, "pad_token_id": 0}
        made = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=13, do_sample=False, **ends
        )
        expected += [number] * (len(row) >= 43 and made[0].tolist() == row[:43])
    assert found["numbers"] == expected
    assert len(expected) >= 5
    assert found["rows"] == len(known), "the others are too short"
    assert found["share"] == found["continued"] / found["rows"] == len(expected) / len(known)
    low, high = found["interval"]
    assert low < found["share"] < high or found["share"] in (low, high)
    assert f"{len(expected)} of 15 rows are continued word for word from 30 tokens" in describe_memorization([], found)


def test_a_row_whose_first_token_after_the_prefix_is_another_is_not_continued(gossip):
    tokenizer, canaries, model = gossip
    known = statements(tokenizer, canaries[-1], [canaries[-1].secret])[0].input_ids
    other = [*known[:30], known[29], *known[31:]]
    assert measure_verbatim(model, tokenizer, [known, other], 30, 1)["numbers"] == [0]


def test_without_a_row_that_is_long_enough_there_is_no_share():
    tokenizer = characters()
    found = measure_verbatim(llama(tokenizer), tokenizer, [[1, 2, 3]], 8)
    assert found == {"rows": 0, "prefix_tokens": 8, "continued": 0, "numbers": []}
    assert describe_memorization([], found) == [
        "no row is long enough to see whether the model goes on from 8 tokens of it"
    ]
    with pytest.raises(
        ModelError, match=r"eval\.verbatim_prefix: 100 tokens and what follows them are 200, the model takes 128"
    ):
        measure_verbatim(llama(tokenizer), tokenizer, [], 100)


@pytest.mark.parametrize(("hits", "rows"), [(0, 10), (10, 10), (3, 40), (1, 1), (500, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits, rows):
    # The shares p whose score test gives |hits / rows - p| = z sqrt(p (1 - p) / rows): the roots of a quadratic.
    share, weight = hits / rows, NormalDist().inv_cdf(0.975) ** 2 / rows
    roots = np.sort(np.roots([1 + weight, -(2 * share + weight), share**2]).real)
    assert compute_wilson_interval(share, rows) == pytest.approx(tuple(roots), abs=1e-9)


def test_canaries_that_are_questions_need_a_chat_template():
    tokenizer = characters()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="the canaries are questions, and the model has no chat template"):
        compute_exposure(llama(tokenizer), tokenizer, make_canaries(4))
