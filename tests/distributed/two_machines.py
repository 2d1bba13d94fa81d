"""Two machines on this one: a network namespace each, with a cable between them that can be cut.

Of two namespaces neither sees the connections of the other, nor its loopback; what is sent over the cable goes through
the network stack of the kernel. They share the disk, as machines that train together do, and the clock. Needs root and
`ip` (iproute2).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from preloaded import NETWORK

ADDRESSES = ("10.77.0.1", "10.77.0.2")


class NoNamespaces(Exception):
    """This system makes no network namespaces for this user."""


class Machines:
    """The names of both namespaces, and of the end of the cable in each."""

    def __init__(self) -> None:
        self.names = tuple(f"lost{os.getpid()}{side}" for side in "ab")

    def connect(self) -> None:
        """Make both. Raises `NoNamespaces`."""
        one, other = self.names
        try:
            for name in self.names:
                run_ip("netns", "add", name)
            run_ip("link", "add", one, "netns", one, "type", "veth", "peer", "name", other, "netns", other)
            for name, address in zip(self.names, ADDRESSES, strict=True):
                run_ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
                run_ip("-n", name, "link", "set", "lo", "up")
                run_ip("-n", name, "link", "set", name, "up")
        except (OSError, subprocess.CalledProcessError) as refused:
            raise NoNamespaces(str(refused)) from refused

    def cut(self, side: int) -> None:
        """Pull the cable out of a machine."""
        run_ip("-n", self.names[side], "link", "set", self.names[side], "down")

    def plug_in(self, side: int) -> None:
        run_ip("-n", self.names[side], "link", "set", self.names[side], "up")

    def get_variables(self, side: int) -> dict[str, str]:
        """With them in its environment a command of tests/preloaded.py runs on that machine."""
        return {NETWORK: self.names[side], "GLOO_SOCKET_IFNAME": self.names[side]}


@contextmanager
def connect_two_machines() -> Iterator[Machines]:
    """Two machines, which are gone behind the block. Raises `NoNamespaces`."""
    if shutil.which("ip") is None or os.getuid() != 0:
        raise NoNamespaces("needs root and iproute2")
    machines = Machines()
    try:
        machines.connect()
        yield machines
    finally:
        for name in machines.names:
            with suppress(OSError, subprocess.CalledProcessError):
                run_ip("netns", "del", name)


def run_ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
