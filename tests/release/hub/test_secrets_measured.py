"""How much of what is planted the search finds, how often it cries wolf, and that it names places and shows nothing."""

from __future__ import annotations

import base64
import codecs
import gzip
import random
import time
from pathlib import Path

import pytest
from release.hub.ordinary_files import ROOT, list_ordinary_files
from release.hub.planted_secrets import FORMS, KINDS, draw_secret, find_secrets

from hf_finetune.privacy import hide_secrets
from hf_finetune.release.hub.files import PlannedFile
from hf_finetune.release.hub.search import home_paths
from hf_finetune.release.hub.search.home_paths import compile_home_rules
from hf_finetune.release.hub.search.places import Sought, check_no_home, find_places
from hf_finetune.secrets.rules import is_random

SEED, ROUNDS = 20, 60
PAGES = ("SECURITY.md", "docs/hub.md")
# Each half of a secret that is put over lines or pieces may end in a blank, which nobody knows then to be one.
LEAST_OF_A_FORM = 0.9


def test_planted_secrets_are_found_as_the_pages_say_and_90_of_100_of_each_form_and_kind():
    chance = random.Random(SEED)
    found = {(kind["kind"], form): False for kind in KINDS for form in FORMS}
    for kind in KINDS:
        for form, put in FORMS.items():
            found[kind["kind"], form] = bool(find_secrets(put(draw_secret(kind, chance)[0], chance)))
    of_a_line = {kind["kind"] for kind in KINDS if kind.get("of_a_line")}
    for form in FORMS:
        share = [hit for (kind, each), hit in found.items() if each == form and kind not in of_a_line]
        assert sum(share) / len(share) >= LEAST_OF_A_FORM, form
    for kind in KINDS:
        share = [hit for (each, _), hit in found.items() if each == kind["kind"]]
        assert sum(share) / len(share) >= LEAST_OF_A_FORM - 0.05 * (kind["kind"] in of_a_line), kind["kind"]
    drawn = f"of {len(found):,} that were planted, in {len(KINDS)} kinds and {len(FORMS)} forms, "
    said = f"{drawn}{sum(found.values()) / len(found):.1%}".replace("%", " % were found")
    for page in PAGES:
        assert said in " ".join((ROOT / page).read_text("utf-8").split()).replace("Of ", "of "), (page, said)


def test_no_ordinary_file_is_taken_for_one_with_a_secret_or_a_path_of_this_machine_as_the_pages_say(monkeypatch):
    files = list(list_ordinary_files(SEED, rounds=ROUNDS))
    assert len(files) >= 1_100
    assert [(name, places) for name, content in files if (places := find_secrets(content))] == []
    monkeypatch.setattr(home_paths, "list_homes", lambda: ["/app", "/root", "/home/ann", "C:\\Users\\Ann"])
    check_no_home([PlannedFile(Path(name).name, Path(name), 0, "", content) for name, content in files[::4]], {})
    for page in PAGES:
        assert "of more than 1,100 ordinary files" in " ".join((ROOT / page).read_text("utf-8").split()), page


def test_what_the_pages_say_goes_unseen_does():
    text = draw_secret(KINDS[0], random.Random(SEED))[0]
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    assert find_secrets(text.encode()) != []
    for unseen in (text[::-1], codecs.encode(text, "rot13"), packed):
        assert find_secrets(f"x: {unseen}\n".encode()) == []


def test_a_secret_is_named_by_the_line_where_it_stands_in_whatever_form():
    text = draw_secret(KINDS[0], random.Random(SEED))[0]
    before = b"a\nb\r\nc\n"
    for form, put in FORMS.items():
        if form not in ("UTF-16", "UTF-16, the other way round"):
            alone = find_secrets(put(text, random.Random(0)))
            assert find_secrets(before + put(text, random.Random(0))) == [(line + 3, kind) for line, kind in alone]
    # What stands in the lines before the encoded text is read with it, and named by nobody.
    for packed in (base64.b64encode(f"note {text}".encode()).decode(), f"note {text}".encode().hex()):
        for before in ("pip install hf-finetune\n\n", "pip install\nhf-finetune\n", "ab\n", "abc1\n\n\n"):
            places = find_secrets(f"# A model\n{before}{packed}\nend\n".encode())
            assert places == [(2 + before.count("\n"), "a Hugging Face token")], before
    wrapped = base64.b64encode(f"{'-' * 90}{text}".encode()).decode()
    lines = "\n".join(wrapped[start : start + 40] for start in range(0, len(wrapped), 40))
    assert find_secrets(f"1\n2\n{lines}\n".encode()) == [(6, "a Hugging Face token")]
    assert find_secrets(f"1\n2\n{text}\n4\n".encode("utf-16")) == [(3, "a Hugging Face token")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0123456789abcdef0123456789abcdef", True), (b"9f86d081884c7d659a2feaa0c55ad015", True),
        (b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", True), (b"configuration_scratch_gpt_2026", False),
        (b"all-MiniLM-L6-v2/checkpoint-100", False), (b"PreTrainedTokenizerFast", False), (b"2026-11-29T13-00", False),
        (b"00000000000000000000000000000000", False), (b"runs/instructions-2/model.safetensors", False),
    ],
)  # fmt: skip
def test_what_stands_behind_a_name_is_a_key_where_it_is_drawn_by_chance(value, expected):
    assert is_random(value) is expected


PASSWORDS = """
password: hunter22|password: Tr0ub4dor&3|"password": "Sommer2024!"|db_password = S3cret!pw|passwd='k9Zp2Lq8'
pwd: "p@ss:w0rd"|api_key: k9Zp2Lq8|api_key = "3f9a1c77b2"|secret: s3cr3tP@ss|token: a1b2c3d4e5|"token": "9f86d081884c"
password: str = "hunter22x"|config["password"] = "hunter22x"|**Password:** hunter22x|`password: hunter22x`
--password hunter22x|score run.yaml --token a1b2c3d4e5|{user: x, password: hunter22x, b: c}|DB_PASSWORD=Pa55word
https://x.org/?user=a&password=hunter22x&c=d|export DB_PASSWORD="MySuperSecret123!"|password: correct!horse
pass: x1y2z3w4|SMTP_PASS=x1y2z3w4|client_secret: aB3$efgh|password_1: hunter22x|dbPassword: "hunter22x"
password => 'hunter22x'|"credentials": "x1y2z3w4"|password = "Summer-2024"|password: 'aaa"bbb1'|password == "hunter22"
"""
NO_PASSWORDS = """
password: changeme|password: changeme123|password: <password>|password: ${PASSWORD}|password: $PASSWORD
password = os.environ["DB_PASSWORD"]|password = os.environ.get("DB_PASSWORD1")|password: None|password: your-password
password: your-password-1|password: YOUR_PASSWORD_2|password: ***********|password: correcthorse|password: SecretStr
password: Optional[str1]|password: str = None|password: {{ password1 }}|api_key="EMPTY"|api_key: sk-no-key-required
token = config.token1|token: <!endoftext!>|"pad_token": "[PAD12345]"|"unk_token": "<reserved_12_a3>"|pwd: xxxxxxxx
token=tokens[index1]|secret = secrets.token_hex(16)|pwd = os.getcwd()|PWD=/usr/lib/python3.11|password: runs/out2
password: 12345678|password: 2024-01-01|token: 2024-01-01T12:00:00|password: at least 8 characters, 1 digit
password: user1@example.com|password: https://example.com/reset1|"token": "layer12"|token: gpt2-medium|pwd: test1234
api_key: text-embedding-3-small|password: env:DB_PASS1|password: forgotten?|password = input_password_1|my_password
token: int64_type|password: password123|key: value1234|password: example1234|password: !ENV PASSWORD1|token: "auto"
password: "%(password1)s"|password=%DB_PASSWORD1%|secret: vault:secret/data1|password: min_length=8|api_key=API_KEY_1
password=None,size=10|{"password": "None\\n", "size": 10}|password: short1|pwd: two words1|password: abc12345
"""


@pytest.mark.parametrize(("lines", "expected"), [(PASSWORDS, True), (NO_PASSWORDS, False)])
def test_a_short_password_is_seen_by_its_name_and_sign_and_what_stands_for_one_is_none(lines, expected):
    for line in lines.strip().replace("\n", "|").split("|"):
        assert [number for number, _ in find_secrets(f"first\n{line}\nlast\n".encode())] == [2] * expected, line


def test_a_word_and_the_beginning_of_the_next_line_are_no_password():
    assert find_secrets(b"password: correcthorse\n2024 was a good year\npassword:\n  provider2name: x\n") == []


# Each the worst for one of the expressions: what begins like a secret again and again and never is one.
WORST = (
    "sk-",
    "-eyJ",
    "://a:",
    "aws",
    "key=",
    "password=",
    "password=a1",
    "token: ",
    "\\u",
    "&#1;",
    "%41",
    "\\\\",
    "'+'",
    "A",
    "0f",
    "\n",
    "-----BEGIN ",
    "xoxb-",
    "=\n",
    "=41a",
    "68:66:",
    "0x68, ",
    "104, ",
    "a ",
    "<!--",
    "{# ",
    "AAAAA",
    "+!!!!",
    "~/a/b ",
    '"a",',
    "a-",
    "01",
    "01100001 ",
    "/./",
    "../a",
    "/a/../b ",
    "/proc/1/root",
    "curl -u a:b",
    "discord.com/api/webhooks/1",
)


@pytest.mark.parametrize("piece", WORST)
def test_the_time_grows_with_the_text_alone(piece):
    spent = []
    for size in (1 << 16, 1 << 18):
        text = (piece * size)[:size]
        started = time.process_time()
        find_places(text.encode(), Sought({"no known shape at all": "a token"}, compile_home_rules()))
        hide_secrets(text)
        spent.append(time.process_time() - started)
    # Four times the text; in the square of its length it would be 16 times. Not in seconds: processors differ.
    assert spent[1] < 8 * spent[0] + 0.5


def test_a_message_with_half_a_pair_of_surrogates_is_searched_as_any_other():
    secret = "hf_" + "aB3dE6gH9j" * 3
    assert hide_secrets(f"\udcff{secret}\ud800 é") == "\udcff(a secret)\ud800 é"
    assert hide_secrets(f"key_{secret}") == "key_(a secret)"
