"""Copies reports to where people can read them: a directory that any static host can serve."""

import os
import shutil
import stat
from pathlib import Path

from symmlib.errors import UsageError
from symmlib.report.index import make_index, require_ours


def publish(reports_dir: Path, destination: Path) -> Path:
    """Copy the runs of `reports_dir` to `destination` and write its index; returns the path of that index.

    Links are relative, so the place does not matter. Runs that are already there stay, and are copied anew where they
    exist on both sides. Symbolic links are left out: they may lead anywhere. Raises `UsageError` if there is nothing to
    publish, `destination` cannot be written or holds an index.html that is not ours, or, once the index is written, if
    some file could not be copied.
    """
    runs, destination = Path(reports_dir) / "runs", Path(destination)
    if not runs.is_dir() or not any(runs.iterdir()):
        raise UsageError(f"there is nothing to publish: {runs} holds no runs. Make one with `symmlib run`.")
    if destination.resolve().is_relative_to(runs.resolve()):
        raise UsageError(f"{destination} lies inside {runs}, which is what gets published. Choose another place.")
    require_ours(destination / "index.html")
    failures: list[tuple[str, str, str]] = []
    if destination.resolve() != Path(reports_dir).resolve():
        try:
            (destination / "runs").mkdir(parents=True, exist_ok=True)
            shutil.copytree(
                runs, destination / "runs", dirs_exist_ok=True, ignore=_left_out, copy_function=_copy_regular
            )
        except shutil.Error as error:
            failures = error.args[0]
        except OSError as error:
            raise UsageError(
                f"cannot write {destination}: {error.strerror or error}. Choose a directory that can be written."
            ) from None
    index = make_index(destination)
    if failures:
        source, _, reason = failures[0]
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        raise UsageError(f"published {index}, but could not copy {source}{more}: {reason}.")
    return index


def _left_out(directory: str, names: list[str]) -> set[str]:
    return {name for name in names if name[0] == "." or os.path.islink(os.path.join(directory, name))}


def _copy_regular(source: str, target: str) -> str:
    if not stat.S_ISREG(os.stat(source).st_mode):  # reading a pipe would wait for somebody to write
        raise OSError("it is no regular file")
    return shutil.copy2(source, target)
