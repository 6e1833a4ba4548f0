"""Counts what served each all-reduce: the evidence that an experiment measured what it says it measured."""

import atexit
import json
import os
import time
from collections import Counter
from pathlib import Path

WRITE_EVERY_S = 1.0


class Trace:
    """Calls by (backend, bytes, dtype, reason) on one rank, kept in `directory/rank-<rank>.json` where one is given.

    The file is replaced as a whole, at most once a second and at exit, because inference servers often end their
    workers without letting them clean up: what a killed rank did in its last second may be missing.
    """

    def __init__(self, rank: int, world_size: int, directory: str | Path | None = None):
        self.rank, self.world_size = rank, world_size
        self.calls: Counter[tuple[str, int, str, str]] = Counter()
        self._path = Path(directory) / f"rank-{rank}.json" if directory else None
        self._next_write = 0.0
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atexit.register(self.write)

    def count(self, backend: str, nbytes: int, dtype, reason: str) -> None:
        """Count one call; `dtype` is torch's."""
        self.calls[backend, nbytes, dtype, reason] += 1
        if self._path and time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> None:
        """Replace the file by what was counted so far."""
        calls = [
            {
                "backend": backend,
                "bytes": nbytes,
                "dtype": str(dtype).removeprefix("torch."),
                "reason": reason,
                "calls": n,
            }
            for (backend, nbytes, dtype, reason), n in sorted(self.calls.items(), key=str)
        ]
        text = json.dumps({"rank": self.rank, "world_size": self.world_size, "calls": calls}, indent=1)
        beside = self._path.with_suffix(f".{os.getpid()}.tmp")
        beside.write_text(text)
        beside.replace(self._path)
        self._next_write = time.monotonic() + WRITE_EVERY_S
