"""Every recipe on tiny models of the families that transformers ships: right by plain transformers, or refused.

pytest tests/test_families.py                    # 40 families
pytest tests/test_families.py --every-family     # all of models/architectures.py, several minutes
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from models.architectures import FAMILIES, save_family
from models.family_runs import CELLS, run_cells, write_rows

# 40 of them: each kind of attention, of position, of head, of router and of state that there is.
SPREAD = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt"),
    *("bloom", "falcon", "mpt", "phi3", "olmo2", "cohere", "granite", "modernbert-decoder"),
    *("mixtral", "qwen2_moe", "granitemoe", "phimoe", "gpt_oss", "deepseek_v3"),
    *("mamba", "mamba2", "rwkv", "recurrent_gemma", "jamba", "falcon_h1", "qwen3_next"),
    *("bert", "roberta", "deberta-v2", "xlnet", "fnet", "esm", "t5", "gemma3"),
)

NO_CLASSIFIER = "for which transformers has no sequence classifier"
ENCODER = r"is an encoder \(.*\), which sees the tokens that it would have to predict; name a decoder"
ENCODER_DECODER = (
    r"is an encoder-decoder \(.*\), which writes with a second stack that no recipe trains; name a decoder"
)
NO_ADAPTER = "is not an adapter"
MORE_THAN_TEXT = "of which only a part reads text; name a model of text alone"
REFUSED = {
    "encoder": {"sft": ENCODER, "lora": ENCODER, "merge": NO_ADAPTER, "score": ENCODER},
    "encoder-decoder": dict.fromkeys(("sft", "lora", "score"), ENCODER_DECODER) | {"merge": NO_ADAPTER},
    "decoder": {},
}
# Which families have no classifier is transformers' own list, and not ours.
WITHOUT_CLASSIFIER = (
    *("cohere", "cohere2", "granite", "ernie4_5", "nanochat", "olmoe", "granitemoe", "dbrx", "mamba", "mamba2"),
    *("falcon_mamba", "rwkv", "recurrent_gemma", "bamba", "falcon_h1", "lfm2", "nemotron_h", "granitemoehybrid"),
    *("codegen", "xglm", "pegasus"),
)
READS_PADDING = {"classification": "whose scores of a text change with the longer texts beside it"}
OTHERS = {
    "xlnet": REFUSED["encoder"] | READS_PADDING,
    "fnet": REFUSED["encoder"] | READS_PADDING,
    "gemma3": dict.fromkeys(("sft", "lora", "classification"), MORE_THAN_TEXT) | {"merge": NO_ADAPTER},
}


def expect_refusals(name: str) -> dict[str, str]:
    """The cells of a family that are to be refused, each with what its message is to say."""
    without = {"classification": NO_CLASSIFIER} if name in WITHOUT_CLASSIFIER else {}
    return OTHERS.get(name, REFUSED[FAMILIES[name].kind] | without)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        chosen = tuple(FAMILIES) if metafunc.config.getoption("--every-family") else SPREAD
        metafunc.parametrize("family", chosen)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder)
    return folder


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft 0.21, loaded plainly
def test_every_recipe_is_right_on_a_family_or_refuses_it_in_words(family, rows, tmp_path):
    found = run_cells(save_family(tmp_path / "base", family), tmp_path, rows)
    expected = expect_refusals(family)
    assert found.keys() == set(CELLS)
    assert {cell for cell, message in found.items() if message is not None} == expected.keys(), found
    for cell, words in expected.items():
        assert re.search(words, found[cell] or ""), found[cell]


def test_the_spread_is_of_forty_families():
    assert len(set(SPREAD)) == len(SPREAD) == 40
    assert set(SPREAD) <= FAMILIES.keys()
