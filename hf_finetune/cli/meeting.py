"""Where the machines of a run meet again after one was lost: at the first one's address and port, free by then.

Where the first one is lost, they meet at the next.

hold_meeting    on the first of those left: who is there within a bounded time, and what each of them is from now on
attend_meeting  on each of the others: what it is from now on, or why it is nothing
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

SECONDS_TO_MEET = 45.0
"""Behind the end of its own processes: machines notice a cut within half a minute of each other."""
SECONDS_TO_ANSWER = 2.0
_SECONDS_BETWEEN = 0.2
_WORD, _ANSWER = struct.Struct("!III"), struct.Struct("!II")
_ENDS = 0
"""In the place of a number of machines: the run ends."""


@dataclass(frozen=True, slots=True)
class Left:
    """The machines that are left, and which of them this is."""

    count: int
    rank: int


@dataclass(frozen=True, slots=True)
class NotMet:
    """Why there is no more for this machine to do."""

    what: str
    is_gone: bool = False
    """Whether nobody was there: the first machine may be the one that was lost."""


@dataclass(frozen=True, slots=True)
class Place:
    """A meeting: where it is, of how many machines, and of which restart."""

    host: str
    port: int
    machines: int
    restart: int
    first: int = 0
    """The number of the machine there; those below it are gone."""

    @property
    def greeting(self) -> bytes:
        """What the first machine says to who comes: nobody takes another program at the port for it."""
        return f"hf-finetune: restart {self.restart:6} of {self.machines:6} machines\n".encode()


def hold_meeting(place: Place, *, seconds: float | None = None) -> Left | NotMet:
    """Wait until all machines are there, or for so many seconds, then tell each which of those left it is."""
    until = time.monotonic() + (SECONDS_TO_MEET if seconds is None else seconds)
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(place.port, until))
        there: dict[int, socket.socket] = {}
        ended: dict[int, int] = {}
        expected = place.machines - place.first - 1
        # Where nobody is left to come it waits all the same: a first machine that is only cut off is to be ahead of it.
        while len(there) < max(expected, place.first > 0) and not ended and (left := until - time.monotonic()) > 0:
            # Whoever comes and goes again, or looks for open ports, does not end the meeting.
            listening.settimeout(left)
            with suppress(OSError):
                guest, _ = listening.accept()
                stack.enter_context(guest)
                word = _greet(guest, place)
                if word is not None:
                    machine, code, goes_on = word
                    there[machine] = guest
                    ended |= {} if goes_on else {machine: code}
        # In the order of before and without gaps: a launcher takes ranks from 0 to N - 1.
        for rank, machine in enumerate(sorted(there), start=1):
            with suppress(OSError):
                there[machine].sendall(_ANSWER.pack(_ENDS if ended else len(there) + 1, min(ended, default=rank)))
    if ended:
        [(machine, code), *_] = ended.items()
        return NotMet(_say_ended(machine) + f" (exit code {code})")
    return Left(len(there) + 1, 0)


def attend_meeting(
    place: Place, machine: int, code: int, *, goes_on: bool, seconds: float | None = None
) -> Left | NotMet:
    """Tell the first machine that this one is there, with what its processes ended, and whether it would go on.

    Within so many seconds; what it answers is waited for as long again.
    """
    seconds = SECONDS_TO_MEET if seconds is None else seconds
    until, answered = time.monotonic() + seconds, False
    while time.monotonic() < until:
        # What has the port may still be the store of the run that was lost: it gives no greeting, and is asked again.
        with suppress(OSError), socket.create_connection((place.host, place.port), SECONDS_TO_ANSWER) as first:
            answered = True
            if _receive(first, len(place.greeting), SECONDS_TO_ANSWER) == place.greeting:
                first.sendall(_WORD.pack(machine, code, goes_on))
                if (said := _receive(first, _ANSWER.size, seconds + SECONDS_TO_ANSWER)) is not None:
                    count, number = _ANSWER.unpack(said)
                    return NotMet(_say_ended(number)) if count == _ENDS else Left(count, number)
        time.sleep(_SECONDS_BETWEEN)
    where = f"{f'machine {place.first}' if place.first else 'the first machine'} ({place.host}, port {place.port})"
    if answered:
        return NotMet(f"{where} has gone on without this one, which came too late, or waits for another restart")
    gone = f"{where} did not meet this one within {seconds:g} s: it is gone, or its run has ended"
    return NotMet(gone, is_gone=True)


def _say_ended(machine: int) -> str:
    return f"machine {machine} has ended for a reason that a restart would meet again"


@contextmanager
def _listen(port: int, until: float) -> Iterator[socket.socket]:
    """Listen at a port, which what has had it may take a moment to leave. Raises `OSError`."""
    # The address that the others were given may be of either kind.
    both = socket.has_dualstack_ipv6()
    while True:
        try:
            listening = socket.create_server(
                ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=512
            )
            break
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(_SECONDS_BETWEEN)
    with listening:
        yield listening


def _greet(guest: socket.socket, place: Place) -> tuple[int, int, bool] | None:
    """The number of a machine that is one of the run's, its exit code and whether it goes on; None for others."""
    guest.settimeout(SECONDS_TO_ANSWER)
    guest.sendall(place.greeting)
    said = _receive(guest, _WORD.size, SECONDS_TO_ANSWER)
    if said is None:
        return None
    machine, code, goes_on = _WORD.unpack(said)
    return (machine, code, bool(goes_on)) if place.first < machine < place.machines else None


def _receive(connection: socket.socket, size: int, seconds: float) -> bytes | None:
    """Exactly so many bytes, all within so many seconds; None where the other one ends before. Raises `OSError`."""
    said, until = b"", time.monotonic() + seconds
    while len(said) < size:
        connection.settimeout(max(0.01, until - time.monotonic()))
        if not (more := connection.recv(size - len(said))):
            return None
        said += more
    return said
