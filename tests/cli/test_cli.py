"""The command as a user meets it: exit codes, one clear message, answers at once."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from chat_models import saved_parrot, talking_tokenizer
from tuned_adapters import adapter_on, save, saved_base, train
from typer.testing import CliRunner

from hf_finetune.cli import app, main
from hf_finetune.config.sections import EvalSection
from hf_finetune.data.corpora.standard_library import KINDS
from hf_finetune.evaluation.generation.prompts import answer_prompts
from hf_finetune.models.saved import load_for_generation

COMMANDS = (
    "train",
    "score",
    "predict",
    "generate",
    "chat",
    "report",
    "diagnose",
    "merge",
    "serve",
    "push",
    "corpus",
    "model",
    "init",
    "doctor",
    "cache",
)


@pytest.fixture
def hf_finetune(project_root, preloaded):
    def run(*arguments: str, cwd: Path = project_root, said: str = "") -> subprocess.CompletedProcess[str]:
        options = {"cwd": cwd, "env": preloaded, "timeout": 300}
        command = ["hf-finetune", *arguments]
        return subprocess.run(command, input=said, capture_output=True, text=True, check=False, **options)

    return run


@pytest.fixture
def in_this_process(capsys, monkeypatch):
    """The command without the seconds that a process of its own takes to import everything."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["hf-finetune", *arguments])
        monkeypatch.setattr(logging.root, "handlers", [])  # those that it sets up write to what is captured here
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, end.value.code or 0, shown.out, shown.err)

    return run


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nothing_heavy(command):
    arguments = [command, "--help"] if command else ["--help"]
    code = (
        "import sys; from hf_finetune.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_is_read_before_anything_heavy_is_imported():
    code = (
        "import sys, hf_finetune.cli.launcher\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'scipy'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
        "import runpy; runpy.run_path('recipes/continued_pretraining.py')\n"
        "heavy = {'scipy.stats', 'sklearn', 'trl', 'evaluate', 'IPython'} & {*sys.modules}\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_answers_in_half_a_second(environment_of_a_user):
    def seconds() -> float:
        started = time.perf_counter()
        command = [sys.executable, "-m", "hf_finetune.cli", "--help"]
        subprocess.run(command, env=environment_of_a_user, capture_output=True, check=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.5


def test_every_command_is_documented_in_the_help():
    shown = CliRunner().invoke(app, ["--help"]).output
    assert all(command in shown for command in COMMANDS)


def test_a_broken_run_file_is_refused_whole_before_anything_is_launched(hf_finetune, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("recipe: continued_pretraining\nmodell: {}\ntrain: {learning_rat: 1}\noutput_dir: x\n")
    done = hf_finetune("train", str(broken))
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{broken}:2: modell" in done.stderr
    assert "did you mean train.learning_rate" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_data_is_one_message_and_exit_code_2_through_the_launcher(hf_finetune, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": 3}\n\n{"text": "fine"}\n{"text" "x"}\n')
    done = hf_finetune(
        *("train", "recipes/configs/continued_pretraining.yaml", f"data.train={bad}", f"output_dir={tmp_path}/run")
    )
    assert done.returncode == 2
    assert f"{bad}:2" in done.stderr
    assert f"{bad}:5" in done.stderr
    assert "2 problems" in done.stderr
    assert "Traceback" not in done.stderr
    assert "accelerate launch --config_file accelerate_configs/cpu.yaml" in done.stderr.replace(str(tmp_path), "")


def test_show_data_is_a_setting_of_the_run(in_this_process, tmp_path):
    run_file = tmp_path / "run.yaml"
    run_file.write_text("recipe: continued_pretraining\nmodel: {path: m}\ndata: {train: t.jsonl}\noutput_dir: x\n")
    assert "eval.show_data" not in in_this_process("train", str(run_file)).stderr
    done = in_this_process("train", str(run_file), "--show-data")
    assert done.returncode == 2
    assert "eval.show_data" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "recipes/configs/nothing.yaml"), "recipes/configs/nothing.yaml"),
        (
            ("train", "recipes/configs/char_model.yaml", "--on", "gpu"),
            "There are cpu, cpu_2proc, fsdp2",
        ),
        (("train", "recipes/configs/char_model.yaml", "--on", "cpu_2prog"), "did you mean cpu_2proc?"),
        (("corpus", "sauce", "x.jsonl"), "source"),
        (("generate", "runs/of_nobody", "x"), "runs/of_nobody"),
        (("generate", "runs/of_nobody", "x", "--top-p", "0"), "--top-p"),
        (("init", "README.md"), "README.md"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(hf_finetune, arguments, message):
    done = hf_finetune(*arguments)
    assert done.returncode in (2, 5)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_character_that_the_vocabulary_lacks_is_named(in_this_process, run_recipe, tmp_path):
    run_recipe("char_model", "train.max_steps=1", "train.eval_strategy=no", "eval.prompts=[]")
    done = in_this_process("generate", str(tmp_path / "run"), "caf\u00e9 \u4e16")
    assert done.returncode == 2
    assert "U+4E16" in done.stderr
    assert "Traceback" not in done.stderr


def test_generate_is_seeded_and_speaks_json(hf_finetune, in_this_process, run_recipe, tmp_path):
    run_recipe("char_model", "train.max_steps=1", "train.eval_strategy=no", "eval.prompts=[]")
    asked = ("generate", str(tmp_path / "run"), "The ", "A", "--max-new-tokens", "5", "--json")
    first, again = hf_finetune(*asked), in_this_process(*asked)
    assert first.returncode == 0, first.stderr
    samples = json.loads(first.stdout)
    assert [sample["prompt"] for sample in samples] == ["The ", "A"]
    assert samples == json.loads(again.stdout)
    assert samples != json.loads(in_this_process(*asked, "--seed", "7").stdout)


SAYS_ABC = {"\n": "a", "a": "b", "b": "c"}
GREEDY = ("--temperature", "0")


def test_generate_answers_with_a_chat_model_and_continues_where_it_is_told_to(in_this_process, tmp_path):
    model = saved_parrot(tmp_path / "model", SAYS_ABC)
    shown = in_this_process("generate", model, ":a: hi", "so", *GREEDY)
    assert shown.stdout == ":a: hi\nabc\nso\nabc\n", shown.stderr
    raw = in_this_process("generate", model, "a", *GREEDY, "--raw", "--json")
    assert [sample["continuation"] for sample in json.loads(raw.stdout)] == ["bc"]


def test_what_changes_nothing_where_the_likeliest_token_is_taken_is_said(in_this_process, tmp_path):
    model = saved_parrot(tmp_path / "model", SAYS_ABC)
    plain = in_this_process("generate", model, "hi", *GREEDY)
    shown = in_this_process("generate", model, "hi", *GREEDY, "--top-p", "0.5", "--top-k", "3")
    assert shown.stdout == plain.stdout
    assert "--temperature 0 always takes the likeliest token, without regard to --top-p and --top-k" in shown.stderr
    assert "likeliest" not in plain.stderr


def test_output_that_cannot_be_written_is_one_message(monkeypatch, capsys):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "argv", ["hf-finetune", "--version"])
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 5
    what = "standard output cannot be written (No space left on device); make room, or send it elsewhere"
    assert capsys.readouterr().err.splitlines() == [f"{what}; nothing but what was shown is lost [HF716]"]


def test_generate_shows_a_base_beside_what_became_of_it(in_this_process, tmp_path):
    base = saved_parrot(tmp_path / "base", {"\n": "n", "n": "o"}, chat=False)
    tuned = saved_parrot(tmp_path / "tuned", SAYS_ABC)
    shown = in_this_process("generate", tuned, "hi", "--base", "--base-path", base, *GREEDY)
    assert shown.stdout.splitlines()[0].strip() == "hi"
    assert [line.split() for line in shown.stdout.splitlines() if "abc" in line] == [["│", "no", "│", "abc", "│"]]


def test_an_adapter_answers_and_becomes_a_model_that_answers_the_same(in_this_process, tmp_path):
    tokenizer = talking_tokenizer()
    base = saved_base(tmp_path / "base", vocab_size=len(tokenizer))
    adapter = save(train(adapter_on(base), steps=20), tmp_path / "adapter")
    tokenizer.save_pretrained(adapter)
    asked = ("hi", "A", *GREEDY, "--max-new-tokens", "10", "--json")
    [before, *_] = pairs = json.loads(in_this_process("generate", str(adapter), *asked, "--base").stdout)
    assert before["base"]["continuation"] != before["tuned"]["continuation"]
    merged = in_this_process("merge", str(adapter), str(tmp_path / "merged"), "--json")
    facts = json.loads(merged.stdout)
    assert facts["output"] == str(tmp_path / "merged")
    assert facts["max_logit_difference"] <= 1e-5
    settings = EvalSection(temperature=0, max_new_tokens=10)
    answers = answer_prompts(*load_for_generation(str(tmp_path / "merged")), ["hi", "A"], settings)
    assert [asdict(sample) for sample in answers] == [pair["tuned"] for pair in pairs]


def test_a_chat_is_held_through_pipes_and_saved(hf_finetune, tmp_path):
    model, file = saved_parrot(tmp_path / "model", SAYS_ABC), tmp_path / "chats.jsonl"
    done = hf_finetune("chat", model, *GREEDY, "--system", "Be kind.", said=f"hi\r\n\n/nothing\nso\n/save {file}\n")
    assert (done.returncode, done.stdout) == (0, "abc\nabc\n"), done.stderr
    assert "[there is no /nothing; /help lists what there is]" in done.stderr
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert [message["role"] for message in json.loads(file.read_text())["messages"]] == roles


class Terminal:
    """The command in a pseudo-terminal, as someone who types sees it."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.shown = b""
        self.terminal, end = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hf_finetune.cli", *arguments],
            stdin=end,
            stdout=end,
            stderr=end,
            env=environment,
            start_new_session=True,
            preexec_fn=self._reached_by_ctrl_c,
        )
        os.close(end)

    @staticmethod
    def _reached_by_ctrl_c() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs in the background of a shell ignores it

    def wait_for(self, expected: bytes, seconds: float = 120) -> bytes:
        """What was shown before `expected`; both are then done with."""
        end = time.monotonic() + seconds
        while expected not in self.shown:
            assert time.monotonic() < end, self.shown[-2_000:]
            if select.select([self.terminal], [], [], 1)[0]:
                self.shown += os.read(self.terminal, 65_536)
        before, _, self.shown = self.shown.partition(expected)
        return before

    def type(self, keys: bytes) -> None:
        os.write(self.terminal, keys)


@pytest.fixture
def terminal(environment_of_a_user):
    opened = []

    def run(*arguments: str) -> Terminal:
        opened.append(Terminal(environment_of_a_user, *arguments))
        return opened[-1]

    yield run
    for one in opened:
        one.process.kill()
        one.process.wait()
        os.close(one.terminal)


def test_a_chat_in_a_terminal_streams_is_interrupted_and_ends(terminal, tmp_path):
    model = saved_parrot(tmp_path / "model", {"\n": "a", "a": "b", "b": "a"}, positions=50_000)
    chat = terminal("chat", model, *GREEDY, "--max-new-tokens", "49000")
    assert b"/help lists the commands" in chat.wait_for(b"> ")
    chat.type(b"hi\n")
    chat.wait_for(b"abababab")  # long before the answer could be whole
    chat.type(b"zz")
    time.sleep(0.5)
    chat.type(b"\x03")
    assert b"z" not in chat.wait_for(b"[stopped]")
    chat.wait_for(b"> ")
    chat.type(b"half a line")
    chat.wait_for(b"half a line")
    time.sleep(0.5)  # Python sees a signal between two of its waits for a key only with the next key
    chat.type(b"\x03")
    chat.wait_for(b"Ctrl-D or /quit ends")
    chat.wait_for(b"> ")
    chat.type(b"\x04")
    assert chat.process.wait(60) == 0


def test_a_chat_that_is_ended_while_it_answers_leaves_the_terminal_as_it_was(terminal, tmp_path):
    model = saved_parrot(tmp_path / "model", {"\n": "a", "a": "b", "b": "a"}, positions=50_000)
    chat = terminal("chat", model, *GREEDY, "--max-new-tokens", "49000")
    chat.wait_for(b"> ")
    chat.type(b"hi\n")
    chat.wait_for(b"abababab")
    assert not termios.tcgetattr(chat.terminal)[3] & termios.ECHO
    chat.process.send_signal(signal.SIGTERM)
    chat.process.wait(60)
    assert termios.tcgetattr(chat.terminal)[3] & termios.ECHO


def test_doctor_and_corpus_speak_json(hf_finetune, tmp_path):
    doctor = hf_finetune("doctor", "--json")
    assert doctor.returncode == 0
    assert json.loads(doctor.stdout)["facts"]["devices"]
    corpus = hf_finetune("corpus", KINDS[0], str(tmp_path / "c.jsonl"), "--max-bytes", "50000", "--json")
    facts = json.loads(corpus.stdout)
    assert facts["rows"] == len((tmp_path / "c.jsonl").read_text().splitlines())
