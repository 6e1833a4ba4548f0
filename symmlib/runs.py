"""A run's directory: what ran, where, what came of it. Everything a report needs is in these files.

`symmlib run` and the notebooks write through this page; `report` reads the files alone. A file is written beside its
place and renamed into it, so a reader never sees half of one.
"""

import contextlib
import datetime
import fcntl
import hashlib
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from symmlib.errors import SymmlibError, UsageError
from symmlib.own_files import require_own_files
from symmlib.progress import say
from symmlib.provenance import provenance
from symmlib.redact import Redaction

if TYPE_CHECKING:
    import pandas as pd

    from symmlib.profiles import Profile

PROJECT = Path(__file__).parent.parent  # the checkout that holds notebooks/ and reports/
MANIFEST = "manifest.json"
REPORTS = "SYMMLIB_REPORTS"  # the reports directory of notebooks that `symmlib lab --reports-dir` opened


def write_text(path: Path, text: str) -> Path:
    """Write `text` (UTF-8) to `path` as a whole or not at all, with its directories; returns `path`.

    Raises `UsageError` that names the place if it cannot be written.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        with open(beside, "x", encoding="utf-8") as file:  # through no link that somebody put there
            file.write(text)
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}. Choose a directory that can be written.") from None
    return path


def write_csv(path: Path, frame: "pd.DataFrame") -> Path:
    """Write `frame` to `path` without its index; as `write_text`."""
    return write_text(path, frame.to_csv(index=False))


def write_json(path: Path, data) -> Path:
    """Write `data` to `path`, indented; paths become strings, NaN is refused; as `write_text`."""
    return write_text(path, json.dumps(data, indent=2, default=str, allow_nan=False) + "\n")


class Run:
    """One execution of a profile. `Run.create` makes its directory, `Run.open` finds it again.

    `path` holds `manifest.json`, `params.yaml`, `raw/` (what tools wrote, untouched), `results/` (tidy CSV files),
    `notebooks/` (executed). Several processes may hold one run: each change of the manifest reads it anew under a lock.
    """

    def __init__(self, path: Path):
        self.path = Path(path).resolve()
        self.id = self.path.name
        self.raw = self.path / "raw"
        self.results = self.path / "results"
        self.notebooks = self.path / "notebooks"

    @classmethod
    def create(cls, profile: "Profile", reports_dir: Path | None = None) -> "Run":
        """Make `<reports_dir>/runs/<UTC date-time>-<profile>-<hash8>/` with its manifest and `params.yaml`.

        `reports_dir` is the project's own by default. Raises `UsageError` if it cannot be written.
        """
        runs = Path(reports_dir or default_reports_dir()) / "runs"
        now = datetime.datetime.now(datetime.UTC)
        while True:
            run = cls(runs / f"{now:%Y%m%dT%H%M%SZ}-{profile.name}-{profile.hash[:8]}")
            try:
                run.path.mkdir(parents=True)
                break
            except FileExistsError:
                if not run.path.is_dir():
                    raise UsageError(f"cannot make {run.path}: a file of that name is in the way.") from None
                now += datetime.timedelta(seconds=1)  # the same profile, started twice within a second
            except OSError as error:
                raise UsageError(
                    f"cannot make {run.path}: {error.strerror}. Choose a reports directory that can be written."
                ) from None
        for directory in (run.raw, run.results, run.notebooks):
            directory.mkdir()
        write_text(run.path / "params.yaml", profile.dumps())
        manifest = {
            "status": "running",
            "run_id": run.id,
            "profile": profile.name,
            "profile_hash": profile.hash,
            "argv": sys.argv,
            "started": timestamp(),
            "ended": None,
            **provenance(),
            "gates": [],
            "files": {},
            "steps": {},
        }
        write_json(run.path / MANIFEST, without_secrets(manifest))
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """The run in the directory `path`; raises `UsageError` if there is none, or links lead out of it."""
        run = cls(path)
        if not (run.path / MANIFEST).is_file():
            raise UsageError(f"{path} is no run's directory: it has no {MANIFEST}.")
        require_own_files(run.path)
        _ = run.manifest
        return run

    @property
    def manifest(self) -> dict:
        """The manifest as it stands in the file now; change it with `update`."""
        path = self.path / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
            manifest = json.loads(text, parse_constant=_finite, parse_float=_finite)
        except (OSError, ValueError, RecursionError) as error:
            raise SymmlibError(f"cannot read {path}: {error}. Start a new run.") from None
        steps = manifest.get("steps") if isinstance(manifest, dict) else None
        if not isinstance(steps, dict) or not all(isinstance(record, dict) for record in steps.values()):
            raise SymmlibError(f"{path} is damaged: it records no steps. Start a new run.")
        return manifest

    def update(self, **changes) -> None:
        """Set top-level keys of the manifest."""
        with self._editing() as manifest:
            manifest.update(changes)

    @contextlib.contextmanager
    def executing(self) -> Iterator[None]:
        """Keep others from executing this run meanwhile; raises `UsageError` if somebody does already."""
        try:
            lock = os.open(self.path / ".executing", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"cannot write to {self.path}: {error.strerror}.") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it whatever ends the process
            except BlockingIOError:
                raise UsageError(f"{self.path} is still being executed. Wait for it, or end it first.") from None
            self._remove_halves()
            yield
        finally:
            os.close(lock)

    def was_killed(self) -> bool:
        """Whether it did not come to its end, and nobody is executing it."""
        if self.manifest.get("status") != "running":
            return False
        try:
            with self.executing():
                return True
        except UsageError:
            return False

    @contextlib.contextmanager
    def step(self, name: str, parameters: dict) -> Iterator[None]:
        """Record in the manifest that the step `name` started, and how it ended, with the files that it wrote.

        An exception is recorded, described in `<name>.failure.json`, and raised again.
        """
        failure = self.path / f"{name}.failure.json"
        failure.unlink(missing_ok=True)
        before = self._files()
        record = {"status": "running", "started": timestamp(), "ended": None, "parameters_hash": digest(parameters)}
        self._record(name, record)
        try:
            yield
        except BaseException as error:
            reason = describe(error)
            details = {"step": name, "reason": reason, "parameters": parameters, "failed": timestamp()}
            details["traceback"] = traceback.format_exc()
            try:
                self._record(name, {**record, "status": "failed", "ended": timestamp(), "reason": reason})
                write_json(failure, without_secrets(details))
            except (OSError, SymmlibError) as unwritten:  # such as the full disk that ended the step
                say(f"that {name} failed could not be recorded: {unwritten}")
            raise
        outputs = sorted(path for path, stamp in self._files().items() if before.get(path) != stamp)
        self._record(name, {**record, "status": "ok", "ended": timestamp(), "outputs": outputs})

    def is_done(self, name: str, parameters: dict) -> bool:
        """Whether the step `name` ended well with these very parameters and all that it wrote is still there."""
        record = self.manifest["steps"].get(name, {})
        return (
            record.get("status") == "ok"
            and record.get("parameters_hash") == digest(parameters)
            and all((self.path / str(output)).is_file() for output in record.get("outputs") or [])
        )

    def finish(self, interrupted: bool = False) -> str:
        """Record the end of the run, its gates and files; returns its status.

        `failed`: a step failed, or somebody interrupted it; `invalid`: a gate found a measurement wanting; else `ok`.
        """
        gates = self._gates()
        failed = [name for name, record in self.manifest["steps"].items() if record.get("status") != "ok"]
        invalid = [f"{gate['gate']} ({gate['cell']}): {gate['reason']}" for gate in gates if gate["status"] != "valid"]
        if interrupted or failed:
            status = "failed"
            reason = "interrupted" if interrupted else f"failed: {', '.join(failed)}"
        else:
            status, reason = ("invalid", "; ".join(invalid)) if invalid else ("ok", "")
        files = {name: size for name, (_, size) in sorted(self._files().items())}
        self.update(status=status, reason=reason, ended=timestamp(), gates=gates, files=files)
        return status

    def _remove_halves(self) -> None:
        """Remove what a process that was killed had begun to write beside its place; see `write_text`."""
        for path in self.path.rglob(".*"):
            writer = path.name.rpartition(".")[2]
            if writer.isdigit() and path.is_file() and not Path(f"/proc/{writer}").exists():
                path.unlink(missing_ok=True)

    def _gates(self) -> list[dict]:
        path = self.results / "gates.csv"
        if not path.is_file():
            return []
        import pandas as pd

        try:
            gates = pd.read_csv(path, keep_default_na=False).astype(str)
            if missing := {"gate", "cell", "status", "reason"} - {*gates.columns}:
                raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        except (ValueError, OSError) as error:  # pandas' own parsing errors are ValueErrors
            return [dict(gate="gates.csv", cell="all", status="invalid", reason=f"cannot be read: {error}")]
        return gates.to_dict("records")

    def _files(self) -> dict[str, tuple[int, int]]:
        """Every file that steps wrote, by its path in the run: when it was changed, and its bytes."""
        bookkeeping = {MANIFEST, "params.yaml", "index.html"}
        found = {}
        for path in self.path.rglob("*"):
            name = path.relative_to(self.path).as_posix()
            if name not in bookkeeping and not path.name.startswith(".") and path.is_file():
                found[name] = (path.stat().st_mtime_ns, path.stat().st_size)
        return found

    def _record(self, name: str, record: dict) -> None:
        with self._editing() as manifest:
            manifest["steps"][name] = record

    @contextlib.contextmanager
    def _editing(self) -> Iterator[dict]:
        """The manifest, read and written back under a lock: the suite and a notebook's kernel both change it."""
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            manifest = self.manifest
            yield manifest
            write_json(self.path / MANIFEST, without_secrets(manifest))
        finally:
            os.close(directory)


def default_reports_dir() -> Path:
    """`reports/` of the checkout; of the current directory where symmlib is installed without one.

    The environment variable SYMMLIB_REPORTS names another one.
    """
    if named := os.environ.get(REPORTS):
        return Path(named)
    return (PROJECT if (PROJECT / "notebooks").is_dir() else Path.cwd()) / "reports"


def latest_run(reports_dir: Path | None = None, needing: str = "allreduce_summary.csv") -> Run | None:
    """The newest run that has the result `needing`, or None."""
    runs = sorted((Path(reports_dir or default_reports_dir()) / "runs").glob(f"*/{MANIFEST}"), reverse=True)
    return next((Run(path.parent) for path in runs if (path.parent / "results" / needing).is_file()), None)


def published_example(needing: str) -> Path | None:
    """The newest published run that has the result `needing`, as long as there is no run of one's own that has it."""
    if latest_run(needing=needing):
        return None
    published = sorted((PROJECT / "reports" / "published").glob(f"*/{MANIFEST}"), reverse=True)
    return next((path.parent for path in published if (path.parent / "results" / needing).is_file()), None)


def digest(data) -> str:
    """sha256 of `data` (plain YAML or JSON data) in canonical form."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def without_secrets(data):
    """`data` (plain data) with `redact.REDACTED` for what looks like a secret: in a command line, or in the end of a
    log that an error quotes. A run's manifest and failures are what its report shows, and what people send around."""
    redaction = Redaction()
    text, count = redaction(json.dumps(data, default=str))
    if not count:
        return data
    try:
        return json.loads(text)
    except ValueError:  # a number stood there: then each text by itself, without what stands before it
        return _each_text(data, lambda text: redaction(text)[0])


def _each_text(data, change):
    if isinstance(data, dict):
        return {change(str(key)): _each_text(value, change) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_each_text(item, change) for item in data]
    return data if data is None or isinstance(data, bool | int | float) else change(str(data))


def describe(error: BaseException) -> str:
    """`error` in one line for the manifest: our own errors speak for themselves, others need their type."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    return str(error) if isinstance(error, SymmlibError) else f"{type(error).__name__}: {error}"


def _finite(text: str) -> float:
    """A number of JSON, which cannot be written back if it is NaN or infinite."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"it holds {text:.20}")
    return number


def timestamp() -> str:
    """This moment, UTC, in whole seconds, as manifests and notes hold it (ISO 8601)."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
