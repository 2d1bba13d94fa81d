"""Files -> checked rows -> splits -> tokens. A tokenizer is an argument: nothing of models is imported.

reading/        sources -> lines -> JSON -> typed rows of a format, every problem with its file and line
splitting/      train, validation and test: seeded, stratified, grouped; leakage between them is looked for
labels/         the labels of a classification run, frozen from its training rows; their balance
streaming/      corpora that do not fit the disk twice: shards -> parts, one after another
tokenization/   documents, conversations or labelled texts -> token ids and labels; packing; collators
corpora/        rows to begin with, from the Python installation itself; canaries
early_check     small files are read before torch is imported, so that a wrong row is said at once
cache           rows and tokens of earlier runs as Arrow files, found by what they were made from
workers         rows given to several processes, whose results come in order
file_hashes     the sha256 of a file that has not changed since
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.data.corpora.canaries import COPIES, make_canaries, write_canaries
    from hf_finetune.data.corpora.standard_library import CANARIES, write_corpus
    from hf_finetune.data.early_check import check_compared_rows, check_scored_rows, check_trained_rows
    from hf_finetune.data.labels.freeze import freeze_labels
    from hf_finetune.data.reading.file_kinds import check_rows_name
    from hf_finetune.data.reading.reader import read_rows
    from hf_finetune.data.reading.tables.convert import RowsOptions, convert_rows
    from hf_finetune.data.splitting.rejected_lines import iterate_rejected_lines, keep_rejected_lines
    from hf_finetune.data.splitting.seen_rows import keep_row_prints
    from hf_finetune.data.splitting.splits import Splits, load_splits
    from hf_finetune.data.tokenization.collators import RowCollator, TextCollator
    from hf_finetune.data.tokenization.conversations import pack_examples, tokenize_conversations
    from hf_finetune.data.tokenization.documents import BlockCollator, pack_splits
    from hf_finetune.data.tokenization.labelled import balance_classes, get_padded_width, tokenize_labelled

__all__ = [
    "CANARIES",
    "COPIES",
    "BlockCollator",
    "RowCollator",
    "RowsOptions",
    "Splits",
    "TextCollator",
    "balance_classes",
    "check_compared_rows",
    "check_rows_name",
    "check_scored_rows",
    "check_trained_rows",
    "convert_rows",
    "freeze_labels",
    "get_padded_width",
    "iterate_rejected_lines",
    "keep_rejected_lines",
    "keep_row_prints",
    "load_splits",
    "make_canaries",
    "pack_examples",
    "pack_splits",
    "read_rows",
    "tokenize_conversations",
    "tokenize_labelled",
    "write_canaries",
    "write_corpus",
]

__getattr__, __dir__ = import_lazily(__name__)
