"""The list of all runs: `make_index` reads every run's files and writes `reports/index.html`."""

from collections import Counter
from pathlib import Path

from symmlib.errors import UsageError
from symmlib.report.entry import Entry, entry
from symmlib.report.page import environment
from symmlib.runs import write_text

# In every page that symmlib writes; before it had the first, its index had the second.
MARKS = ('<meta name="generator" content="symmlib">', "<title>symmlib: all runs</title>")


def make_index(reports_dir: Path) -> Path:
    """Write `index.html` into `reports_dir`, listing all of its runs, newest first; returns its path.

    A run that cannot be read is listed with the reason. Raises `UsageError` if `reports_dir` cannot be written, or its
    index.html is somebody else's.
    """
    reports_dir = Path(reports_dir)
    require_ours(reports_dir / "index.html")
    runs = [path for path in (reports_dir / "runs").glob("*") if path.is_dir() and not path.name.startswith(".")]
    entries = [entry(path) for path in sorted(runs, key=lambda path: path.name, reverse=True)]
    counts = Counter(entry.status for entry in entries)
    page = environment().get_template("index.html")
    html = page.render(entries=entries, counts=counts.most_common(), choices=_choices(entries))
    return write_text(reports_dir / "index.html", html)


def require_ours(page: Path) -> None:
    """Raise `UsageError` if the file `page` is there and symmlib did not write it."""
    try:
        text = page.read_text(encoding="utf-8", errors="replace") if page.exists() else MARKS[0]
        ours = any(mark in text for mark in MARKS)
    except OSError:
        ours = False
    if not ours:
        raise UsageError(f"{page} is not one of symmlib's pages and would be lost. Move it, or choose another place.")


def _choices(entries: list[Entry]) -> list[tuple[str, list[tuple[str, int]]]]:
    """What the list can be narrowed to, beside the search: (attribute, its values and how many runs have each).

    Only where it narrows anything: an attribute that all runs share is left out.
    """
    found = []
    for name in ("status", "verdict", "model", "profile", "machine"):
        counts = Counter(getattr(entry, name) for entry in entries)
        values = sorted((value, count) for value, count in counts.items() if value)
        if len(counts) > 1 and values:
            found.append((name, values))
    return found
