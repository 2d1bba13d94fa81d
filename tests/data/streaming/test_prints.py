"""Prints of a stream: appended part by part, read in blocks, and whole after any kill."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_finetune.data.splitting.overlap import iterate_fingerprints
from hf_finetune.data.splitting.seen_rows import find_seen_rows
from hf_finetune.data.streaming.prints import PartPrints, find_copies, find_prints, hash_held_out, keep_part_prints
from hf_finetune.folders import STREAM_PRINTS
from hf_finetune.row_prints import RowPrints, append_row_prints, map_arrays, read_row_prints, write_row_prints

KEY = b"k" * 32
NOTHING = np.empty(0, np.uint64)
TEXTS = [f"text number {number} " + " ".join(f"w{number}x{place}" for place in range(20)) for number in range(9)]


def hashes(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_parts_are_appended_once_and_a_torn_end_is_cut_off(tmp_path, caplog):
    write_row_prints(tmp_path, RowPrints(KEY, NOTHING, NOTHING))
    for number, some in enumerate([hashes(1, 5), NOTHING, hashes(2, 2**63)]):
        append_row_prints(tmp_path, number, some)
    append_row_prints(tmp_path, 2, hashes(2, 2**63))  # of a run that went on in the middle of the part
    assert [part.tolist() for part in read_row_prints(tmp_path).parts] == [[1, 5], [], [2, 2**63]]
    whole = (tmp_path / STREAM_PRINTS).read_bytes()
    for lost, said in ((3, True), (30, False)):  # killed while it was appended: of 16 bytes, behind a header of 32
        (tmp_path / STREAM_PRINTS).write_bytes(whole[:-lost])
        caplog.clear()
        assert len(read_row_prints(tmp_path).parts) == 2
        assert ("is torn" in caplog.text) == said
        append_row_prints(tmp_path, 2, hashes(2, 2**63))
        assert (tmp_path / STREAM_PRINTS).read_bytes() == whole
    (tmp_path / STREAM_PRINTS).write_bytes(whole.replace(hashes(5).tobytes(), hashes(6).tobytes()))
    assert read_row_prints(tmp_path).parts == ()
    assert (tmp_path / STREAM_PRINTS).stat().st_mode & 0o077 == 0, "its owner's alone"


def test_rows_of_any_part_are_seen_again(tmp_path):
    rows = Dataset.from_dict({"text": TEXTS})
    write_row_prints(tmp_path, RowPrints(KEY, NOTHING, NOTHING))
    for number, some in enumerate([range(3), range(3, 6)]):
        collected, chunk = PartPrints(), find_prints(rows.select(some).flatten_indices(), KEY)
        collected.add(chunk, np.ones(3, np.bool_))
        collected.write(tmp_path / "part.npz")
        found = map_arrays(tmp_path / "part.npz")
        keep_part_prints(tmp_path, number, found["texts"], found["ngrams"])
    seen = find_seen_rows(rows, read_row_prints(tmp_path))
    assert seen.copies.tolist() == [True] * 6 + [False] * 3
    assert seen.shares_ngram.tolist() == [True] * 6 + [False] * 3


def test_copies_of_rows_that_are_evaluated_are_found_whatever_their_case():
    held_out = hash_held_out({"validation": Dataset.from_dict({"text": [TEXTS[2].upper(), "  " + TEXTS[7]]})}, KEY)
    rows = Dataset.from_dict({"text": TEXTS})
    ((_, prints),) = iterate_fingerprints(rows, np.arange(9), KEY)
    assert np.flatnonzero(find_copies(prints.rows, held_out)).tolist() == [2, 7]
    assert not find_copies(prints.rows, NOTHING).any()


@pytest.mark.parametrize("count", [0, 3])
def test_old_files_of_prints_are_read_as_before(tmp_path, count):
    write_row_prints(tmp_path, RowPrints(KEY, hashes(*range(count)), NOTHING, {"test": hashes(7)}))
    found = read_row_prints(tmp_path)
    assert (found.texts.tolist(), found.parts, found.rows["test"].tolist()) == ([*range(count)], (), [7])
