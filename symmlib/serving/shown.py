"""What a person sees of a server while it is under load, and what is asked meanwhile. Called by `run`."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from symmlib.live import Status
from symmlib.provenance import throttling

ASK_S = 5  # between two questions to the GPUs while a rate is sent


@dataclass
class Shown:
    """Where a person sees how far the server at `place` is, and what is left until the moment `ends` (monotonic, s)."""

    status: Status
    place: str
    ends: float = 0

    def counting(self, cell: str, requests: int, slowed: "Slowed | None") -> Callable[[int], None]:
        """What shows how many of the cell's `requests` have finished, and asks meanwhile whether GPUs are `slowed`."""

        def show(done: int) -> None:
            left_s = self.ends - time.monotonic()
            self.status.update(f"{self.place}, {cell}: {done} of {requests} requests", left_s)
            if slowed:
                slowed.ask()

        return show


class Slowed:
    """Why `devices` (GPUs by their UUIDs) were slowed down while a rate was sent, asked every `ASK_S`."""

    def __init__(self, devices: list[str]):
        self._devices = devices
        self.reasons: set[str] = set()
        self.was_asked = False
        self._next = 0.0

    def ask(self) -> None:
        if time.monotonic() >= self._next and (found := throttling(self._devices)) is not None:
            self.reasons.update(found)
            self.was_asked = True
            self._next = time.monotonic() + ASK_S
