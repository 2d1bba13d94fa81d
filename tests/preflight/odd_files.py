"""Files as people have them, each with the recipe that fits: written on the spot, made of letters and a seed."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

WORDS = ("the", "old", "river", "keeps", "a", "slow", "house", "under", "grey", "hills", "rain", "and", "warm", "bread")
PRETRAIN, LABELS, CHAT = "continued_pretraining", "classification", "lora"
Rows = list[dict[str, Any]]


def sentence(number: int, words: int = 9) -> str:
    draw = random.Random(number)
    return f"{number} " + " ".join(draw.choice(WORDS) for _ in range(words)) + "."


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Rows, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def labelled(count: int, labels: int) -> Rows:
    return [{"text": sentence(n), "label": f"class {n % labels}"} for n in range(count)]


def questions(count: int, question: str = "question", answer: str = "answer") -> Rows:
    return [{question: sentence(n), answer: sentence(n + 1_000)} for n in range(count)]


def talk(number: int, turns: int = 2) -> list[dict[str, Any]]:
    said = [
        ({"role": "user", "content": sentence(number + n)}, {"role": "assistant", "content": sentence(n)})
        for n in range(turns)
    ]
    return [message for pair in said for message in pair]


def csv_of_other_names(folder: Path) -> list[Path]:
    rows = [{"Nr": n, "Beschwerde": sentence(n), "Abteilung": ["Lager", "Kasse", "Post"][n % 3]} for n in range(30)]
    return [write_csv(folder / "beschwerden.csv", rows, ";")]


def tab_separated(folder: Path) -> list[Path]:
    return [
        write_csv(
            folder / "mails.tsv", [{"label": "ham" if n % 3 else "spam", "text": sentence(n)} for n in range(30)], "\t"
        )
    ]


def parquet_of_questions(folder: Path) -> list[Path]:
    pq.write_table(pa.Table.from_pylist(questions(20, "query", "reply")), folder / "faq.parquet")
    return [folder / "faq.parquet"]


def sharegpt(folder: Path) -> list[Path]:
    names = {"user": "human", "assistant": "gpt"}
    rows = [{"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in talk(n)]} for n in range(15)]
    return [write_jsonl(folder / "sharegpt.jsonl", rows)]


def sharegpt_of_another_name(folder: Path) -> list[Path]:
    rows = [
        {"id": str(n), "dialog": [{"from": "human", "value": sentence(n)}, {"from": "gpt", "value": sentence(n + 50)}]}
        for n in range(15)
    ]
    return [write_jsonl(folder / "dialogs.jsonl", rows)]


def tools(folder: Path) -> list[Path]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "description": "Tell it.", "parameters": parameters}}
    call = [{"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"city": "Rome"}}}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": sentence(n)},
                {"role": "assistant", "content": None, "tool_calls": call},
                {"role": "tool", "content": "warm", "tool_call_id": "c1"},
                {"role": "assistant", "content": sentence(n + 9)},
            ],
            "tools": [tool],
        }
        for n in range(12)
    ]
    return [write_jsonl(folder / "tools.jsonl", rows)]


def several_labels(folder: Path) -> list[Path]:
    rows = [{"text": sentence(n), "label": ["abc"[i] for i in range(3) if n >> i & 1]} for n in range(40)]
    return [write_jsonl(folder / "tags.jsonl", rows)]


def regression(folder: Path) -> list[Path]:
    return [write_jsonl(folder / "grades.jsonl", [{"text": sentence(n), "label": n / 7} for n in range(30)])]


def regression_in_a_table(folder: Path) -> list[Path]:
    return [
        write_csv(
            folder / "prices.csv", [{"description": sentence(n), "price": f"{3 + n * 1.37:.2f}"} for n in range(30)]
        )
    ]


def stars(folder: Path) -> list[Path]:
    return [write_csv(folder / "reviews.csv", [{"review": sentence(n), "stars": 1 + n % 5} for n in range(40)])]


def one_huge_row(folder: Path) -> list[Path]:
    rows = [*questions(30, "instruction", "response"), {"instruction": sentence(99), "response": sentence(1, 40_000)}]
    return [write_jsonl(folder / "huge.jsonl", rows)]


def two_texts(folder: Path) -> list[Path]:
    return [write_jsonl(folder / "two.jsonl", [{"text": sentence(n, 40)} for n in range(2)])]


def two_questions(folder: Path) -> list[Path]:
    return [write_jsonl(folder / "pair.jsonl", questions(2))]


def many_labels(folder: Path) -> list[Path]:
    return [write_jsonl(folder / "intents.jsonl", labelled(1_200, 300))]


def unicode(folder: Path) -> list[Path]:
    texts = [
        "今天天气很好,我们去公园散步。",
        "مرحبا بالعالم، كيف حالك اليوم؟",
        "Ёлка зелёная 🎄 и снег ❄️",
        "naïve café ﬁn",
    ]
    return [write_jsonl(folder / "wörter 日本.jsonl", [{"text": f"{texts[n % 4]} {n}"} for n in range(40)])]


def empty_completions(folder: Path) -> list[Path]:
    return [
        write_jsonl(
            folder / "prompts.jsonl",
            [{"prompt": sentence(n), "completion": sentence(n) if n % 5 else ""} for n in range(25)],
        )
    ]


def book(folder: Path) -> list[Path]:
    (folder / "book.txt").write_text("\n\n".join(f"{sentence(n, 30)}\n{sentence(n + 1, 20)}" for n in range(60)))
    return [folder / "book.txt"]


def poem(folder: Path) -> list[Path]:
    (folder / "poem.md").write_text("\n".join(sentence(n, 6) for n in range(80)))
    return [folder / "poem.md"]


def folder_of_texts(folder: Path) -> list[Path]:
    (folder / "texts").mkdir()
    for number in range(12):
        (folder / "texts" / f"{number}.txt").write_text(f"{sentence(number, 60)}\n\n{sentence(number + 1, 60)}")
    return [folder / "texts"]


def grouped(folder: Path) -> list[Path]:
    rows = [{"conversation_id": f"c{n // 4}", **row} for n, row in enumerate(questions(60, "user", "assistant"))]
    return [write_jsonl(folder / "turns.jsonl", rows)]


def three_roles(folder: Path) -> list[Path]:
    rows = labelled(60, 3)
    parts = {"reviews_train": rows[:40], "reviews_dev": rows[40:50], "reviews_test": rows[50:]}
    return [write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()]


def outputs_that_are_labels(folder: Path) -> list[Path]:
    return [
        write_jsonl(folder / "io.jsonl", [{"input": sentence(n), "output": ["yes", "no"][n % 2]} for n in range(30)])
    ]


def outputs_that_are_answers(folder: Path) -> list[Path]:
    return [write_jsonl(folder / "answers.jsonl", questions(30, "input", "output"))]


def pairs(folder: Path) -> list[Path]:
    rows = [{"premise": sentence(n), "hypothesis": sentence(n + 7), "gold": n % 3} for n in range(30)]
    return [write_jsonl(folder / "nli.jsonl", rows)]


def json_array(folder: Path) -> list[Path]:
    (folder / "array.json").write_text(
        json.dumps([{"instruction": sentence(n), "output": sentence(n + 30)} for n in range(15)], indent=1)
    )
    return [folder / "array.json"]


def compressed(folder: Path) -> list[Path]:
    with gzip.open(folder / "texts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": sentence(n, 30), "url": f"u{n}"}) + "\n" for n in range(20))
    return [folder / "texts.jsonl.gz"]


def a_bad_line(folder: Path) -> list[Path]:
    path = write_jsonl(folder / "torn.jsonl", [{"text": sentence(n, 20)} for n in range(20)])
    path.write_text(path.read_text() + '{"text": "cut o\n{"tekst": "b"}\n')
    return [path]


def body_alone(folder: Path) -> list[Path]:
    return [write_jsonl(folder / "posts.jsonl", [{"id": n, "body": sentence(n, 30)} for n in range(20)])]


def repeats(folder: Path) -> list[Path]:
    return [write_jsonl(folder / "again.jsonl", questions(20) * 2)]


def windows(folder: Path) -> list[Path]:
    rows = "".join(json.dumps(row) + "\r\n" for row in labelled(20, 2))
    (folder / "windows.jsonl").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    return [folder / "windows.jsonl"]


def two_files(folder: Path) -> list[Path]:
    rows = questions(20)
    return [write_jsonl(folder / "january.jsonl", rows[:10]), write_jsonl(folder / "may.jsonl", rows[10:])]


Expected = tuple[Callable[[Path], list[Path]], str, dict[str, Any]]
# What the run file has to say beside its recipe.
ODD: dict[str, Expected] = {
    make.__name__: (make, recipe, settings)
    for make, recipe, settings in (
        (csv_of_other_names, LABELS, {"data.columns": {"text": "Beschwerde", "label": "Abteilung"}}),
        (tab_separated, LABELS, {"data.stratify_by": "label"}),
        (parquet_of_questions, CHAT, {"data.columns": {"question": "query", "answer": "reply"}}),
        (sharegpt, CHAT, {"data.format": "sharegpt"}),
        (sharegpt_of_another_name, CHAT, {"data.columns": {"conversations": "dialog"}}),
        (tools, CHAT, {"data.format": "messages"}),
        (several_labels, LABELS, {"data.allow_empty": True, "data.stratify_by": None}),
        (regression, LABELS, {"data.task": "regression", "data.stratify_by": None}),
        (
            regression_in_a_table,
            LABELS,
            {"data.task": "regression", "data.columns": {"text": "description", "label": "price"}},
        ),
        (stars, LABELS, {"data.task": None, "data.columns": {"text": "review", "label": "stars"}}),
        (one_huge_row, CHAT, {"data.too_long": "cut"}),
        (two_texts, PRETRAIN, {"data.validation_fraction": None}),
        (two_questions, CHAT, {"data.validation_fraction": None}),
        (many_labels, LABELS, {"train.metric_for_best_model": "f1_macro"}),
        (unicode, PRETRAIN, {"data.format": "text"}),
        (empty_completions, CHAT, {"data.on_bad_line": "skip"}),
        (book, PRETRAIN, {"data.format": "paragraphs"}),
        (poem, PRETRAIN, {"data.format": "lines"}),
        (folder_of_texts, PRETRAIN, {"data.format": "file"}),
        (grouped, CHAT, {"data.group_by": "conversation_id"}),
        (three_roles, LABELS, {"data.validation_fraction": None, "data.test_fraction": None}),
        (outputs_that_are_labels, LABELS, {"data.task": "classification", "data.stratify_by": "output"}),
        (outputs_that_are_answers, CHAT, {"data.task": None}),
        (pairs, LABELS, {"data.columns": {"text": "premise", "text_pair": "hypothesis", "label": "gold"}}),
        (json_array, CHAT, {"data.format": "alpaca"}),
        (compressed, PRETRAIN, {"data.format": "text"}),
        (a_bad_line, PRETRAIN, {"data.on_bad_line": "skip"}),
        (body_alone, PRETRAIN, {"data.columns": {"text": "body"}}),
        (repeats, CHAT, {"data.on_bad_line": None}),
        (windows, LABELS, {"data.format": "labelled"}),
        (two_files, CHAT, {"data.format": "question_answer"}),
    )
}
