"""How fast rows become tokens, against `tokenizers.encode_batch_fast` of the same texts in the same run.

    python benchmarks/tokenize_throughput.py [--megabytes 16] [--rounds 5] [--against ../an-older-checkout]

Conversations of one to three exchanges under `chatml`, from rows in a file to the Arrow file of tokens and labels;
documents into blocks; the peer tokenizes the rendered texts, and the documents, that are in memory already, and throws
the tokens away. Then conversations with 6,242 added tokens against ten, and one of 800 turns: its seconds, and the
memory that it takes. The tokenizer is trained on the rows. They take turns; medians count. With `--against`, the
conversations of another checkout of this project too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
ADDED = 6_242


def write_rows(folder: Path, size: int) -> None:
    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghijklmnop", k=dice.randint(2, 9))) for _ in range(20_000)]

    def say(most: int) -> str:
        return " ".join(dice.choices(words, k=dice.randint(3, most))) + "."

    with (folder / "rows.jsonl").open("w") as rows, (folder / "documents.jsonl").open("w") as documents:
        while rows.tell() < size:
            turns = [("user", 40), ("assistant", 250)] * dice.choice([1, 1, 2, 3])
            rows.write(json.dumps({"messages": [{"role": role, "content": say(most)} for role, most in turns]}) + "\n")
            documents.write(json.dumps({"text": say(600)}) + "\n")
    turns = [{"role": role, "content": say(560)} for _ in range(400) for role in ("user", "assistant")]
    (folder / "long.jsonl").write_text(json.dumps({"messages": turns}) + "\n")


def make_tokenizer(folder: Path, added: int) -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken

    from hf_finetune.models.tokenizer_training import train_tokenizer

    texts = (
        json.loads(line)["text"] for line, _ in zip((folder / "documents.jsonl").open(), range(1_000), strict=False)
    )
    tokenizer = train_tokenizer("bpe", texts, 8_000)
    names = [f"<unused{number}>" if number % 7 else f"[{chr(0x4E00 + number)}]" for number in range(added)]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    return tokenizer


def tokenize(path: Path, tokenizer: PreTrainedTokenizerFast, becomes: str = "conversation") -> float:
    """Seconds from the rows of a file, which are read before, to the Arrow file of their tokens."""
    import datasets

    from hf_finetune.chat.template import load_chat_template
    from hf_finetune.config.sections import DataSection
    from hf_finetune.data.splitting.splits import load_splits
    from hf_finetune.data.tokenization.conversations import tokenize_conversations
    from hf_finetune.data.tokenization.documents import pack_splits

    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = folder
        data = DataSection(train=str(path), chat_template="chatml" if becomes == "conversation" else None)
        splits = load_splits(data, becomes, seed=0)
        template = load_chat_template(data, tokenizer) if becomes == "conversation" else ""
        began = time.perf_counter()
        if becomes == "conversation":
            tokenize_conversations(splits, tokenizer, template, data, 1_000_000)
        else:
            pack_splits(splits.rows, tokenizer, 1_024, isolate=False)
        return time.perf_counter() - began


def render_texts(path: Path, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    from hf_finetune.chat.built_in import add_template_tokens

    add_template_tokens(tokenizer, "chatml")
    begin = tokenizer.bos_token or ""
    rows = [json.loads(line)["messages"] for line in path.open()]
    turn = "<|im_start|>{role}\n{content}<|im_end|>\n"
    return [begin + "".join(turn.format(**message) for message in messages) for messages in rows]


def time_peer(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    began = time.perf_counter()
    tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return time.perf_counter() - began


def take_turns(rounds: int, *works: Callable[[], float]) -> list[list[float]]:
    """Seconds of each work in each round, after one that does not count."""
    for work in works:
        work()
    return [list(times) for times in zip(*([work() for work in works] for _ in range(rounds)), strict=True)]


def say(name: str, ours: list[float], peer: list[float], size: float, unit: str = "MB/s") -> None:
    one, other = statistics.median(ours), statistics.median(peer)
    ratio = statistics.median(theirs / own for own, theirs in zip(ours, peer, strict=True))
    print(f"{name}: {ratio:.2f} of the peer's rate ({size / one:,.1f} against {size / other:,.1f} {unit})")


def measure_long(folder: Path) -> None:
    """One conversation of 800 turns, in a process of its own."""
    import resource

    tokenizer = make_tokenizer(folder, 0)
    tokenize(folder / "rows.jsonl", tokenizer)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = tokenize(folder / "long.jsonl", tokenizer)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"800 turns of {(folder / 'long.jsonl').stat().st_size / 1e6:.1f} MB: {seconds:.2f} s, {grown:,.0f} MiB more")


def run_apart(folder: Path, what: str, checkout: Path = ROOT) -> str:
    command = [sys.executable, __file__, "--work", what, "--folder", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def work(what: str, folder: Path) -> None:
    if what == "long":
        measure_long(folder)
    else:
        tokenizer = make_tokenizer(folder, 0)
        tokenize(folder / "long.jsonl" if what == "warm" else folder / "few.jsonl", tokenizer)
        print(tokenize(folder / "rows.jsonl", tokenizer))


def compare(folder: Path, rounds: int) -> None:
    rows, documents = folder / "rows.jsonl", folder / "documents.jsonl"
    tokenizer = make_tokenizer(folder, 0)
    texts = render_texts(rows, tokenizer)
    size = sum(map(len, texts)) / 1e6
    print(f"{os.cpu_count()} cores, {len(texts):,} conversations of {1e6 * size / len(texts):,.0f} characters")
    ours, peer = take_turns(rounds, lambda: tokenize(rows, tokenizer), lambda: time_peer(tokenizer, texts))
    say("conversations", ours, peer, size)
    texts = [json.loads(line)["text"] for line in documents.open()]
    ours, peer = take_turns(
        rounds, lambda: tokenize(documents, tokenizer, "document"), lambda: time_peer(tokenizer, texts)
    )
    say("documents", ours, peer, sum(map(len, texts)) / 1e6)
    many, ten = make_tokenizer(folder, ADDED), make_tokenizer(folder, 10)
    ours, peer = take_turns(rounds, lambda: tokenize(rows, many), lambda: tokenize(rows, ten))
    slower = statistics.median(one / other for one, other in zip(ours, peer, strict=True))
    print(f"{ADDED:,} added tokens: {slower:.2f} times the seconds of ten")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout of the project")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work, asked.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, asked.megabytes * 1_000_000)
        rows = folder / "rows.jsonl"
        (folder / "few.jsonl").write_text("".join(line for line, _ in zip(rows.open(), range(100), strict=False)))
        compare(folder, asked.rounds)
        print(run_apart(folder, "long"))
        if asked.against:
            checkouts = ROOT, asked.against.resolve()
            turns = [[float(run_apart(folder, "rows", each)) for each in checkouts] for _ in range(asked.rounds)]
            ours, peer = (list(each) for each in zip(*turns, strict=True))
            say(f"conversations, against {asked.against}", ours, peer, rows.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
