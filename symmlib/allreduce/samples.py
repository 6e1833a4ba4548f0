"""The files of one launch: rank 0 appends size by size, `measure` reads what is there, however a launch ended."""

import csv
import io
import json
from pathlib import Path

import pandas as pd

from symmlib.progress import say

OPENING = "opening backends"  # the first that a rank reports to be doing
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
NUMBERS = {"launch", "round", "world_size", "bytes", "iteration", "time_us"}  # in every row that is whole


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
        except (OSError, ValueError):  # not there yet, or not whole
            return {}


def read_samples(directory: Path) -> pd.DataFrame:
    """The samples of all launches, in order. Rows that are damaged are left out, and counted in a line."""
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
        # A launch that was killed may leave half a line.
        whole_lines = path.read_text(errors="replace").rpartition("\n")[0] or ",".join(columns)
        try:
            frame = _parsed(whole_lines)
            numeric = all(pd.api.types.is_numeric_dtype(frame[name]) for name in NUMBERS.intersection(columns))
            damaged = [*frame.columns] != columns or len(frame) and not numeric or _has_gaps(frame)
        except (ValueError, KeyError):  # pandas' own parsing errors are ValueErrors
            damaged = True
        frames.append(_undamaged(path, whole_lines, columns) if damaged else frame)
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _parsed(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype={"reason": str})


def _has_gaps(frame: pd.DataFrame) -> bool:
    return bool(frame[[*NUMBERS.intersection(frame.columns)]].isna().any(axis=None))


def _undamaged(path: Path, text: str, columns: list[str]) -> pd.DataFrame:
    """The rows of `text` that are whole, one by one: as many fields as `columns`, and numbers where numbers belong."""
    header = ",".join(columns)
    lines = [line for line in text.split("\n") if line != header]
    kept = [line for line in lines if _is_row(line, columns)]
    say(f"{path}: {len(lines) - len(kept)} of {len(lines)} rows are damaged and left out")
    return _parsed("\n".join([header, *kept]))


def _is_row(line: str, columns: list[str]) -> bool:
    try:
        row = dict(zip(columns, next(csv.reader([line], strict=True)), strict=True))
        return all(float(row[name]) >= 0 for name in NUMBERS.intersection(columns))
    except (StopIteration, ValueError, csv.Error):
        return False
