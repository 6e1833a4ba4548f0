"""The list of all runs: `make_index` reads every run's files and writes `reports/index.html`."""

from dataclasses import dataclass
from pathlib import Path

from symmlib.analysis import invalid, words
from symmlib.errors import UsageError
from symmlib.report import contents, sections
from symmlib.report.page import NO_ANSWER, environment
from symmlib.runs import write_text

# In every page that symmlib writes; before it had the first, its index had the second.
MARKS = ('<meta name="generator" content="symmlib">', "<title>symmlib: all runs</title>")


@dataclass(frozen=True)
class Row:
    """One run of the index. `page` is None where no report was made; `reason` says why a run failed or is invalid.
    `mark` is what must be known of its numbers (`words.ONE_GPU_MARK`)."""

    run_id: str
    page: str | None
    verdict: str
    certainty: str
    status: str
    reason: str
    profile: str
    machine: str
    date: str
    revision: str
    mark: str = ""


def make_index(reports_dir: Path) -> Path:
    """Write `index.html` into `reports_dir`, listing all of its runs, newest first; returns its path.

    A run that cannot be read is listed with the reason. Raises `UsageError` if `reports_dir` cannot be written, or its
    index.html is somebody else's.
    """
    reports_dir = Path(reports_dir)
    require_ours(reports_dir / "index.html")
    runs = [path for path in (reports_dir / "runs").glob("*") if path.is_dir() and not path.name.startswith(".")]
    rows = [_row(path) for path in sorted(runs, key=lambda path: path.name, reverse=True)]
    return write_text(reports_dir / "index.html", environment().get_template("index.html").render(rows=rows))


def require_ours(page: Path) -> None:
    """Raise `UsageError` if the file `page` is there and symmlib did not write it."""
    try:
        text = page.read_text(encoding="utf-8", errors="replace") if page.exists() else MARKS[0]
        ours = any(mark in text for mark in MARKS)
    except OSError:
        ours = False
    if not ours:
        raise UsageError(f"{page} is not one of symmlib's pages and would be lost. Move it, or choose another place.")


def _row(path: Path) -> Row:
    page = f"runs/{path.name}/index.html" if (path / "index.html").is_file() else None
    try:
        run = contents.read(path)
    except UsageError as error:
        return Row(
            path.name, page, "Not readable", "", "failed", str(error).replace(str(path), path.name), "", "", "", ""
        )
    manifest, reason = run.manifest, _reason(run)
    try:
        answer = sections.answer(run)
    except Exception as error:  # whatever is odd about the numbers of one run costs no other its place here
        answer = {"headline": NO_ANSWER, "certainty": ""}
        reason = f"{type(error).__name__}: {error}"
    return Row(
        run_id=path.name,
        page=page,
        verdict=answer["headline"],
        certainty=answer["certainty"],
        status=str(manifest.get("status", "running")),
        reason=reason,
        profile=str(manifest.get("profile", "")),
        machine=contents.machine(manifest),
        date=contents.when(manifest.get("started")),
        revision=contents.revision(manifest),
        mark=words.ONE_GPU_MARK if run.banner else "",
    )


def _reason(run: contents.Contents) -> str:
    """Why the run failed or is invalid; the manifest lists every failed check, which is too long for a list of runs."""
    if run.manifest.get("status") == "invalid" and (failures := invalid.failures(run.tables["gates"])):
        return failures
    return str(run.manifest.get("reason") or "")
