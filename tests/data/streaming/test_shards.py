"""The shards of a stream: behind URLs, in the order of a pass, and what is said where they cannot be had."""

from __future__ import annotations

import gzip
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.streaming.chunks import ChunkReader
from hf_finetune.data.streaming.position import Position
from hf_finetune.data.streaming.shards import list_shards, order_shards
from hf_finetune.errors import DataError

ROWS = [{"text": f"row {number} " + "x" * number} for number in range(50)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


def read_pass(data: DataSection, chunk_bytes: int = 400) -> list[tuple[str, str]]:
    """The rows of one pass in their order, with their places."""
    args = SimpleNamespace(train_batch_size=1, world_size=1, gradient_accumulation_steps=1, seed=3, data_seed=None)
    args.max_steps, args.resume_from_checkpoint = 1, None
    run = SimpleNamespace(data=data, output_dir="run", train={})
    stream = load_splits(data, "document", 3, trained=(run, args)).stream  # type: ignore[arg-type]
    reader = ChunkReader(stream.shards, stream.reading, 3, chunk_bytes)
    rows = []
    position = Position()
    while position.pass_number == 0 and position.turn < len(stream.shards):
        chunk = next(reader.iterate(position))  # each from its own position, as a resumed run reads it
        if chunk.begin.pass_number:
            break
        places = ["{}:{}".format(*stream.locate(int(each))) for each in chunk.ids]
        rows += list(zip(chunk.rows["text"], places, strict=True))
        position = chunk.end
    return rows


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "csv"])
def test_shards_behind_a_url_are_read_from_any_place(kind, memory):
    content = {"jsonl": LINES, "jsonl.gz": gzip.compress(LINES)}.get(kind)
    if kind == "csv":
        content = ("text\n" + "".join(f"{row['text']}\n" for row in ROWS)).encode()
    for name in ("b", "a"):
        with memory.open(f"/shards/{name}.{kind}", "wb") as file:
            if kind == "parquet":
                pq.write_table(pa.Table.from_pylist(ROWS), file)
            else:
                file.write(content)
    found = read_pass(DataSection(train=f"memory://shards/*.{kind}", stream=True))
    order = [("a", "b")[turn] for turn in order_shards(2, 3, 0)]
    first = 2 if kind == "csv" else 1
    shown = [f"memory:///shards/{name}.{kind}" for name in order]
    assert found == [(row["text"], f"{name}:{number}") for name in shown for number, row in enumerate(ROWS, first)]


def test_a_shard_is_read_from_a_web_server(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(LINES)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/rows.jsonl"
        assert [text for text, _ in read_pass(DataSection(train=url, stream=True))] == [row["text"] for row in ROWS]
        with pytest.raises(DataError, match=r"nope\.jsonl.*: cannot be reached"):
            list_shards(DataSection(train=url.replace("rows", "nope"), stream=True))
    finally:
        server.shutdown()
        server.server_close()


def test_what_cannot_be_reached_is_said(memory, tmp_path):
    with pytest.raises(DataError, match=r"s3:// is read by a package that is not here; install it: `pip install s3fs`"):
        list_shards(DataSection(train="s3://bucket/*.jsonl", stream=True))
    with pytest.raises(DataError, match="nope"):
        list_shards(DataSection(train="nope://bucket/a.jsonl", stream=True))
    with pytest.raises(DataError, match="no file matches"):
        list_shards(DataSection(train="memory://shards/*.jsonl", stream=True))
    (tmp_path / "a.jsonl").write_bytes(LINES)
    with pytest.raises(DataError, match="is named twice"):
        list_shards(DataSection(train=[f"{tmp_path}/a.jsonl", f"{tmp_path}/*.jsonl"], stream=True))


def test_a_stream_without_rows_is_said(memory):
    memory.pipe("/empty/a.jsonl", b"[1]\n[2]\n")
    with pytest.raises(DataError, match="the shard has no line that is a JSON object"):
        read_pass(DataSection(train="memory://empty/*.jsonl", stream=True))
    memory.pipe("/empty/b.jsonl", b"[1]\n")
    with pytest.raises(DataError, match="none of the first 2 shards has a line that is a JSON object"):
        read_pass(DataSection(train="memory://empty/*.jsonl", stream=True))
    memory.pipe("/bad/a.jsonl", b'{"text": 5}\n' * 3)
    with pytest.raises(DataError, match=r"no shard has a row; run with data\.on_bad_line=fail to see why"):
        read_pass(DataSection(train="memory://bad/a.jsonl", stream=True, on_bad_line="skip"))
    memory.pipe("/shards/a.jsonl", LINES)
    memory.pipe("/shards/b.arrow", b"ARROW1" + bytes(20))
    with pytest.raises(DataError, match="an Arrow file is read on this machine alone; write it as JSONL or Parquet"):
        read_pass(DataSection(train="memory://shards/*", stream=True))
    reader = ChunkReader((), None, 0, 1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no shard has a row"):
        next(reader.iterate(Position()))


def test_every_pass_has_every_shard_once_in_another_order():
    orders = [order_shards(20, 1, number) for number in range(3)]
    assert [sorted(order) for order in orders] == [list(range(20))] * 3
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] == order_shards(20, 1, 0)
    assert orders[0] != order_shards(20, 2, 0)
