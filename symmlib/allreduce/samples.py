"""The files of one launch: rank 0 appends size by size, `measure` reads what is there, however a launch ended."""

import csv
import io
import json
from pathlib import Path

import pandas as pd

CLOSING = "closing backends"  # what a rank reports to be doing when everything is measured
SAMPLE_COLUMNS = ["launch", "round", "backend", "world_size", "dtype", "mode", "bytes", "iteration", "time_us"]
CHECK_COLUMNS = [
    "launch",
    "backend",
    "world_size",
    "dtype",
    "mode",
    "bytes",
    "device",
    "multicast",
    "status",
    "reason",
    "wrong",
    "max_abs_error",
    "bitwise_equal_across_ranks",
]


class LaunchFiles:
    """`launch-<number>` in `directory`: samples (.csv), checks (.checks.csv), what runs now (.progress) and the log."""

    def __init__(self, directory: Path, number: int):
        self.samples = directory / f"launch-{number}.csv"
        self.checks = directory / f"launch-{number}.checks.csv"
        self.progress = directory / f"launch-{number}.progress"
        self.log = directory / f"launch-{number}.log"

    def append_samples(self, rows: list[dict]) -> None:
        """Add rows with `SAMPLE_COLUMNS`."""
        _append(self.samples, SAMPLE_COLUMNS, rows)

    def append_checks(self, rows: list[dict]) -> None:
        """Add rows with `CHECK_COLUMNS`; columns that a row lacks stay empty."""
        _append(self.checks, CHECK_COLUMNS, rows)

    def report(self, **now) -> None:
        """Say what is running: `doing`, and the `backend` and `bytes` concerned if there are any."""
        beside = self.progress.with_suffix(".new")
        beside.write_text(json.dumps(now))
        beside.replace(self.progress)

    def reported(self) -> dict:
        """What was last reported; empty before that."""
        try:
            return json.loads(self.progress.read_text())
        except FileNotFoundError:
            return {}


def read_samples(directory: Path) -> pd.DataFrame:
    """The samples of all launches, in order."""
    return _read(directory.glob("launch-*[0-9].csv"), SAMPLE_COLUMNS)


def read_checks(directory: Path) -> pd.DataFrame:
    """The checks of all launches, in order; an empty `reason` is '', other empty fields are NaN."""
    return _read(directory.glob("launch-*.checks.csv"), CHECK_COLUMNS).fillna({"reason": ""})


def _append(path: Path, columns: list[str], rows: list[dict]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerows(rows)
    with path.open("a") as file:
        file.write(text.getvalue())


def _read(paths, columns: list[str]) -> pd.DataFrame:
    frames = []
    for path in sorted(paths, key=lambda path: int(path.name.split(".")[0].removeprefix("launch-"))):
        whole_lines = path.read_text().rpartition("\n")[0]  # a launch that was killed may leave half a line
        frames.append(pd.read_csv(io.StringIO(whole_lines or ",".join(columns)), dtype={"reason": str}))
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
