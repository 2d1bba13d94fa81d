"""Personal data and secrets in rows, against a file made by Faker that says which row holds what."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from labelled_rows import KINDS, make_rows

from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.preflight.detectors.personal import CODES_OF_KINDS, detect_personal, search_texts
from hf_finetune.preflight.findings import Place


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def search(text):
    return search_texts(pa.array([text])).kinds


def load_conversations(said, other=("What?",)):
    for name, texts in (("train.jsonl", said), ("test.jsonl", other)):
        rows = [
            {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes"}]} for text in texts
        ]
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_splits(DataSection(train="train.jsonl", test="test.jsonl"), "conversation", seed=0)


def test_every_kind_is_found_in_ten_thousand_rows_and_little_else():
    texts, where = make_rows(18)
    hits = search_texts(pa.array(texts))
    found = {(row, kind) for row, kind in zip(hits.rows.tolist(), hits.kinds, strict=True)}
    planted = set(where.items())
    assert len(planted) == 200
    for kind in KINDS:
        theirs, ours = ({pair for pair in pairs if pair[1] == kind} for pairs in (planted, found))
        assert len(theirs & ours) >= 0.95 * len(theirs), kind
        assert len(theirs & ours) >= 0.95 * len(ours), kind


def test_findings_name_the_lines_and_never_what_is_on_them():
    secret, mail = "hf_" + "aB3dE5gH7jK9" * 3, "ann.lee@mail.org"
    splits = load_conversations(
        ["Hello", f"I am {mail}, or {mail[1:]}", "1", "2", f"{secret}", f"or {mail}"], [f"{mail}?"]
    )
    findings, counts = detect_personal(splits)
    assert [(each.code, each.split, each.count, [place.line for place in each.places]) for each in findings] == [
        ("HF401", "train", 2, [2, 6]),
        ("HF411", "train", 1, [5]),
        ("HF401", "test", 1, [1]),
    ]
    assert findings[0].places[0] == Place("train.jsonl", 2)
    assert findings[0].what == "train: e-mail addresses: 3, in 2 rows"
    assert counts["train"]["email"] == {"found": 3, "rows": 2}
    assert counts["test"]["card"] == {"found": 0, "rows": 0}
    assert not any(hidden in repr((findings, counts)) for hidden in (secret, "ann.lee", "nn.lee"))
    assert findings[1].level == "error"


def test_each_line_of_a_long_document_is_named():
    Path("book.txt").write_text("One.\nTwo: ann@mail.org\n\nThree\nFour: bob@mail.org, +49 30 901820\n")
    splits = load_splits(DataSection(train="book.txt", format="file"), "document", seed=0)
    findings, _ = detect_personal(splits)
    assert [(each.code, each.count, [place.line for place in each.places]) for each in findings] == [
        ("HF401", 1, [2, 5]),
        ("HF402", 1, [5]),
    ]


def test_every_kind_has_its_code():
    assert set(CODES_OF_KINDS) == set(KINDS)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        # The examples of the registries themselves.
        ("GB29 NWBK 6016 1331 9268 19", ["iban"]),
        ("NO9386011117947 USD", ["iban"]),
        ("GB29 NWBK 6016 1331 9268 18", []),
        ("4111 1111 1111 1111", ["card"]),
        ("378282246310005", ["card"]),
        ("4111 1111 1111 1112", []),
        ("0.4111111111111111", []),
        ("order 4111111111111111", []),
        ("203.0.113.9, 10.1.2.3 and 127.0.0.1", []),
        ("from 93.184.215.14:443", ["ip"]),
        ("v93.184.215.14", []),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c or 2606:2800::8b2c", ["ip", "ip"]),
        ("1:1:1:1:1:1:1:1:1:1 and 2.5.29.37", []),
        ("a::b, std::vector, 10:20:30, 00:1a:2b:3c:4d:5e", []),
        ("078-05-1120", ["ssn"]),
        ("000-05-1120, 666-05-1120, 900-05-1120, 078-00-1120, 078-05-0000, 1078-05-1120", []),
        ("(212) 555-0100 or 212.555.0100 x12", ["phone", "phone"]),
        ("phone: 2125550100", ["phone"]),
        ("2125550100", []),
        ("01.02.2024 10:30, 2024-01-02", []),
        ("a b@c.d@e.org", ["email"]),
        ("a@example.com, b@www.example.org, c@shop.test, d@a.invalid, e@b.example", []),
        ("a@notexample.com, b@example.de", ["email", "email"]),
        ("IBAN: DE89 3704 0044 0532 0130 01 or FR14 2004 1010 0505 0001 3M02 607", []),
        ("de89-3704-0044-0532-0130-01, DE89 3704 0044 0532 0130 0", []),
        ("8.8.8.8", ["ip"]),
        ("ping 1.1.1.1, the DNS server is 4.2.2.2, version 8.8.8.8 and from 4.1.0.7 to 4.1.0.12", ["ip", "ip"]),
        ("password: hunter2", ["key"]),
        ("My password is Sommer2024! and my Passwort ist blau77gruen", ["key", "key"]),
        ("The password is required, is correct.&quot; and is case-sensitive; it is SHA256-hashed", []),
        ("https://a.org/?q=1&token=ab12cd34ef or https://a.org/v1?api_key=f09e8d7c6b5a41322b3c4d5e", ["key", "key"]),
        ("https://a.org/?token=TOKEN&key=value&page_token=page2&api_key={api_key}&token=YOUR_TOKEN_123", []),
        ("postgres://ann:hunter2@db.mail.org/x", ["url_password"]),
        ("postgres://user:password@host/x and https://{user}:{key}@host/", []),
        ("https://mail.org/@ann", []),
    ],
)
def test_known_numbers_and_what_only_looks_like_them(text, kinds):
    assert sorted(search(text)) == sorted(kinds)
    assert sorted(search(f"Er ist {text}。\n{text}")) == sorted(2 * kinds)


def test_nothing_is_found_across_two_rows():
    assert (
        search_texts(pa.array(["4111 1111", "1111 1111", None, "ann@", "mail.org", "", "password:", "hunter2!x"])).kinds
        == []
    )
