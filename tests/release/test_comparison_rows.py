"""The rows on which two forms of one model are compared."""

from __future__ import annotations

import json
import logging

import pytest

from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.one_split import load_rows
from hf_finetune.errors import DataError
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.release.comparison_rows import load_comparison_rows

TEXTS = [f"document number {number} of ten" for number in range(10)]


@pytest.mark.parametrize("field", ["text", "messages"])
def test_the_validation_split_of_a_run_is_read_as_its_recipe_read_it(tmp_path, caplog, field):
    rows = [
        {"text": text} if field == "text" else {"messages": [{"role": "user", "content": text},
                                                             {"role": "assistant", "content": "yes"}]}
        for text in TEXTS
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = "continued_pretraining" if field == "text" else "sft"
    data = f"{{train: {tmp_path / 'rows.jsonl'}, validation_fraction: 0.3}}"
    (tmp_path / "run.yaml").write_text(f"recipe: {recipe}\ndata: {data}\ntrain: {{seed: 3}}\n")
    tokenizer = train_tokenizer("bpe", TEXTS, 300)
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        found = load_comparison_rows(None, tmp_path, tokenizer, None)
    assert "to be compared on 3 rows of the run's validation split" in caplog.text
    assert not any(row.drawn for row in found)
    said = {tokenizer.decode(row.inputs["input_ids"][0], skip_special_tokens=True) for row in found}
    assert all(any(text in each for text in TEXTS) for each in said)
    # Of a document every token is trained, of a conversation the answer alone.
    assert [bool((row.labels[0] < 0).any()) for row in found] == [field == "messages"] * 3


def test_rows_of_another_kind_are_refused_without_a_word_of_recipes(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "x"}\n')
    with pytest.raises(DataError, match=r"rows of format labelled are labelled texts; .* are needed here") as refused:
        load_rows(str(tmp_path / "rows.jsonl"), DataSection(train="rows.jsonl"), "document")
    assert "recipe" not in str(refused.value)
    assert "data.format may be" not in str(refused.value)
