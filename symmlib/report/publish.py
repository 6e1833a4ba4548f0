"""Copies reports to where people can read them: a directory that any static host can serve.

Whatever leaves goes through `symmlib.redact`: texts, and what is compressed. What cannot be read as text is left out,
with a note in its place; a run in which anything was changed or left out says so in its `redaction.txt`. Links of pages
that would lead to nothing in the site are mended or taken off.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from symmlib import progress
from symmlib.errors import UsageError
from symmlib.redact import Redaction
from symmlib.report import site
from symmlib.report.index import make_index, require_ours

NOTE = "redaction.txt"
COMPARISONS = "compare-*.html"


def publish(reports_dir: Path, destination: Path) -> Path:
    """Copy the runs and comparisons of `reports_dir` to `destination` and write its index; returns that index's path.

    Links are relative, so the place does not matter. Runs that are already there stay, and are copied anew where they
    exist on both sides, so that what has left a run leaves the site; a file that would be the same is not touched.
    Symbolic links are left out: they may lead anywhere. Raises `UsageError` if there is nothing to publish,
    `destination` cannot be written or holds an index.html that is not ours, or, once the index is written, if some file
    could not be copied.
    """
    runs, destination = Path(reports_dir) / "runs", Path(destination)
    if not runs.is_dir() or not any(runs.iterdir()):
        raise UsageError(f"there is nothing to publish: {runs} holds no runs. Make one with `symmlib run`.")
    if destination.resolve().is_relative_to(runs.resolve()):
        raise UsageError(f"{destination} lies inside {runs}, which is what gets published. Choose another place.")
    require_ours(destination / "index.html")
    failures: list[tuple[Path, str]] = []
    if destination.resolve() != Path(reports_dir).resolve():
        try:
            (destination / "runs").mkdir(parents=True, exist_ok=True)
            failures = _copy(Path(reports_dir), destination)
        except OSError as error:
            raise UsageError(
                f"cannot write {destination}: {error.strerror or error}. Choose a directory that can be written."
            ) from None
    index = _index(destination)
    if failures:
        source, reason = failures[0]
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        raise UsageError(f"published {index}, but could not copy {source}{more}: {reason}.")
    return index


@dataclass
class _Run:
    """What came of one run: its HTML, which waits until all that it may link is there, its files, what was changed."""

    path: Path
    target: Path
    pages: list[Path] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def _index(destination: Path) -> Path:
    """`make_index`, with the times of an index that is there and the same: what synchronises by times sends it once."""
    page = destination / "index.html"
    before = (page.read_bytes(), page.stat()) if page.is_file() else None
    make_index(destination)
    if before and page.read_bytes() == before[0]:
        os.utime(page, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
    return page


def _copy(reports_dir: Path, destination: Path) -> list[tuple[Path, str]]:
    """Copy all runs, and the comparisons that link them; returns (file, why) for what could not be copied."""
    redaction, failures = Redaction(), []
    places = [path for path in sorted((reports_dir / "runs").iterdir()) if path.name[0] != "." and path.is_dir()]
    runs = [_Run(path, destination / "runs" / path.name) for path in places if not path.is_symlink()]
    for run in runs:
        failures += _copy_files(run, redaction)
        _remove_what_left(run)
    comparisons = [page for page in sorted(reports_dir.glob(COMPARISONS)) if page.is_file() and not page.is_symlink()]
    runs.append(_Run(reports_dir, destination, [page for page in comparisons if site.is_page(page)]))
    planned = {run.target / page.relative_to(run.path) for run in runs for page in run.pages}
    for run in runs:
        failures += _copy_pages(run, destination, planned | {destination / "index.html"}, redaction)
        if run.path != reports_dir:
            site.put(run.target / NOTE, _note(run.notes) if run.notes else None)
        if run.notes:
            progress.say(f"{run.path.name}: {len(run.notes)} files changed or left out; {NOTE} there says which")
    return failures


def _copy_files(run: _Run, redaction: Redaction) -> list[tuple[Path, str]]:
    """Copy all but HTML, which is left in `run.pages`."""
    failures = []
    for source in _files(run.path):
        name = source.relative_to(run.path).as_posix()
        if name == NOTE:
            continue
        if redaction(name)[1]:
            run.notes.append(f"{redaction(name)[0]}: left out, because its name looks like a secret")
            continue
        run.names.add(name)
        if source.suffix == ".html":
            run.pages.append(source)
        else:
            try:
                changed = site.copy(source, run.target / name, redaction)
                run.notes += [f"{name}: {changed}"] if changed else []
            except OSError as error:
                failures.append((source, error.strerror or str(error)))
    return failures


def _copy_pages(run: _Run, destination: Path, planned: set[Path], redaction: Redaction) -> list[tuple[Path, str]]:
    """Copy the HTML of `run`, its links mended; `planned`: files that will be there in the end."""
    failures = []
    for page in run.pages:
        name = page.relative_to(run.path).as_posix()
        try:
            text, count = redaction(page.read_bytes().decode("utf-8", "surrogateescape"))
            text = site.mended(text, run.target / name, destination, planned)
            site.put(run.target / name, text.encode("utf-8", "surrogateescape"), page.stat())
            run.notes += [f"{name}: {site.replaced(count)}"] if count else []
        except OSError as error:
            failures.append((page, error.strerror or str(error)))
    return failures


def _remove_what_left(run: _Run) -> None:
    """Remove from the site what an earlier publication put there and the run has no more."""
    for path in list(_files(run.target)):
        name = path.relative_to(run.target).as_posix()
        if not {name, name.removesuffix(site.LEFT_OUT)} & {NOTE, *run.names}:
            path.unlink()


def _files(run: Path) -> Iterator[Path]:
    """Every file below `run` in a fixed order; without hidden ones, symbolic links, and notes in files' places."""
    for directory, directories, names in os.walk(run):
        directories[:] = sorted(name for name in directories if name[0] != ".")
        for name in sorted(names):
            path = Path(directory, name)
            if name[0] != "." and not path.is_symlink():
                yield path


def _note(notes: list[str]) -> bytes:
    lines = [
        "What publishing changed in this run.",
        "",
        "Values that look like secrets were replaced by [redacted]. Files that could not be read as text were left",
        "out, with a note in their place. The run's own directory still has all as it was.",
        "",
        *sorted(notes),
        "",
    ]
    return "\n".join(lines).encode()
