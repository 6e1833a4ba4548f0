"""The list of all runs: `make_index` reads every run's files and writes `reports/index.html`."""

from dataclasses import dataclass
from pathlib import Path

from symmlib.analysis import verdicts
from symmlib.errors import UsageError
from symmlib.report import contents
from symmlib.report.page import environment
from symmlib.runs import write_text


@dataclass(frozen=True)
class Row:
    """One run of the index. `page` is None where no report was made; `reason` says why a run failed or is invalid."""

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


def make_index(reports_dir: Path) -> Path:
    """Write `index.html` into `reports_dir`, listing all of its runs, newest first; returns its path.

    A run that cannot be read is listed with the reason. Raises `UsageError` if `reports_dir` cannot be written.
    """
    reports_dir = Path(reports_dir)
    runs = [path for path in (reports_dir / "runs").glob("*") if path.is_dir() and not path.name.startswith(".")]
    rows = [_row(path) for path in sorted(runs, key=lambda path: path.name, reverse=True)]
    return write_text(reports_dir / "index.html", environment().get_template("index.html").render(rows=rows))


def _row(path: Path) -> Row:
    page = f"runs/{path.name}/index.html" if (path / "index.html").is_file() else None
    try:
        run = contents.read(path)
    except UsageError as error:
        return Row(
            path.name, page, "Not readable", "", "failed", str(error).replace(str(path), path.name), "", "", "", ""
        )
    comparison, summary, manifest = run.tables["comparison"], run.tables["allreduce_summary"], run.manifest
    return Row(
        run_id=path.name,
        page=page,
        verdict=verdicts.headline(comparison, summary),
        certainty=verdicts.certainty(comparison),
        status=str(manifest.get("status", "running")),
        reason=str(manifest.get("reason") or ""),
        profile=str(manifest.get("profile", "")),
        machine=contents.machine(manifest),
        date=contents.when(manifest.get("started")),
        revision=contents.revision(manifest),
    )
