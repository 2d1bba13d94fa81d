"""Two tasks made of the standard library, small enough for a first run, in which a tuned model is plainly better.

tools    a function's signature and documentation -> {"name": ..., "description": ..., "parameters": [...]}
topics   a sentence of documentation -> the topic of the module that it is from
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable, Iterator

from hf_finetune.data.corpora.library_files import LICENSE, Row, get_public_module, hash_order
from hf_finetune.data.corpora.python_source import Definition, read_python

QUESTION = "Describe this function as a tool, in JSON:"

# Short rows: a CPU trains on some hundred of them in minutes.
_TOOLS = 800
_SENTENCE_WORDS = range(3, 15)
# A function without any teaches a small model to write [] for all.
_PARAMETERS = range(1, 6)

_TOPIC_ROWS = 150
_TOPIC_WORDS = range(6, 41)
_TOPICS = {
    "code tools": "ast bdb code codeop compileall dis doctest importlib inspect modulefinder pdb pickletools pkgutil "
    "profile pstats pyclbr symtable tokenize trace traceback unittest venv",
    "concurrency": "concurrent multiprocessing queue sched subprocess threading",
    "files": "bz2 filecmp fileinput fnmatch glob gzip lzma ntpath os pathlib posixpath _pyio shutil tarfile tempfile "
    "zipfile",
    "networking": "asyncio ftplib http imaplib poplib selectors smtplib socket socketserver ssl urllib wsgiref xmlrpc",
    "numbers and dates": "calendar colorsys datetime decimal fractions ipaddress numbers _pydatetime _pydecimal random "
    "statistics",
    "text": "argparse base64 codecs configparser csv difflib email gettext html json locale quopri re string textwrap "
    "xml",
    "windows": "curses tkinter turtle",
}


def build_tool_rows(files: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """Yield instruction rows from (name, text) of library files: a short function, and its description as JSON."""
    rows: dict[str, Row] = {}
    for file, text in files:
        module = get_public_module(file)
        for definition in read_python(text).definitions if module else ():
            described = _describe_tool(definition)
            if described is not None:
                head, answer = described
                values = {"instruction": f"{QUESTION}\n{head}", "response": answer, "module": module}
                rows.setdefault(head, Row(file, {**values, "license": LICENSE}))
    yield from (rows[head] for head in sorted(rows, key=hash_order)[:_TOOLS])


def _describe_tool(definition: Definition) -> tuple[str, str] | None:
    """Return the head of a function with one sentence of documentation, and the answer; None where it is unsuitable."""
    node = definition.node
    sentence = _read_first_paragraph(definition)
    if isinstance(node, ast.ClassDef) or definition.kind == "property" or not definition.public or node.decorator_list:
        return None
    arguments = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    names = arguments[1:] if definition.kind == "method" else arguments
    if node.args.vararg or node.args.kwarg or "self" in names or len(names) not in _PARAMETERS:
        return None
    if len(sentence.split()) not in _SENTENCE_WORDS or not sentence.endswith("."):
        return None
    answer = json.dumps({"name": node.name, "description": sentence, "parameters": names}, ensure_ascii=False)
    return f'def {node.name}({ast.unparse(node.args)}):\n    """{sentence}"""', answer


def build_topic_rows(files: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """Yield labelled rows from (name, text) of library files, the same number of each topic."""
    topic_of = {module: topic for topic, modules in _TOPICS.items() for module in modules.split()}
    rows: dict[str, dict[str, Row]] = {topic: {} for topic in _TOPICS}
    for file, text in files:
        topic = topic_of.get(file.split("/")[0].removesuffix(".py"))
        for definition in read_python(text).definitions if topic else ():
            sentence = _read_first_paragraph(definition)
            if len(sentence.split()) in _TOPIC_WORDS and sentence.endswith("."):
                values = {"text": sentence, "label": topic, "source": file, "license": LICENSE}
                rows[str(topic)].setdefault(sentence, Row(file, values))
    uses = Counter(text for topic_rows in rows.values() for text in topic_rows)  # a text has one topic, or none
    chosen = [
        topic_rows[text]
        for topic_rows in rows.values()
        for text in sorted((text for text in topic_rows if uses[text] == 1), key=hash_order)[:_TOPIC_ROWS]
    ]
    yield from sorted(chosen, key=lambda row: hash_order(row.values["text"]))


def _read_first_paragraph(definition: Definition) -> str:
    return " ".join(definition.docstring.split("\n\n")[0].split())
