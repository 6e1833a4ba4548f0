"""What must hold of every reader of files, whatever is in them: `PROPERTIES` by name, each with what to draw.

A reader may refuse with the suite's own errors, and with nothing else; what it accepts has to be sound; and it writes
nothing outside the directory that it was given. tests/fuzz/test_inputs.py tries some hundred inputs of each, always
the same; scripts/fuzz.py searches for as long as one likes, led by coverage.
"""

import contextlib
import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import samples
from documents import ODD, TEXTS, changed, csv_text, encoded, json_text, spliced, toml_document
from hypothesis import strategies as st
from watched import watch

from symmlib import notebooks, profiles, suite
from symmlib.allreduce.results import read_results
from symmlib.errors import SymmlibError
from symmlib.report import contents, index, page
from symmlib.report.publish import publish
from symmlib.routing import RoutingTable, show
from symmlib.routing.derive import derive
from symmlib.runs import Run, latest_run, write_text
from symmlib.serving import external, load, server
from symmlib.serving.arms import Arm
from symmlib.serving.experiment import ServingExperiment, place_of
from symmlib.serving.imported import import_results
from symmlib.serving.model import Model

PROPERTIES: dict[str, "Property"] = {}
NAMES = st.sampled_from(TEXTS) | st.text(max_size=20)


@dataclass(frozen=True)
class Property:
    """`check(value, place)` must not raise for any `value` that `strategy` draws; `place` is an empty directory.

    `examples`: how many the tests try."""

    strategy: st.SearchStrategy
    check: Callable[[object, Path], None]
    examples: int


def holds(name: str, value) -> None:
    """Check the property `name` of `value` in a directory of its own; raises whatever its reader should not have."""
    with tempfile.TemporaryDirectory(prefix="symmlib-fuzz-") as directory:
        place = Path(directory).resolve() / "inside"
        place.mkdir()
        with watch(place):
            PROPERTIES[name].check(value, place)
        assert [path.name for path in place.parent.iterdir()] == ["inside"]


def _of(strategy: st.SearchStrategy, examples: int = 60):
    def register(check):
        PROPERTIES[check.__name__] = Property(strategy, check, examples)
        return check

    return register


TABLE = samples.TABLE


@_of(st.one_of(changed(TABLE).map(toml_document), spliced(toml_document(TABLE)), st.text(max_size=80)), 150)
def routing_table(text: str, place: Path) -> None:
    path = place / "routing.toml"
    path.write_bytes(encoded(text))
    with contextlib.suppress(SymmlibError):
        table = RoutingTable.load(path)
        assert RoutingTable.loads(table.dumps()).digest == table.digest
        for one in table.tables:
            assert {one.lookup(size).backend for size in (0, 1, 2**40)} <= {route.backend for route in one.routes}
        show(table)
        table.save(path)


@_of(st.one_of(changed(samples.PROFILE).map(json_text), spliced(samples.PROFILE_YAML), st.text(max_size=60)), 80)
def profile(text: str, place: Path) -> None:
    path = place / "some.yaml"
    path.write_bytes(encoded(text))
    with contextlib.suppress(SymmlibError):
        read = profiles.load(path)
        assert profiles.parse(profiles.yaml.safe_load(read.dumps()), "again").hash == read.hash
        suite.validate(read)
        Run.create(read, place / "reports")


@_of(changed(samples.EXPERIMENT), 200)
def serving_arms(given, place: Path) -> None:
    with contextlib.suppress(SymmlibError):
        given = given if isinstance(given, dict) else {}
        notebooks.check("04_serving", given)
        experiment = ServingExperiment(**given)
        assert len({place_of(arm.name) for arm in experiment.arms}) == len(experiment.arms)
        for arm in experiment.arms:
            assert Arm.of(arm.as_dict()) == arm
            (place / f"tp2-{place_of(arm.name)}").mkdir()
            argv = server.command(experiment, Model("tiny", True, True), arm, 2, 8000, "cpu")
            assert argv[argv.index("--host") + 1] == "127.0.0.1"
            assert not samples.exposing(argv)


@_of(
    st.tuples(
        st.one_of(
            *(changed(sample).map(json_text) for sample in (samples.VLLM, samples.GUIDELLM)),
            changed(samples.AIPERF).map(
                lambda rows: "\n".join(map(json_text, rows)) if isinstance(rows, list) else json_text(rows)
            ),
            st.text(max_size=60),
        ),
        NAMES,
        st.sampled_from([-1, 0, 1, 2, 3, 10**30]),
        st.sampled_from([float("nan"), float("inf"), -1.0, 0.0, 1e-300, 0.1, 4.0, 1e300]),
    ),
    120,
)
def imported_result(given, place: Path) -> None:
    text, arm, number, qps = given
    path = place / "result.json"
    path.write_bytes(encoded(text))
    out = place / "out"
    out.mkdir()
    with contextlib.suppress(SymmlibError):
        external.read(path)
        usual = {"arm": "gloo", "tp": 2, "qps": 4.0, "block": 1}
        for cell in (usual, {**usual, "arm": arm, "tp": number, "block": number, "qps": qps}):
            with contextlib.suppress(SymmlibError), watch(out):
                import_results(path, out, **cell)


@_of(st.one_of(spliced("\r3/80 requests\r80/80 requests\n").map(encoded), st.binary(max_size=80)), 60)
def load_generators_log(log: bytes, place: Path) -> None:
    (place / "x.log").write_bytes(log)
    assert load.finished_requests(place / "x.log") >= 0
    load._last_lines(place / "x.log")


def csv_files(rows: list[list]) -> st.SearchStrategy:
    return st.one_of(changed(rows).map(csv_text).map(encoded), st.binary(max_size=60))


def whole(rows: list[list]) -> st.SearchStrategy:
    return st.just(encoded(csv_text(rows)))


@_of(
    st.one_of(  # mostly one of the two is damaged: of both, the second is hardly ever read
        st.tuples(csv_files(samples.SUMMARY), whole(samples.SAMPLES), st.just("plain")),
        st.tuples(whole(samples.SUMMARY), csv_files(samples.SAMPLES), st.sampled_from(["plain", "gzip"])),
        st.tuples(csv_files(samples.SUMMARY), csv_files(samples.SAMPLES), st.just("broken gzip")),
    ),
    100,
)
def allreduce_results(given, place: Path) -> None:
    summary, timed, how = given
    (place / "results").mkdir()
    (place / "results" / "allreduce_summary.csv").write_bytes(summary)
    if how == "plain":
        (place / "results" / "allreduce.csv").write_bytes(timed)
    else:
        packed = gzip.compress(timed) if how == "gzip" else b"\x1f\x8b" + timed
        (place / "results" / "allreduce.csv.gz").write_bytes(packed)
    with contextlib.suppress(SymmlibError):
        results = read_results([place])
        derive(results.timed, source=results.source)


RUN_FILES = st.sampled_from(sorted(samples.RUN_FILES))


@st.composite
def damaged_run(draw):
    """Files of a run by their names, of which one or two hold something else."""
    files = dict(samples.RUN_FILES)
    for name in draw(st.lists(RUN_FILES, min_size=1, max_size=2, unique=True)):
        how = draw(st.sampled_from(["changed"] * 4 + ["spliced", "text", "bytes", "gone"]))
        if how == "changed" and name in samples.RUN_DATA:
            write = csv_text if name.endswith(".csv") else json_text
            files[name] = encoded(write(draw(changed(samples.RUN_DATA[name]))))
        elif how == "bytes":
            files[name] = draw(st.binary(max_size=60))
        elif how == "gone":
            del files[name]
        else:
            text = draw(spliced(files[name].decode()) if how != "text" else st.text(max_size=60))
            files[name] = encoded(text)
    return files


def lay_out(files: dict[str, bytes], run: Path) -> None:
    for name, content in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)


@_of(damaged_run(), 40)
def report_of_a_run(files: dict[str, bytes], place: Path) -> None:
    """All but the drawing of figures, which takes seconds: `report_with_figures` has that."""
    run = place / "reports" / "runs" / "20261123T221005Z-x-1a2b3c4d"
    run.mkdir(parents=True)
    lay_out(files, run)
    with contextlib.suppress(SymmlibError):
        read = contents.read(run)
        with contextlib.suppress(SymmlibError):
            suite.verdicts(Run(run))
        for section in (page.sections.gates, page.sections.files):
            section(read)
        page.sections.provenance(read.manifest)
        assert isinstance(read.workload + read.banner, str)
    index.make_index(place / "reports")


@_of(damaged_run(), 2)
def report_with_figures(files: dict[str, bytes], place: Path) -> None:
    lay_out(files, place)
    with contextlib.suppress(SymmlibError):
        page.make_report(place)


@_of(damaged_run(), 60)
def resumed_run(files: dict[str, bytes], place: Path) -> None:
    path = place / "runs" / "20261123T221005Z-x-1a2b3c4d"
    path.mkdir(parents=True)
    lay_out(files, path)
    latest_run(place)
    with contextlib.suppress(SymmlibError):
        run = Run.open(path)
        run.is_done("02_allreduce", {})
        run.was_killed()
        with run.step("03_routing", {"x": 1}):
            write_text(run.results / "regret.csv", "")
        run.finish()
        assert json.loads((path / "manifest.json").read_text())["status"] in ("failed", "invalid", "ok")
    with contextlib.suppress(SymmlibError):
        read = profiles.load(path / "params.yaml")
        suite.unfinished(path / "params.yaml", read)
        suite._durations(read, place)


@_of(st.lists(st.text(min_size=1, max_size=20) | st.sampled_from([t for t in TEXTS if t]), min_size=1, max_size=3), 60)
def names_of_runs_and_files(names: list[str], place: Path) -> None:
    """Whatever directories and files are called, pages name them as text, and copies stay where they belong."""
    runs = place / "reports" / "runs"
    for name in {_one_part(name) for name in names}:
        with contextlib.suppress(OSError, UnicodeEncodeError):  # what no file can be called
            lay_out({"manifest.json": samples.RUN_FILES["manifest.json"], f"raw/{name}": b"x"}, runs / name)
    runs.mkdir(parents=True, exist_ok=True)
    (place / "elsewhere").mkdir()
    with contextlib.suppress(SymmlibError), watch(place / "elsewhere"):
        publish(place / "reports", place / "elsewhere")
    html = index.make_index(place / "reports").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    shutil.rmtree(place / "elsewhere")


def _one_part(name: str) -> str:
    """`name` as one name in a directory, which is all that a file system lets an attacker choose."""
    name = name.replace("/", "_").replace("\0", "_")
    return f"x{name}" if name in ("", ".", "..") else name


@_of(ODD | changed(samples.EXPERIMENT["arms"]), 100)
def one_arm(given, place: Path) -> None:
    with contextlib.suppress(SymmlibError):
        arm = Arm.of(given)
        assert "/" not in place_of(arm.name) and "\0" not in place_of(arm.name)
        assert Arm.of(arm.as_dict()) == arm


@_of(NAMES | changed({"step": "04_serving"}), 60)
def notebook_names_and_parameters(given, place: Path) -> None:
    name = given if isinstance(given, str) else "04_serving"
    with contextlib.suppress(SymmlibError):
        notebooks.path_of(name)
        notebooks.check(name, given if isinstance(given, dict) else {name: name})
