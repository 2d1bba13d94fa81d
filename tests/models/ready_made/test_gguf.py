"""A GGUF file becomes the model folder that it was made from, or nothing."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf_files import CHATML, TEXTS, digits_apart_tokenizer, tiny_llama, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config

from hf_finetune.errors import ConfigError, ModelError
from hf_finetune.models import make_model
from hf_finetune.models.ready_made.gguf import _check_complete
from hf_finetune.models.ready_made.gguf_header import GgufHeader, read_gguf_header

TOKENIZER = digits_apart_tokenizer()
HARD = [*TEXTS, "a\n\n\n12  3", "    7\t8\r\n", "caf\u00e9 \u65e5\u672c\U0001f600 \u00bd\u0663", "\x00 <|im_end|> x "]


@pytest.fixture(scope="module")
def model():
    return tiny_llama(len(TOKENIZER))


@pytest.fixture
def file(tmp_path, model):
    return write_gguf(tmp_path / "tiny.gguf", model, TOKENIZER)


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_holds_the_model_that_the_file_was_made_of(tmp_path, tied):
    model = tiny_llama(len(TOKENIZER), tied=tied)
    made = make_model(str(write_gguf(tmp_path / "tiny.gguf", model, TOKENIZER)), tmp_path / "made")
    assert made.parameters == model.num_parameters()
    assert (made.notes, made.already_there) == ((), False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert loaded.dtype == torch.float32
    ids = torch.randint(len(TOKENIZER), (2, 20), generator=torch.Generator().manual_seed(1))
    assert torch.equal(logits(loaded, ids), logits(model, ids))
    assert "quantization_config" not in json.loads((tmp_path / "made" / "config.json").read_text())


def test_its_tokenizer_gives_the_tokens_of_the_original_and_the_text_back(tmp_path, file):
    make_model(str(file), tmp_path / "made")
    made = AutoTokenizer.from_pretrained(tmp_path / "made")
    for text in HARD:
        ids = made(text, add_special_tokens=False)["input_ids"]
        assert ids == TOKENIZER(text, add_special_tokens=False)["input_ids"], text
        assert made.decode(ids) == text
    assert (made.eos_token, made.model_max_length, made.chat_template) == ("<|im_end|>", 128, CHATML)
    generation = json.loads((tmp_path / "made" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2]


def test_transformers_alone_would_split_numbers_otherwise(file):
    """Why we set the splitting ourselves: when this fails, what we do can go."""
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert theirs.tokenize(TEXTS[0]) != TOKENIZER.tokenize(TEXTS[0])


@pytest.mark.parametrize("split", ["no-such-rule", None])
def test_an_unknown_rule_of_splitting_is_said(tmp_path, model, split):
    file = write_gguf(tmp_path / "tiny.gguf", model, TOKENIZER, split=split)
    made = make_model(str(file), tmp_path / "made")
    assert len(made.notes) == 1
    assert "GPT-2" in made.notes[0]
    assert made.notes[0] in (tmp_path / "made" / "README.md").read_text()


def test_quantized_weights_are_those_that_gguf_dequantizes(tmp_path, model):
    file = write_gguf(tmp_path / "tiny.gguf", model, TOKENIZER, stored=GGMLQuantizationType.Q8_0)
    make_model(str(file), tmp_path / "made")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "made").state_dict()
    expected = {each.name: gguf.dequantize(each.data, each.tensor_type) for each in gguf.GGUFReader(file).tensors}
    for ours, theirs in (("mlp.down_proj", "ffn_down"), ("self_attn.v_proj", "attn_v")):
        weight = expected[f"blk.1.{theirs}.weight"]
        assert np.array_equal(loaded[f"model.layers.1.{ours}.weight"].numpy(), weight)
    assert not torch.equal(loaded["model.layers.1.mlp.down_proj.weight"], model.model.layers[1].mlp.down_proj.weight)
    assert "Q8_0" in (tmp_path / "made" / "README.md").read_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_precision_is_the_one_asked_for(tmp_path, file, model, dtype):
    make_model(str(file), tmp_path / "made", dtype)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype="auto")
    assert loaded.dtype == getattr(torch, dtype)
    rounded = model.lm_head.weight.to(loaded.dtype)
    assert torch.equal(loaded.lm_head.weight, rounded)


def test_the_card_says_what_the_file_says_and_nothing_that_a_page_would_obey(tmp_path, file):
    make_model(str(file), tmp_path / "made")
    card = (tmp_path / "made" / "README.md").read_text()
    assert "license: mit" in card
    assert "Tiny b one" in card
    assert json.loads((tmp_path / "made" / "origin.json").read_text())["source"] == "tiny.gguf"


def test_a_second_call_finds_the_folder_and_another_model_leaves_it(tmp_path, file, model):
    make_model(str(file), tmp_path / "made")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "made").iterdir()}
    assert make_model(str(file), tmp_path / "made").already_there
    with pytest.raises(ConfigError, match="is there already"):
        make_model(str(file), tmp_path / "made", "bfloat16")
    (tmp_path / "made" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is there already"):
        make_model(str(file), tmp_path / "made")
    assert before.keys() == {path.name for path in (tmp_path / "made").iterdir()}


def torn(name):
    def tear(path, model):
        data = bytearray(write_gguf(path, model, TOKENIZER).read_bytes())
        if name == "cut":
            data = data[:-100]
        elif name == "cut header":
            data = data[:500]
        elif name == "empty":
            data = b""
        elif name == "no gguf":
            data = b"PK\x03\x04" + data[4:]
        elif name == "version 1":
            data[4:8] = struct.pack("<I", 1)
        elif name == "count":
            data[8:16] = struct.pack("<Q", 1 << 60)
        path.write_bytes(data)

    return tear


def written(**options):
    def write(path, model):
        write_gguf(path, model, options.pop("tokenizer", TOKENIZER), **options)

    return write


BAD = {
    "cut": (torn("cut"), "is cut off: it has"),
    "cut header": (torn("cut header"), "cut off within its header"),
    "empty": (torn("empty"), "is empty"),
    "no gguf": (torn("no gguf"), "is no GGUF file: it begins with 'PK"),
    "version 1": (torn("version 1"), "is of version 1"),
    "count": (torn("count"), "entries, which no model has"),
    "big-endian": (written(endian=gguf.GGUFEndian.BIG), "is big-endian"),
    "no tokenizer": (written(tokenizer=None), "holds no tokenizer"),
    "split": (written(values={"split.count": 2, "split.no": 0}), "is part 1 of a model in 2 files"),
    "architecture": (written(architecture="rwkv6"), "cannot be read by transformers"),
    "split in words": (written(values={"split.count": 2, "split.no": "one"}), "is a part of a model in 2 files"),
    "scaled": (written(extra={"rope_freqs.weight": np.ones(8, np.float32)}), "scales its positions"),
    "rope scaling": (written(values={"llama.rope.scaling.type": "yarn"}), "scales its positions"),
    "lacks": (written(without=["blk.1.ffn_up.weight"]), "weights, of which transformers makes"),
    "other names": (
        written(without=["blk.1.ffn_up.weight"], extra={"blk.1.ffn_pu.weight": np.ones((96, 64), np.float32)}),
        "lacks, or has no place for, ",
    ),
    "more": (written(extra={"blk.7.ffn_up.weight": np.ones((4, 4), np.float32)}), "weights, of which transformers"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_cannot_be_converted_gets_one_message_and_leaves_nothing(tmp_path, model, kind):
    make, said = BAD[kind]
    path = tmp_path / "bad.gguf"
    make(path, model)
    with pytest.raises(ModelError) as problem:
        make_model(str(path), tmp_path / "models" / "made")
    assert said in str(problem.value)
    assert all(each.code for each in problem.value.problems)
    assert str(problem.value).startswith(f"{path}: ")
    assert len(str(problem.value).splitlines()) == 1
    assert problem.value.exit_code == 2
    assert not [*(tmp_path / "models").glob("*")]


def test_no_cut_of_a_file_is_taken_for_a_model(tmp_path, file):
    data = file.read_bytes()
    for end in range(0, len(data), 1499):
        (tmp_path / "cut.gguf").write_bytes(data[:end])
        with pytest.raises(ModelError):
            read_gguf_header(tmp_path / "cut.gguf")


def test_a_header_that_lies_ends_at_once(tmp_path, file):
    """Every 8 bytes of the header in turn as a huge number: an error or a header, and never an endless count."""
    data, refused = file.read_bytes(), 0
    for place in range(8, 1200, 4):
        lied = bytearray(data)
        lied[place : place + 8] = struct.pack("<Q", (1 << 63) + 7)
        (tmp_path / "lied.gguf").write_bytes(lied)
        try:
            read_gguf_header(tmp_path / "lied.gguf")
        except ModelError:
            refused += 1
    assert refused > 10  # counts and lengths; of a value or a letter of a name there is nothing to say


def test_more_layers_than_tensors_are_refused_before_a_model_is_built(tmp_path, model, file):
    data = file.read_bytes()
    key = b"llama.block_count" + struct.pack("<I", 4)
    place = data.index(key) + len(key)
    file.write_bytes(data[:place] + struct.pack("<I", 50_000_000) + data[place + 4 :])
    with pytest.raises(ModelError, match="says that it has 50,000,000 layers"):
        make_model(str(file), tmp_path / "made")


def test_files_beside_the_gguf_file_are_not_read(tmp_path, file):
    beside = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil", "eos_token": "x"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside))
    make_model(str(file), tmp_path / "made")
    assert AutoTokenizer.from_pretrained(tmp_path / "made").eos_token == "<|im_end|>"


def test_layers_that_are_no_number_are_refused(tmp_path, model):
    header = GgufHeader({"general.architecture": "llama", "llama.block_count": "two"}, {}, {}, {})
    with pytest.raises(ModelError, match="says that it has 'two' layers, and holds 0 tensors"):
        _check_complete(header, model.config)


def test_where_no_links_can_be_made_the_file_is_copied(tmp_path, file, monkeypatch):
    def refuse(*arguments):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    make_model(str(file), tmp_path / "made")
    assert (tmp_path / "made" / "model.safetensors").is_file()


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory\); name a GGUF file that you may read"):
        read_gguf_header(tmp_path)


def test_a_model_that_does_not_continue_text_is_refused(file):
    with pytest.raises(ModelError, match="is a model of the kind 't5', which does not continue text"):
        _check_complete(read_gguf_header(file), T5Config())
