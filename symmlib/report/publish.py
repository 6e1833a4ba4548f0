"""Copies reports to where people can read them: a directory that any static host can serve."""

import shutil
from pathlib import Path

from symmlib.errors import UsageError
from symmlib.report.index import make_index


def publish(reports_dir: Path, destination: Path) -> Path:
    """Copy the runs of `reports_dir` to `destination` and write its index; returns the path of that index.

    Links are relative, so the place does not matter. Runs that are already there stay, and are copied anew where they
    exist on both sides. Raises `UsageError` if there is nothing to publish or `destination` cannot be written.
    """
    runs, destination = Path(reports_dir) / "runs", Path(destination)
    if not runs.is_dir() or not any(runs.iterdir()):
        raise UsageError(f"there is nothing to publish: {runs} holds no runs. Make one with `symmlib run`.")
    if destination.resolve().is_relative_to(runs.resolve()):
        raise UsageError(f"{destination} lies inside {runs}, which is what gets published. Choose another place.")
    if destination.resolve() != Path(reports_dir).resolve():
        try:
            shutil.copytree(runs, destination / "runs", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        except OSError as error:
            reason = error.strerror or "some files could not be copied"
            raise UsageError(f"cannot write {destination}: {reason}. Choose a directory that can be written.") from None
    return make_index(destination)
