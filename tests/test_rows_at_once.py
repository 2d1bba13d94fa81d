"""Memory does not grow with the rows: where the code may hold something of every row at once, and why."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "hf_finetune"

# What makes one piece, or Python values, of as many rows as there are.
CALLS = {"to_pylist", "to_pydict", "to_pandas", "combine_chunks", "from_list", "take", "to_list"}
COPIES = {"list", "set", "sorted", "tuple"}
OF_ROWS = {"rows", "table", "column", "hashes"}

_BATCH = "of one batch"
_SCORED = "of rows that are scored, beside which their logits or sums are held; `predict` streams"
MAY = {
    "data/cache.py::hash_dataset": _BATCH,
    "data/corpora/library_tasks.py::build_tool_rows": "some hundred, made by the project itself",
    "data/reading/tables/arrow_rows.py::open_dataset": _BATCH,
    "data/reading/tables/arrow_rows.py::_to_python": _BATCH,
    "data/splitting/batches.py::_select": _BATCH,
    "data/splitting/batches.py::read_values": "the labels of rows that are copies",
    "data/splitting/batches.py::_encode": "the distinct values of one batch",
    "data/splitting/leakage.py::check_groups_disjoint": "the distinct groups",
    "data/splitting/overlap.py::_flatten_messages": _BATCH,
    "data/splitting/overlap.py::_hash_texts": "the distinct words of one batch",
    "data/tokenization/labelled.py::read": _BATCH,
    "data/tokenization/labelled.py::balance_classes": "32 bytes a row, in numpy: label and length, and the rows chosen",
    "data/tokenization/conversations.py::make": "of one chunk of a stream",
    "data/tokenization/rendered_rows.py::read_turns": _BATCH,
    "data/tokenization/rendered_rows.py::write_plain": _BATCH,
    "data/tokenization/text.py::read": _BATCH,
    "evaluation/classification/baselines.py::join_text_pairs": "at most 50,000 training rows, and rows that are scored",
    "evaluation/classification/metrics.py::predict_split": _SCORED,
    "evaluation/language_modeling/base_scores.py::score_splits": _SCORED,
    "evaluation/language_modeling/base_scores.py::_score": _SCORED,
    "evaluation/language_modeling/by_row.py::sum_by_row": _SCORED,
    "evaluation/language_modeling/by_row.py::measure_texts": _SCORED,
    "evaluation/scoring/class_predictions.py::evaluate_classifier": _SCORED,
    "evaluation/scoring/class_predictions.py::encode_row_labels": _SCORED,
    "evaluation/scoring/counterfactual_rows.py::swap_rows": _SCORED,
    "models/adapters/token_rows.py::count_token_rows": "rows of an embedding, by the vocabulary",
    "preflight/row_lengths.py::read": _BATCH,
    "preflight/token_view/conversations.py::_view_row": "the examples of one row",
    "preflight/token_view/conversations.py::_label_whole": "the example of one row",
    "preflight/token_view/labelled.py::encode_spans": "the tokens of one row",
    "release/comparison_rows.py::_encode_labeled_texts": "the first few",
    "training/trainers/repeated_rows.py::leave_out_repeated": _BATCH,
    "training/trainers/samplers.py::read_lengths": "8 bytes a row, in numpy",
}


def find_whole(source: str) -> set[str]:
    """The functions that have a piece of as many rows as there are, by name."""
    found = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            found |= {function.name for node in ast.walk(function) if is_whole(node)}
    return found


def is_whole(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):  # rows[:], but not rows[:] = ...
        bounds = (node.slice.lower, node.slice.upper, node.slice.step)
        return isinstance(node.ctx, ast.Load) and bounds == (None, None, None)
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        of_self = isinstance(node.func.value, ast.Name) and node.func.value.id == "self"
        return node.func.attr in CALLS and not of_self
    first = node.args[0] if node.args else None
    copied = isinstance(first, ast.Name) and first.id in OF_ROWS
    return isinstance(node.func, ast.Name) and node.func.id in COPIES and copied


def test_what_is_held_of_every_row_stands_in_the_table_with_its_reason():
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}::{name}"
        for path in PACKAGE.rglob("*.py")
        for name in find_whole(path.read_text(encoding="utf-8"))
    }
    assert found - MAY.keys() == set(), "walk the rows in batches (data/splitting/batches.py), or say why in MAY"
    assert MAY.keys() - found == set(), "it is gone: take it out of MAY"


def test_the_rule_sees_each_way_to_hold_all_rows():
    ways = ["rows['text'][:]", "table.column('a').to_pylist()", "rows.to_pandas()", "set(hashes)", "list(rows)"]
    ways += ["Dataset.from_list(a)", "table.data.table.take(a)", "column.combine_chunks()"]
    assert [way for way in ways if find_whole(f"def f():\n    return {way}") != {"f"}] == []
    others = ["rows['text'][:5]", "self.take(a)", "list(a)", "rows.iter(5)"]
    assert [way for way in others if find_whole(f"def f():\n    return {way}")] == []
    assert find_whole("def f():\n    a[:] = b") == set()
