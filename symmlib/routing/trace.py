"""Counts what served each all-reduce: the evidence that an experiment measured what it says it measured."""

import atexit
import contextlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symmlib.routing.router import Decision

WRITE_EVERY_S = 1.0


@dataclass(slots=True)
class Served:
    """One size of one dtype, how it is served and how often it was. Whoever serves it adds to `calls`.

    `launch` is the router's: what it calls for the next tensor of this kind.
    """

    decision: "Decision"
    bytes: int
    dtype: str
    calls: int = 0
    launch: Callable | None = None


class Trace:
    """What served which sizes on one rank, kept in `directory/rank-<rank>.json` where one is given.

    A thread replaces the file as a whole once a second, and it is written at exit, because inference servers often end
    their workers without letting them clean up: what a killed rank did in its last second may be missing.

    Calls of the router are counted. A CUDA graph calls it when it is captured and not when it is replayed, so there the
    counts tell what the graphs hold and not how often they ran.
    """

    def __init__(self, rank: int, world_size: int, directory: str | Path | None = None):
        self.rank, self.world_size = rank, world_size
        self.served: list[Served] = []
        self._path = Path(directory) / f"rank-{rank}.json" if directory else None
        self._ended = threading.Event()
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self.write()
            threading.Thread(target=self._keep_writing, name="symmlib-trace", daemon=True).start()
            atexit.register(self.close)

    def add(self, served: Served) -> Served:
        """Keep account of `served` from now on."""
        self.served.append(served)
        return served

    def write(self) -> None:
        """Replace the file by what was counted so far."""
        calls = [
            {
                "backend": one.decision.backend,
                "bytes": one.bytes,
                "dtype": one.dtype,
                "by_table": one.decision.by_table,
                "reason": one.decision.reason,
                "calls": one.calls,
            }
            for one in list(self.served)
            if one.calls
        ]
        calls.sort(key=lambda call: (call["backend"], call["bytes"], call["dtype"], call["reason"]))
        text = json.dumps({"rank": self.rank, "world_size": self.world_size, "calls": calls}, indent=1)
        beside = self._path.with_suffix(f".{os.getpid()}.tmp")
        beside.write_text(text)
        beside.replace(self._path)

    def close(self) -> None:
        """Write a last time and end the thread. Idempotent."""
        if self._path and not self._ended.is_set():
            self._ended.set()
            self.write()

    def _keep_writing(self) -> None:
        while not self._ended.wait(WRITE_EVERY_S):
            with contextlib.suppress(OSError):  # a full disk must not end what is being traced; a gate will miss it
                self.write()
