"""Every recipe on tiny models of the families that transformers ships: right by plain transformers, or refused.

pytest tests/test_families.py                    # 40 families
pytest tests/test_families.py --every-family     # all of models/architectures.py, several minutes
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
from models.architectures import FAMILIES, get_tokenizer, save_family
from models.family_runs import CELLS, run_cells, write_rows
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import hf_finetune as hf
from hf_finetune.errors import DataError, ModelError
from hf_finetune.models.tokenizers import ensure_special_tokens

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

# peft 0.21, where an adapter is loaded by it alone; our own loading hides them.
OF_PLAIN_PEFT = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:.*_pattern keys did not match:RuntimeWarning",
)


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


@OF_PLAIN_PEFT
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


WRITE = ("sft", "lora", "score")
LACKING = {("eos_token",): WRITE, ("pad_token", "bos_token"): (), ("pad_token", "eos_token"): WRITE}


@OF_PLAIN_PEFT
@pytest.mark.parametrize("lacking", LACKING, ids="-".join)
def test_a_tokenizer_without_a_special_token_trains_or_is_refused_in_words(lacking, rows, tmp_path):
    base = save_family(tmp_path / "base", "llama")
    leave_out_tokens(base, lacking)
    found = run_cells(base, tmp_path, rows)
    expected = dict.fromkeys(LACKING[lacking], "no end token to end documents with; set `eos_token`")
    expected |= {"merge": NO_ADAPTER} if expected else {}
    assert {cell for cell, message in found.items() if message is not None} == expected.keys(), found
    assert all(words in (found[cell] or "") for cell, words in expected.items()), found


def leave_out_tokens(folder: Path, names: tuple[str, ...]) -> None:
    """Leave the ids of these tokens unset in the tokenizer and in the configuration of a saved model."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name in names:
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {f"{name}_id": None for name in names}))


def test_an_encoder_pads_with_the_token_of_the_usual_name_and_is_refused_without_one(tmp_path):
    tokenizer = copy.copy(get_tokenizer("bert"))
    tokenizer.pad_token = None
    ensure_special_tokens(tokenizer, needs_end=False)
    assert tokenizer.pad_token == "[PAD]"
    base = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    with pytest.raises(ModelError, match="has no token to pad texts with; set `pad_token`"):
        ensure_special_tokens(base, needs_end=False)


def test_a_label_that_is_no_number_is_refused_by_its_line(tmp_path):
    base = save_family(tmp_path / "base", "bert")
    kinds = {"number": (0.5, "NaN"), "single": ("a", "NaN"), "multi": (["a"], "[NaN]")}
    for kind, (label, broken) in kinds.items():
        row = json.dumps({"text": "x", "label": label})
        path = tmp_path / f"{kind}.jsonl"
        path.write_text(f'{row}\n{{"text": "y", "label": {broken}}}\n{row}\n')
        run = {"recipe": "classification", "output_dir": str(tmp_path / kind), "model": {"path": str(base)}}
        with pytest.raises(DataError, match=rf"{kind}\.jsonl:2: NaN is not JSON"):
            hf.train({**run, "data": {"train": str(path)}, "train": {"max_steps": 1, "use_cpu": True, "bf16": False}})
