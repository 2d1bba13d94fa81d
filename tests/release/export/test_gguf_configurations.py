"""Small models of any configuration that GGUF files are written of: llama.cpp computes what transformers does."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from release.export.gguf_models import GEMMA, KINDS, ROTATIONS, VOCABULARY, log_probabilities, tiny, write

from hf_finetune.errors import ModelError
from hf_finetune.release.export.gguf.llama_cpp import LlamaCpp
from hf_finetune.release.export.gguf.settings import describe_settings

pytest.importorskip("xllamacpp")

FAMILIES = ("gemma", "gemma2", "gemma3", "gpt2", "llama", "mistral", "qwen2", "qwen3")
EXAMPLES = 8


@st.composite
def configurations(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """Fields of a configuration: sizes that do not follow from one another, heads, rotations, windows, biases."""
    heads = draw(st.sampled_from([1, 2, 4, 6]))
    vocabulary, tied = VOCABULARY + draw(st.integers(0, 40)), draw(st.booleans())
    if kind == "gpt2":
        sizes = {"n_embd": heads * draw(st.sampled_from([8, 16])), "n_head": heads, "n_layer": draw(st.integers(1, 3))}
        inner = draw(st.sampled_from([None, 40, 96]))
        return {**sizes, "n_inner": inner, "vocab_size": vocabulary, "tie_word_embeddings": tied}
    size = draw(st.sampled_from([8, 16, 32]))
    fields: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": draw(st.sampled_from([each for each in (32, 48, 96) if each % heads == 0])),
        "intermediate_size": draw(st.sampled_from([40, 64, 96])),
        "num_hidden_layers": draw(st.integers(1, 7 if kind == "gemma3" else 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": draw(st.sampled_from([each for each in (1, 2, 3, 6) if heads % each == 0])),
        "head_dim": size,
        "tie_word_embeddings": tied,
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
    }
    if kind in ("gemma2", "gemma3"):
        fields |= GEMMA | {"head_dim": size, "query_pre_attn_scalar": size, "sliding_window": draw(st.integers(4, 40))}
    elif kind != "gemma":
        turned = draw(st.sampled_from([None, *ROTATIONS]))
        kinds = {"rope_type": "default"} if turned is None else {"rope_type": turned, **ROTATIONS[turned]}
        fields["rope_parameters"] = {"rope_theta": draw(st.sampled_from([1e4, 5e5])), **kinds}
    if kind == "llama":
        fields |= {"attention_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())}
    if kind in ("gemma", "qwen3"):
        fields["attention_bias"] = draw(st.booleans())
    if kind == "mistral":
        fields["sliding_window"] = draw(st.sampled_from([None, 64]))
    if kind == "qwen2":
        # Its heads are as wide as the hidden size says.
        fields |= {"hidden_size": heads * size, "head_dim": size}
    return fields


@pytest.mark.parametrize("kind", FAMILIES)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_llama_cpp_computes_any_model_of_the_family(kind: str, data: st.DataObject) -> None:
    fields = data.draw(configurations(kind))
    ids = data.draw(st.lists(st.integers(3, VOCABULARY - 3), min_size=2, max_size=60))
    model = tiny(kind, **fields)
    try:
        describe_settings(model.config)
    except ModelError:
        return  # named and refused, which is as good
    with TemporaryDirectory() as folder, LlamaCpp(write(Path(folder), model), context=128) as theirs:
        found = theirs.find_log_probabilities(ids, model.config.vocab_size)
    # llama.cpp looks up Gemma's and GPT-2's activation in a table of 16 bits.
    close = 2e-3 if kind.startswith(("gemma", "gpt2")) else 1e-4
    assert np.abs(found - log_probabilities(model, ids)).max() < close


def test_every_family_is_among_them() -> None:
    assert {KINDS[kind][0].model_type.removesuffix("_text") for kind in FAMILIES} == {*FAMILIES}
