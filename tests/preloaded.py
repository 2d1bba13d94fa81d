"""Commands for tests that run many: a process each, forked from one that has imported the stack already.

`serve_commands` puts programs named `hf-finetune`, `accelerate` and `python` into a folder, for the front of PATH. Each
hands its arguments, working directory, environment, streams and bound of a file's size to the server, and ends as the
command does; what `accelerate launch` starts is forked too. For tests of what commands do: what the start of a process
costs and imports, what signals do to it and how much memory it has, needs a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PROGRAMS = ("hf-finetune", "accelerate", "python")
SECONDS, SECONDS_TO_SAY_WHERE = 240, 100
# The beginnings of variables that Python reads when it starts, and the libraries when they are imported.
READ_ONCE = ("PYTHONWARN", "PYTHONHASH", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "OMP_", "LC_", "LANG")
# What `hf-finetune train` says to the processes that it starts, which ask when they need it.
READ_EACH_TIME = {
    *("HF_FINETUNE_LAUNCHER", "HF_FINETUNE_CONFIG_FILE"),
    *("HF_FINETUNE_RESTART", "HF_FINETUNE_ADDRESSES", "HF_FINETUNE_RESTARTS", "HF_FINETUNE_STEP"),
}
# The variable that names the network namespace in which a command runs.
NETWORK, CLONE_NEWNET = "NETWORK_NAMESPACE", 0x40000000
STARTED = dict(os.environ)

CLIENT = """\
#!{python} -IS
import json, os, resource, socket, sys
if sys.argv[0].endswith("/python"):
    if sys.argv[1] == "-u":
        del sys.argv[1]
    if sys.argv[1].startswith("-"):
        os.execv({python!r}, [{python!r}, *sys.argv[1:]])
    del sys.argv[0]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    said = json.dumps([sys.argv, os.getcwd(), dict(os.environ), resource.getrlimit(resource.RLIMIT_FSIZE)]).encode()
    socket.send_fds(server, [len(said).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(said)
    answer = server.makefile("r").readline()
sys.exit(int(answer) if answer else "the server of tests/preloaded.py has ended")
"""


@contextlib.contextmanager
def serve_commands(
    folder: Path, environment: Mapping[str, str], modules: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """Serve until the block ends; yields `environment` with `folder`, where the programs are, at the front of PATH.

    `modules`: what has been imported already, instead of the whole stack.
    """
    address = str(folder / "socket")
    for name in PROGRAMS:
        (folder / name).write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
        (folder / name).chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()  # who connects while the server imports waits
        command = [sys.executable, __file__, str(listening.fileno()), *modules]
        server = subprocess.Popen(command, env=dict(environment), pass_fds=[listening.fileno()])
    try:
        yield {**environment, "PATH": f"{folder}{os.pathsep}{environment['PATH']}"}
    finally:
        server.terminate()
        server.wait()


def serve(listening: socket.socket) -> None:
    """Answer each client in a fork, which forks the command and waits for it; returns as that command."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks that answer
    while True:
        client, _ = listening.accept()
        with client:
            if not os.fork():
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(client)
                return


def answer(client: socket.socket) -> None:
    """Returns as the command; the process that waits for it ends here."""
    size, streams, _, _ = socket.recv_fds(client, 4, 3)
    with client.makefile("rb") as said:
        arguments, folder, environment, limit = json.loads(said.read(int.from_bytes(size, "big")))
    command = os.fork()
    if not command:
        client.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        become(arguments, folder, environment, streams)
        return
    for stream in streams:
        os.close(stream)
    while (ended := os.waitpid(command, os.WNOHANG)) == (0, 0):
        if select.select([client], [], [], 0.01)[0]:  # it was ended, by a test or by the launcher of its rank
            os.kill(command, signal.SIGTERM)
            ended = os.waitpid(command, 0)
            break
    code = os.waitstatus_to_exitcode(ended[1])
    with contextlib.suppress(OSError):  # the client may have been ended meanwhile
        client.sendall(b"%d\n" % (code if code >= 0 else 128 - code))  # as a shell has it
    os._exit(0)


def become(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(SECONDS_TO_SAY_WHERE)
    take_streams(*streams)
    differ = {name for name, _ in STARTED.items() ^ environment.items() if name.startswith(READ_ONCE)}
    differ -= READ_EACH_TIME
    if differ:
        sys.exit(f"read already, when the server of tests/preloaded.py started: {', '.join(sorted(differ))}")
    if network := environment.get(NETWORK):
        enter_network(network)
    os.chdir(folder)
    set_by_imports = {name: value for name, value in os.environ.items() if STARTED.get(name) != value}
    os.environ.clear()
    os.environ.update(environment | set_by_imports)
    sys.argv = arguments
    path = environment.get("PYTHONPATH")
    sys.path[:1] = [str(Path(arguments[0]).resolve().parent), *(path.split(os.pathsep) if path else ())]
    sys.executable = shutil.which("python", path=environment["PATH"]) or sys.executable  # of what accelerate starts


def enter_network(name: str) -> None:
    """Be on the machine of tests/distributed/two_machines.py that has this name."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{name}", "rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def run_program() -> None:
    """Be the program that `become` was given."""
    name = Path(sys.argv[0]).name
    if name == "hf-finetune":
        from hf_finetune.cli import main

        main()
    elif name == "accelerate":
        from accelerate.commands.accelerate_cli import main

        main()
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def take_streams(stdin: int, out: int, err: int) -> None:
    """Make these the standard streams, of the process and of Python."""
    for number, (name, source, mode) in enumerate((("stdin", stdin, "r"), ("stdout", out, "w"), ("stderr", err, "w"))):
        os.dup2(source, number)
        errors = "backslashreplace" if name == "stderr" else "strict"
        buffering = 1 if name == "stderr" else -1  # as Python has them
        stream = open(number, mode, buffering, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def import_before_forks(modules: Sequence[str]) -> None:
    """Import `modules`, or where there are none ours and what ours imports late."""
    if not modules:
        import hf_finetune

        ours = [module.name for module in pkgutil.walk_packages(hf_finetune.__path__, "hf_finetune.")]
        modules = [name for name in ours if not name.endswith("__main__")]
        modules += ["trl.trainer.sft_trainer", "sklearn.linear_model", "accelerate.commands.accelerate_cli"]
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # or the collector of every child would walk, and so copy, all of it


if __name__ == "__main__":
    _, number, *chosen = sys.argv
    import_before_forks(chosen)
    with socket.socket(fileno=int(number)) as listener:
        serve(listener)
    run_program()
