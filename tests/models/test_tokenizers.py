import hashlib
import json
import logging
import multiprocessing
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    ByT5Tokenizer,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedTokenizerFast,
)

from hf_finetune.config.sections import ModelSection, TokenizerSection, TrainTokenizer
from hf_finetune.data.tokenization.text import encode_documents
from hf_finetune.errors import DataError, ModelError
from hf_finetune.models import tokenizer_training
from hf_finetune.models.lengths import COUNT_FROM_PADDING, get_max_length
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.models.tokenizers import (
    check_tokenizer_fits,
    ensure_special_tokens,
    find_unknown_pieces,
    load_tokenizer,
)

TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "Der Bär  und\tdie Bären: e\u0301 ist nicht é, 𝒳 ist nicht X.",
    "<|eos|> <|pad|>",
]
KINDS = ["char", "word", "bpe"]

# Every text that UTF-8 can hold: all characters but lone surrogates.
any_text = st.text(st.characters(exclude_categories=["Cs"]))
few = settings(max_examples=60, deadline=None)


def trained(kind, texts=TEXTS, vocab_size=None):
    return train_tokenizer(kind, texts, vocab_size or {"char": None, "word": 100, "bpe": 300}[kind])


BPE, CHAR, WORD = trained("bpe"), trained("char"), trained("word")


def encode(tokenizer, text):
    return encode_documents(tokenizer, [text])[0]


@settings(max_examples=400, deadline=None)
@given(any_text)
@example("\r\n \u2028\x00\ufeff  ")
@example("<|eos|><|bos|><|pad|>")
@example("🧑\u200d🚀 e\u0301")
def test_bpe_gives_every_text_back(text):
    assert BPE.decode(encode(BPE, text)) == text


@few
@given(st.lists(any_text, min_size=1), st.data())
def test_char_gives_every_text_over_its_alphabet_back_one_token_a_code_point(corpus, data):
    alphabet = sorted({character for text in corpus for character in text} | {"a"})
    tokenizer = train_tokenizer("char", [*corpus, "a"])
    text = data.draw(st.text(st.sampled_from(alphabet)))
    ids = encode(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text)
    assert len(tokenizer) == len(alphabet) + 4


@few
@given(any_text)
@example("don't  stop\n\n  e\u0301 _x_ 3.14")
def test_word_gives_back_every_text_whose_words_it_knows(text):
    tokenizer = train_tokenizer("word", [text, "a"], 10_000)
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_word_tokens_are_words_marks_and_runs_of_white_space():
    tokenizer = train_tokenizer("word", ["if x_1 ==  'é':\n\tgo"], 100)
    ids = encode(tokenizer, "if x_1 ==  'é':\n\tgo")
    expected = ["if", " ", "x_1", " ", "=", "=", "  ", "'", "é", "'", ":", "\n\t", "go"]
    assert tokenizer.convert_ids_to_tokens(ids) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_pad_begin_and_end_are_three_tokens_of_the_vocabulary(kind):
    tokenizer = trained(kind)
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert ids == [0, 1, 2]
    assert (tokenizer.unk_token_id is None) == (kind == "bpe")
    assert sorted(tokenizer.vocab.values()) == list(range(len(tokenizer)))


def foreign_llama():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained("bpe").backend_tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>", " spaced out "]})
    return tokenizer


def foreign_bert():
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz[]", "##a", "##s", "##k"]
    backend = Tokenizer(models.WordPiece({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]", mask_token="[MASK]"
    )


@st.composite
def text_with_control_tokens(draw, names):
    pieces = draw(st.lists(st.one_of(st.sampled_from(names), any_text), max_size=8))
    return "".join(pieces)


@pytest.mark.parametrize("make", [*(lambda kind=kind: trained(kind) for kind in KINDS), foreign_llama, foreign_bert])
def test_no_text_can_spell_a_control_token(make):
    tokenizer = make()
    control = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    control.pop(tokenizer.unk_token_id, None)
    assert len(control) >= 2

    @few
    @given(text_with_control_tokens(sorted(control.values())))
    def none_of_them(text):
        assert control.keys().isdisjoint(encode(tokenizer, text))

    none_of_them()
    for name in control.values():
        assert control.keys().isdisjoint(encode(tokenizer, name))
        assert control.keys().isdisjoint(encode(tokenizer, f"a {name} b"))


@pytest.mark.parametrize("config", [None, GPT2Config(), LlamaConfig(), BertConfig()])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_loads_as_the_same_tokenizer_beside_any_model(tmp_path, kind, config):
    tokenizer = trained(kind)
    tokenizer.save_pretrained(tmp_path)
    if config is not None:
        config.save_pretrained(tmp_path)
    loaded = load_tokenizer(ModelSection(path=str(tmp_path)), needs_end=not isinstance(config, BertConfig))
    assert encode_documents(loaded, TEXTS) == encode_documents(tokenizer, TEXTS)
    assert loaded.all_special_tokens == tokenizer.all_special_tokens
    assert [loaded.decode(ids) for ids in encode_documents(loaded, TEXTS)] == TEXTS


ELSEWHERE = """
import hashlib, json, sys
from transformers import AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer(texts)["input_ids"]
assert "hf_finetune" not in sys.modules
from hf_finetune.models.tokenizer_training import train_tokenizer
hashes = [hashlib.sha256(train_tokenizer(kind, texts, 300).backend_tokenizer.to_str().encode()).hexdigest()
          for kind in ("char", "word", "bpe")]
print(json.dumps([ids, hashes]))
"""


def test_another_process_loads_the_folder_without_us_and_trains_the_same_bytes(tmp_path):
    texts = [*TEXTS[:2], "ties: zq qz zq qz xw wx xw wx", " ".join(f"w{number}" for number in range(300))]
    tokenizer = trained("bpe", texts)
    tokenizer.save_pretrained(tmp_path)
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path), json.dumps(texts)]
    ids, hashes = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert ids == encode_documents(tokenizer, texts)
    here = [train_tokenizer(kind, texts, 300).backend_tokenizer.to_str() for kind in KINDS]
    assert hashes == [hashlib.sha256(text.encode()).hexdigest() for text in here]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["", " \n\t", "\u2003"]])
def test_a_corpus_without_text_is_refused(kind, texts):
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_tokenizer(kind, texts, 300)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_vocabulary_larger_than_the_data_allows_ends_where_the_data_ends(kind, caplog):
    tokenizer = train_tokenizer(kind, ["ab ab ab"], 5_000)
    assert len(tokenizer) == {"word": 4 + 2, "bpe": 259 + 2}[kind]
    assert f"5000 tokens were asked for, the text gives {len(tokenizer)}" in caplog.text


def test_a_char_vocabulary_with_an_upper_bound_keeps_the_most_frequent_characters_and_says_so(caplog):
    tokenizer = train_tokenizer("char", ["aaabbc", "dd"], 6)
    assert sorted(tokenizer.vocab, key=tokenizer.vocab.get)[4:] == ["a", "b"]
    assert "2 of 4 characters become <|unk|>" in caplog.text


@pytest.mark.parametrize(("kind", "size", "least"), [("bpe", 258, "259"), ("word", 4, "5"), ("char", 1, "5")])
def test_a_vocabulary_without_room_for_the_alphabet_is_refused_with_the_least_size(kind, size, least):
    with pytest.raises(ModelError, match=f"at least {least} tokens") as caught:
        train_tokenizer(kind, TEXTS, size)
    assert caught.value.problems[0].key == "model.tokenizer.train.vocab_size"


def test_the_least_bpe_vocabulary_is_bytes_and_still_writes_everything():
    tokenizer = train_tokenizer("bpe", TEXTS, 259)
    assert len(tokenizer) == 259
    assert len(encode(tokenizer, "é𝒳")) == 6
    assert tokenizer.decode(encode(tokenizer, "é𝒳")) == "é𝒳"


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_vocabulary_size_is_needed_where_the_text_does_not_decide_it(kind):
    with pytest.raises(ModelError, match="needs a vocabulary size"):
        train_tokenizer(kind, TEXTS)


def scratch(kind, vocab_size):
    return ModelSection(tokenizer=TokenizerSection(train=TrainTokenizer(kind=kind, vocab_size=vocab_size)))


@pytest.mark.parametrize(("kind", "size"), [("char", None), ("word", 40), ("bpe", 280)])
def test_a_run_trains_its_tokenizer_on_the_text_column(kind, size):
    rows = Dataset.from_dict({"text": TEXTS * 700, "source": ["x"] * 2100})
    tokenizer = load_tokenizer(scratch(kind, size), rows)
    assert tokenizer.vocab == train_tokenizer(kind, TEXTS * 700, size).vocab


@pytest.mark.parametrize("rows", [None, Dataset.from_dict({"messages": [["x"]]})])
def test_training_a_tokenizer_without_text_rows_is_refused(rows):
    with pytest.raises(DataError, match="trained on `text` rows"):
        load_tokenizer(scratch("char", None), rows)


def test_a_named_tokenizer_goes_before_the_one_beside_the_model(tmp_path):
    trained("char").save_pretrained(tmp_path / "char")
    trained("bpe").save_pretrained(tmp_path / "bpe")
    model = ModelSection(path=str(tmp_path / "bpe"), tokenizer=str(tmp_path / "char"))
    assert load_tokenizer(model).vocab == CHAR.vocab


def test_a_model_from_scratch_without_a_tokenizer_is_refused():
    with pytest.raises(ModelError, match="needs a tokenizer"):
        load_tokenizer(ModelSection())


def refused_folder(tmp_path, key="model.path"):
    with pytest.raises(ModelError) as caught:
        load_tokenizer(ModelSection(path=str(tmp_path)))
    assert caught.value.problems[0].key == key
    assert caught.value.problems[0].remedy
    return str(caught.value)


def test_a_folder_with_a_model_and_no_tokenizer_is_refused(tmp_path):
    GPT2Config().save_pretrained(tmp_path)
    # transformers makes a GPT-2 tokenizer without a vocabulary of it
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == 1
    assert "holds no tokenizer: no tokenizer.json" in refused_folder(tmp_path)


def test_a_tokenizer_without_a_vocabulary_is_refused(tmp_path):
    GPT2Config().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    assert "has no vocabulary" in refused_folder(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    assert "holds no tokenizer: no tokenizer.json" in refused_folder(tmp_path)


def test_a_torn_tokenizer_file_is_named(tmp_path):
    trained("char").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    assert "tokenizer.json: is damaged" in refused_folder(tmp_path, key=None)


@pytest.mark.parametrize("broken", ["{}", '{"version": "1.0", "added_tokens": [], "model": {"type": "Nope"}}'])
def test_a_malformed_tokenizer_file_is_refused(tmp_path, broken):
    trained("char").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(broken)
    assert "no tokenizer can be loaded" in refused_folder(tmp_path)


def test_a_hub_id_that_is_not_cached_is_refused_offline():
    with pytest.raises(ModelError, match="no tokenizer can be loaded from 'nobody/nothing-at-all'"):
        load_tokenizer(ModelSection(path="nobody/nothing-at-all"))


def test_a_tokenizer_without_a_fast_implementation_is_refused(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    assert "ByT5Tokenizer, which has no fast implementation" in refused_folder(tmp_path)


def test_code_in_a_tokenizer_folder_is_not_run(tmp_path):
    proof = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Evil: ...\n")
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "only code of its repository can build (auto_map)" in refused_folder(tmp_path)
    assert not proof.exists()


def without_pad(*added):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained("bpe").backend_tokenizer, eos_token="<|eos|>")
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["vocab"] = {
        added[0] if added and name == "<|pad|>" else name.replace("<|pad|>", "unused"): index
        for name, index in backend["model"]["vocab"].items()
    }
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["content"] != "<|pad|>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), bos_token="<|bos|>", eos_token="<|eos|>"
    )


@pytest.mark.parametrize(("names", "pad"), [((), "<|eos|>"), (("<pad>",), "<pad>"), (("[PAD]",), "[PAD]")])
def test_a_missing_padding_token_is_chosen_once_without_a_larger_vocabulary(names, pad, caplog):
    tokenizer = without_pad(*names)
    assert tokenizer.pad_token is None
    size = len(tokenizer)
    with caplog.at_level(logging.INFO):
        ensure_special_tokens(tokenizer)
        ensure_special_tokens(tokenizer)
    assert (tokenizer.pad_token, len(tokenizer)) == (pad, size)
    assert caplog.text.count("no padding token") == 1


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=BPE.backend_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no end token"):
        load_tokenizer(ModelSection(tokenizer=str(tmp_path)))


def test_ids_beyond_the_embedding_are_refused():
    check_tokenizer_fits(BPE, GPT2Config(vocab_size=len(BPE)))
    check_tokenizer_fits(BPE, GPT2Config(vocab_size=len(BPE) + 20))
    with pytest.raises(ModelError, match=f"largest id is {len(BPE) - 1}, .* for {len(BPE) - 1} tokens"):
        check_tokenizer_fits(BPE, GPT2Config(vocab_size=len(BPE) - 1))


def test_a_model_that_ends_on_an_ordinary_word_of_the_tokenizer_is_refused():
    check_tokenizer_fits(BPE, GPT2Config(vocab_size=400, bos_token_id=1, eos_token_id=[2, 0]))
    with pytest.raises(ModelError) as caught:
        check_tokenizer_fits(BPE, GPT2Config(vocab_size=400, bos_token_id=65, eos_token_id=[2, 66]))
    assert [problem.what[:28] for problem in caught.value.problems] == [
        "the model's begin token is i",
        "the model's end token is id ",
    ]


@pytest.mark.parametrize(
    ("tokenizer_limit", "positions", "expected"), [(None, 128, 128), (64, 128, 64), (256, 128, 128), (None, None, None)]
)
def test_the_longest_row_is_what_both_accept(tokenizer_limit, positions, expected):
    tokenizer = trained("char")
    if tokenizer_limit is not None:
        tokenizer.model_max_length = tokenizer_limit
    config = MambaConfig() if positions is None else GPT2Config(n_positions=positions)
    assert get_max_length(tokenizer, config) == expected


@pytest.mark.parametrize("model_type", COUNT_FROM_PADDING)
def test_models_that_count_positions_from_the_padding_take_as_many_tokens_as_is_said(model_type):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = CONFIG_MAPPING[model_type](vocab_size=40, max_position_embeddings=20, pad_token_id=1, **sizes)
    longest = get_max_length(trained("char"), config)
    assert longest == 18
    model = AutoModel.from_config(config).eval()
    model(torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, longest + 1), 5))


def test_characters_outside_the_alphabet_are_named():
    assert find_unknown_pieces(CHAR, "Der Bär") == []
    assert find_unknown_pieces(CHAR, "ζ Bär 🧑 ζ <|eos|>") == ["ζ", "🧑"]
    assert encode(CHAR, "ζζ") == [CHAR.unk_token_id] * 2


def test_words_outside_the_vocabulary_are_named():
    assert find_unknown_pieces(WORD, "return nothing") == ["nothing"]


@given(any_text)
@few
def test_bytes_know_every_character(text):
    assert find_unknown_pieces(BPE, text) == []


def test_nothing_is_written_beside_a_loaded_tokenizer(tmp_path):
    trained("char").save_pretrained(tmp_path)
    before = sorted(path.name for path in Path(tmp_path).iterdir())
    load_tokenizer(ModelSection(path=str(tmp_path)))
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == before


ROWS = Dataset.from_dict({"text": TEXTS * 3})


@pytest.fixture
def tokenizers_trained(tmp_path, monkeypatch) -> list[str]:
    """The kinds of those that were trained, and not loaded; the cache is empty."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    train, kinds = tokenizer_training._train, []
    monkeypatch.setattr(tokenizer_training, "_train", lambda kind, *given: (kinds.append(kind), train(kind, *given))[1])
    return kinds


@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [("char", 20, "characters become <|unk|>"), ("word", 5_000, "asked for, the text gives"), ("bpe", 280, "")],
)
def test_a_run_on_the_same_rows_loads_what_an_earlier_one_has_trained(tokenizers_trained, caplog, kind, size, said):
    first, again = (load_tokenizer(scratch(kind, size), rows) for rows in (ROWS, Dataset.from_dict(ROWS.to_dict())))
    assert tokenizers_trained == [kind]
    plain = train_tokenizer(kind, ROWS["text"][:], size)
    for tokenizer in (first, again):
        assert tokenizer.backend_tokenizer.to_str() == plain.backend_tokenizer.to_str()
        assert tokenizer.special_tokens_map == plain.special_tokens_map
    assert [said in record.getMessage() for record in caplog.records] == [True] * (3 if said else 0)


@pytest.mark.parametrize(
    ("kind", "size", "rows"),
    [("word", 280, ROWS), ("bpe", 281, ROWS), ("bpe", 280, ROWS.select([1, 0, 2])), ("bpe", 280, ROWS.select([0, 1]))],
)
def test_other_rows_or_settings_have_a_tokenizer_of_their_own(tokenizers_trained, kind, size, rows):
    load_tokenizer(scratch("bpe", 280), ROWS)
    load_tokenizer(scratch(kind, size), rows)
    assert tokenizers_trained == ["bpe", kind]


def test_training_that_takes_its_time_is_said_with_the_size_of_the_texts(tokenizers_trained, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "hf_finetune")
    load_tokenizer(scratch("bpe", 281), ROWS)
    assert "training" not in caplog.text
    monkeypatch.setattr(tokenizer_training, "BYTES_WORTH_SAYING", 0)
    for _ in range(2):
        load_tokenizer(scratch("word", 280), ROWS)
    said = [line for line in caplog.messages if "training" in line]
    assert len(said) == 1
    assert re.fullmatch(r"training a word tokenizer on \d+ KiB of text", said[0])


@pytest.mark.parametrize("damage", [lambda content: content.replace(b"<|pad|>", b"<|bad|>"), lambda content: b""])
def test_a_cached_tokenizer_that_was_changed_is_trained_again(tokenizers_trained, tmp_path, damage):
    before = load_tokenizer(scratch("bpe", 280), ROWS)
    [file] = (tmp_path / "hf_finetune").glob("*.tokenizer")
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(damage(file.read_bytes()))
    assert load_tokenizer(scratch("bpe", 280), ROWS).vocab == before.vocab
    assert tokenizers_trained == ["bpe", "bpe"]


def load_when_all_are_there(barrier, trained, failed):
    train = tokenizer_training._train

    def count(*given):
        with trained.get_lock():
            trained.value += 1
        return train(*given)

    tokenizer_training._train = count
    barrier.wait(60)
    if len(load_tokenizer(scratch("bpe", 280), ROWS)) != 280:
        failed.set()


def test_of_processes_that_need_the_same_tokenizer_one_trains_it(tokenizers_trained):
    fork = multiprocessing.get_context("fork")
    shared = fork.Barrier(3), fork.Value("i", 0), fork.Event()
    processes = [fork.Process(target=load_when_all_are_there, args=shared) for _ in range(3)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
    assert [each.exitcode for each in processes] == [0, 0, 0]
    assert (shared[1].value, shared[2].is_set()) == (1, False)


def test_where_the_first_rank_is_killed_as_it_trains_another_one_trains_instead(tokenizers_trained, monkeypatch):
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()

    def stand_still() -> None:
        tokenizer_training._train = lambda *given: (begun.set(), time.sleep(60))
        load_tokenizer(scratch("bpe", 280), ROWS)

    first = fork.Process(target=stand_still)
    first.start()
    begun.wait(60)
    threading.Timer(0.2, first.kill).start()
    monkeypatch.setenv("RANK", "1")
    assert len(load_tokenizer(scratch("bpe", 280), ROWS)) == 280
    first.join(60)
    assert (first.exitcode, tokenizers_trained) == (-signal.SIGKILL, ["bpe"])
