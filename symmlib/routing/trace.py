"""Counts what served each all-reduce: the evidence that an experiment measured what it says it measured."""

import atexit
import contextlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from symmlib.routing.replays import Graph, count_replays

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

    `calls` are all-reduces that ran. A CUDA graph calls nobody when it is replayed; with `of_graphs`, what its capture
    called counts at each replay instead (`captured` says how many calls the graphs hold, `replayed` how many of `calls`
    they made). Without, a capture counts as one call, and a replay as none.
    """

    def __init__(self, rank: int, world_size: int, directory: str | Path | None = None):
        self.rank, self.world_size = rank, world_size
        self.served: list[Served] = []
        self.graphs: list[Graph] = []
        self._path = Path(directory) / f"rank-{rank}.json" if directory else None
        self._ended = threading.Event()
        self._writing = threading.Lock()  # the thread and `close` write the same file
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self.write()
            threading.Thread(target=self._keep_writing, name="symmlib-trace", daemon=True).start()
            atexit.register(self.close)

    def of_graphs(self, graph_class: type) -> None:
        """Count the replays of the graphs of `graph_class` (`torch.cuda.CUDAGraph`) that are captured from now on."""

        def captured(before: list[int], after: list[int]) -> list[tuple[Served, int]]:
            before += [0] * (len(after) - len(before))  # sizes that this capture met first
            return [(one, n - m) for one, m, n in zip(self.served, before, after, strict=False) if n > m]

        self.graphs = count_replays(graph_class, lambda: [one.calls for one in self.served], captured)

    def add(self, served: Served) -> Served:
        """Keep account of `served` from now on."""
        self.served.append(served)
        return served

    def write(self) -> None:
        """Replace the file by what was counted so far."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        graphs = [(graph.holds, graph.replays) for graph in list(self.graphs)]
        captured, replayed = Counter(), Counter()
        for holds, replays in graphs:
            for one, calls in holds:
                captured[id(one)] += calls
                replayed[id(one)] += calls * replays
        calls = [
            {
                "backend": one.decision.backend,
                "bytes": one.bytes,
                "dtype": one.dtype,
                "by_table": one.decision.by_table,
                "reason": one.decision.reason,
                "calls": one.calls - captured[id(one)] + replayed[id(one)],
                "captured": captured[id(one)],
                "replayed": replayed[id(one)],
            }
            for one in list(self.served)
            if one.calls
        ]
        calls.sort(key=lambda call: (call["backend"], call["bytes"], call["dtype"], call["reason"]))
        counted = {"graphs": len(graphs), "replays": sum(replays for _, replays in graphs)}
        text = json.dumps({"rank": self.rank, "world_size": self.world_size, **counted, "calls": calls}, indent=1)
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
