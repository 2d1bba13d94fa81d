"""Embeddings of n-grams: which are added to which token, and that a cache keeps the tokens that they need."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from models.scratch_models import tiny_config, tiny_model, token_ids
from transformers import DynamicCache

from hf_finetune.models.scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM

FIELDS = {"ngram_order": 3, "ngram_vocab_size": 101}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def sum_by_hand(model: ScratchGPTForCausalLM, ids: list[int]) -> torch.Tensor:
    """What the model reads of a text: one token after the other, in Python's whole numbers."""
    table, order, rows = model.model.embed_ngrams.weight, model.config.ngram_order, model.config.ngram_vocab_size
    states = []
    for place, token in enumerate(ids):
        state = model.model.embed_tokens.weight[token].clone()
        for length in range(2, min(order, place + 1) + 1):
            number = sum(ids[place - k] * 1_000_003 ** (length - 1 - k) for k in range(length)) % (2**31 - 1)
            state += table[1 + (length - 2) * rows + number % rows]
        states.append(state)
    return torch.stack(states)


def test_each_token_has_its_own_embedding_and_those_of_the_ngrams_that_end_at_it():
    model, ids = tiny_model(ngram_order=4, ngram_vocab_size=37), token_ids(1, 9)
    model.model.embed_ngrams.weight.data[0] = 0  # of no n-gram: `tiny_model` changes every weight
    plain = tiny_model()
    plain.load_state_dict({name: each for name, each in model.state_dict().items() if "ngrams" not in name})
    by_hand = plain(inputs_embeds=sum_by_hand(model, ids[0].tolist())[None]).logits
    torch.testing.assert_close(model(ids).logits, by_hand, **CLOSE)
    assert (plain(ids).logits - by_hand).abs().max() > 1e-2


def test_large_ids_do_not_overflow():
    from hf_finetune.models.scratch_gpt.modeling_scratch_gpt import hash_ngrams

    ids = [2**31 - 2, 2**31 - 3, 2**31 - 4, 7]
    numbers = hash_ngrams(torch.tensor([[0, 0, 0, *ids]]), torch.arange(4)[None], 4, 10_007)
    number = (((7 * 1_000_003 + ids[2]) * 1_000_003 + ids[1]) * 1_000_003 + ids[0]) % (2**31 - 1) % 10_007
    assert numbers[0, :, 2].tolist() == [0, 0, 0, 1 + 2 * 10_007 + number]


@torch.no_grad()
@pytest.mark.parametrize("options", [{"num_beams": 4}, {"prompt_lookup_num_tokens": 3}], ids=["beams", "cropped"])
def test_a_cache_that_is_reordered_or_shortened_has_the_tokens_of_its_texts(options):
    model, ids = tiny_model(**FIELDS), token_ids(1, 12, vocab_size=8)
    options |= {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    with_cache = model.generate(ids, **options)
    if "num_beams" in options:
        expected = model.generate(ids, use_cache=False, **options)
    else:  # drafts that are refused are cut from the cache: what is left is greedy
        expected = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None, use_cache=False)
    assert with_cache.tolist() == expected.tolist()


@torch.no_grad()
@pytest.mark.parametrize("with_config", [True, False])
def test_a_given_cache_is_gone_on_with_from_any_token(with_config):
    model, ids = tiny_model(**FIELDS), token_ids(2, 9)
    cache = DynamicCache(config=model.config) if with_config else DynamicCache()
    pieces = [model(part, past_key_values=cache).logits for part in ids.split((1, 2, 5, 1), dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids).logits, **CLOSE)


def test_a_token_that_is_added_to_the_vocabulary_changes_no_ngram():
    model, ids = tiny_model(**FIELDS), token_ids(2, 7)
    before = model(ids).logits
    model.resize_token_embeddings(70, mean_resizing=False)
    torch.testing.assert_close(model(ids).logits[..., :61], before, **CLOSE)


def test_an_untrained_table_changes_nothing_and_the_row_of_no_ngram_is_never_trained():
    torch.manual_seed(0)
    model, ids = ScratchGPTForCausalLM(tiny_config(**FIELDS)), token_ids(2, 7)
    assert not model.model.embed_ngrams.weight.any()
    torch.nn.init.normal_(model.lm_head.weight)
    model(ids, labels=ids).loss.backward()
    gradient = model.model.embed_ngrams.weight.grad
    assert gradient[1:].any()
    assert not gradient[0].any()


def test_embeddings_in_place_of_ids_are_refused_since_they_have_no_ngrams():
    with pytest.raises(ValueError, match=r"give input_ids.*ngram_order 3"):
        tiny_model(**FIELDS)(inputs_embeds=torch.zeros(1, 2, 32))


def test_a_configuration_from_before_ngrams_has_none_and_0_is_refused():
    saved = {name: value for name, value in tiny_config().to_dict().items() if not name.startswith("ngram")}
    config = ScratchGPTConfig.from_dict(saved)
    assert ScratchGPTForCausalLM(config).model.embed_ngrams is None
    with pytest.raises(StrictDataclassError, match="ngram_order is 0"):
        tiny_config(ngram_order=0)
