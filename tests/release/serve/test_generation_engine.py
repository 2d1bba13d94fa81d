"""Answers that are generated together are those that each prompt gets alone."""

from __future__ import annotations

import queue

import pytest
import torch
from chat_models import parrot, talking_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from models.scratch_models import VARIANTS, tiny_model
from release.serve.small_servers import NEVER_ENDS, wait_until
from transformers import MistralConfig, MistralForCausalLM
from tuned_adapters import TOKENIZER

from hf_finetune.config.sections import EvalSection
from hf_finetune.errors import ModelError
from hf_finetune.evaluation.generation.prompts import continue_prompts, encode_beginning
from hf_finetune.release.serve.engine import lanes
from hf_finetune.release.serve.engine.jobs import Asked, Failed, Finished, Job, Piece
from hf_finetune.release.serve.engine.lanes import make_lane
from hf_finetune.release.serve.engine.scheduler import NotServing, QueueFull, Scheduler
from hf_finetune.release.serve.engine.text import StopText

PROMPTS = ["a", "The cat sat", "No", "why is it so, then", "x y z", "Hm", "qq"]


def windowed():
    """Layers that look back at a few tokens only, whose cache in transformers holds no more."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(
        vocab_size=61, intermediate_size=32, sliding_window=5, max_position_embeddings=64, pad_token_id=0, **sizes
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MistralForCausalLM(config).eval()


MODELS = {name: lambda fields=fields: tiny_model(**fields) for name, fields in VARIANTS.items()} | {"windows": windowed}


def serve(*made, running=4, waiting=50):
    return Scheduler({each.name: each for each in made}, running=running, waiting=waiting)


def lane(model, tokenizer=TOKENIZER, name="m"):
    return make_lane(name, model, tokenizer, lambda: None, "tuned")


def collect(events):
    text = ""
    while isinstance(event := events.get(timeout=30), Piece):
        text += event.text
    return text, event


def asked_of(lane, ids, settings, **more):
    return Asked(lane.name, tuple(ids), settings, lane.text_ends, penalize_prompt=True, **more)


@pytest.mark.parametrize("name", MODELS)
def test_texts_that_join_and_leave_are_those_of_generate_with_seeds_and_penalties(name):
    made = lane(MODELS[name]())
    assert made.batches
    kinds = [{"temperature": 0}, {"temperature": 0.9, "top_k": 7}, {"temperature": 1.2, "top_p": 0.8}]
    wanted = [
        (prompt, EvalSection(max_new_tokens=3 + number % 5, seed=number, repetition_penalty=1.0 + number % 2, **kind))
        for number, prompt in enumerate(PROMPTS)
        for kind in kinds
    ]
    expected = [continue_prompts(made.model, TOKENIZER, [prompt], each)[0] for prompt, each in wanted]
    scheduler, events = serve(made), [queue.Queue() for _ in wanted]
    scheduler.submit(
        [
            Job(asked_of(made, encode_beginning(TOKENIZER, prompt), each), came.put)
            for (prompt, each), came in zip(wanted, events, strict=True)
        ]
    )
    found = [collect(each) for each in events]
    scheduler.end()
    assert [text for text, _ in found] == [each.continuation for each in expected]
    assert [end for _, end in found] == [
        Finished("stop" if each.finished else "length", each.tokens) for each in expected
    ]


def test_a_model_that_reads_padding_answers_one_prompt_at_a_time(monkeypatch):
    monkeypatch.setattr(lanes, "_ignores_padding", lambda *_: False)
    made = lane(tiny_model())
    assert not made.batches
    scheduler, events = serve(made), [queue.Queue() for _ in PROMPTS]
    settings = EvalSection(temperature=0, max_new_tokens=6)
    jobs = [
        Job(asked_of(made, encode_beginning(TOKENIZER, prompt), settings), came.put)
        for prompt, came in zip(PROMPTS, events, strict=True)
    ]
    most = []
    step = made.model.forward
    monkeypatch.setattr(made.model, "forward", lambda **given: most.append(len(given["input_ids"])) or step(**given))
    scheduler.submit(jobs)
    found = [collect(each)[0] for each in events]
    scheduler.end()
    monkeypatch.undo()
    assert set(most) == {1}
    assert found == [each.continuation for each in continue_prompts(made.model, TOKENIZER, PROMPTS, settings)]


def test_a_model_whose_steps_say_something_else_than_generate_is_refused(monkeypatch):
    monkeypatch.setattr(lanes, "generate_ids", lambda *_: [[5, 5, 5, 5]])
    with pytest.raises(ModelError, match="something else than `hf-finetune generate`"):
        lane(tiny_model())


def test_a_row_that_is_no_number_fails_alone():
    tokenizer = talking_tokenizer()
    model = parrot(tokenizer, {"a": "b", "c": "d"})
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.get_vocab()["b"]] = torch.nan
    scheduler, good, bad = serve(lane(parrot(tokenizer, {"a": "b", "c": "d"}), tokenizer)), queue.Queue(), queue.Queue()
    broken = next(iter(scheduler._lots.values()))
    broken.batch.model = model
    settings, vocabulary = EvalSection(temperature=0, max_new_tokens=4), tokenizer.get_vocab()
    scheduler.submit(
        [
            Job(Asked("m", (vocabulary[letter],), settings, frozenset({tokenizer.eos_token_id})), came.put)
            for letter, came in (("c", good), ("a", bad))
        ]
    )
    assert collect(good) == ("d", Finished("stop", 2))
    assert collect(bad)[1] == Failed("non_finite")
    scheduler.end()


def test_what_fails_in_one_model_does_not_end_the_answers_of_another(caplog, monkeypatch):
    tokenizer = talking_tokenizer()
    fine, faulty, full = (lane(parrot(tokenizer, {"a": "b"}), tokenizer, name) for name in ("fine", "faulty", "full"))
    scheduler = serve(fine, faulty, full)

    def fail(words):
        def forward(*_, **__):
            raise RuntimeError(words)

        return forward

    monkeypatch.setattr(faulty.model, "forward", fail("what the client has said"))
    monkeypatch.setattr(full.model, "forward", fail("CUDA out of memory."))
    ends = {}
    for _ in range(2):
        for name in ("faulty", "full", "fine"):
            came = queue.Queue()
            asked = Asked(name, (tokenizer.get_vocab()["a"],), EvalSection(temperature=0), fine.text_ends)
            scheduler.submit([Job(asked, came.put)])
            ends[name] = collect(came)
    assert ends == {
        "faulty": ("", Failed("fault")),
        "full": ("", Failed("memory")),
        "fine": ("b", Finished("stop", 2)),
    }
    assert scheduler.counts == (0, 0)
    scheduler.end()
    assert "faulty has failed" in caplog.text
    assert "in fail" in caplog.text or "forward" in caplog.text
    assert "what the client has said" not in caplog.text


def test_who_goes_leaves_no_place_taken_and_who_is_too_many_is_told():
    tokenizer = talking_tokenizer()
    made = lane(parrot(tokenizer, NEVER_ENDS, positions=10**6), tokenizer)
    scheduler, events = serve(made, running=3, waiting=2), queue.Queue()
    asked = Asked("m", (tokenizer.get_vocab()["a"],), EvalSection(temperature=0, max_new_tokens=10**5), made.text_ends)
    jobs = [Job(asked, events.put) for _ in range(5)]
    scheduler.submit(jobs)
    wait_until(lambda: scheduler.counts == (2, 3))
    with pytest.raises(QueueFull):
        scheduler.submit([Job(asked, events.put)])
    for job in jobs[:4]:
        job.dropped.set()
    wait_until(lambda: scheduler.counts == (0, 1))
    late = Job(asked, events.put, deadline=0.0)
    scheduler.submit([late])
    wait_until(lambda: scheduler.counts == (0, 1))
    scheduler.close()
    with pytest.raises(NotServing):
        scheduler.submit([Job(asked, events.put)])
    assert not scheduler.wait_until_idle(0.05)
    scheduler.end()
    ends = [event for event in events.queue if isinstance(event, Failed)]
    assert [each.why for each in ends] == [*["cancelled"] * 4, "timeout", "stopping"]


@given(text=st.text("abc", max_size=30), stop=st.text("abc", min_size=1, max_size=4), cuts=st.lists(st.integers(1, 4)))
def test_a_stop_string_ends_a_text_however_its_pieces_come(text, stop, cuts):
    pieces, rest = [], text
    for size in cuts:
        pieces.append(rest[:size])
        rest = rest[size:]
    stops, shown = StopText([stop]), ""
    for piece in [*pieces, rest]:
        if stops.found:
            break
        shown += stops.add(piece)
        assert stop not in shown
    shown += "" if stops.found else stops.end()
    assert shown == text.partition(stop)[0]
    assert stops.found == (stop in text)
