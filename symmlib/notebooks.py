"""The suite's notebooks from outside and from inside: their parameters, their execution, and their first call.

A notebook's parameters are the annotated assignments of its cell tagged `parameters`:

    world_size: int = 2  # ranks to start

`symmlib run` executes notebooks here by papermill; inside, `begin` checks what was set and opens the run.
"""

import ast
import atexit
import contextlib
import json
import os
import re
import sys
import tempfile
import time
import types
import typing
from dataclasses import dataclass
from pathlib import Path

from symmlib import patience, progress
from symmlib.errors import SymmlibError, UsageError, unknown
from symmlib.live import live, passed
from symmlib.processes import ProcessGroup
from symmlib.runs import PROJECT, Run, write_text

DIRECTORY = PROJECT / "notebooks"
SILENT_S = 3600  # everything that a notebook waits for says so, or gives up, long before
DEAD_KERNEL = 138  # papermill's exit status for it (papermill/cli.py)
_TYPES = {type_.__name__: type_ for type_ in (int, float, str, bool, list, dict, tuple)}


@dataclass(frozen=True)
class Parameter:
    """One assignment of a tagged cell: its name, its type as annotated (else that of the default), and its default."""

    name: str
    type: typing.Any
    default: typing.Any


def names() -> list[str]:
    """The notebooks in the order in which a profile executes them, such as 01_environment."""
    return sorted(path.stem for path in DIRECTORY.glob("[0-9][0-9]_*.ipynb"))


def path_of(name: str) -> Path:
    """The committed notebook `name`; raises `UsageError` if there is none."""
    if name not in names():
        raise unknown("notebook", name, names())
    return DIRECTORY / f"{name}.ipynb"


def parameters_of(name: str) -> dict[str, Parameter]:
    """The parameters of the notebook `name`, by name, read from its tagged cell."""
    tagged = [cell for cell in _cells(name) if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise SymmlibError(f"{path_of(name)} has {len(tagged)} cells tagged 'parameters'; it needs exactly one.")
    parameters = {}
    for node in ast.parse(_source(tagged[0])).body:
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        default = ast.literal_eval(node.value)
        annotated = (
            eval(ast.unparse(node.annotation), {"__builtins__": _TYPES}) if hasattr(node, "annotation") else None
        )
        parameters[target.id] = Parameter(target.id, annotated or type(default), default)
    return parameters


def check(name: str, given: dict, source: str = "", known: dict[str, Parameter] | None = None) -> None:
    """Raise `UsageError`, with the list of valid ones, if `given` sets an unknown parameter or one to a wrong type.

    `known`: the valid ones, where they are not all that the notebook has.
    """
    known = parameters_of(name) if known is None else known
    where = f"{source}: {name}" if source else name
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"{where}: {unknown('parameter', key, known)}")
        if not _is_a(value, known[key].type):
            raise UsageError(
                f"{where}: {key} must be of type {_name(known[key].type)}, not {value!r:.60} ({type(value).__name__})."
                f"{_yaml_hint(value)} Valid parameters: {_listing(known)}."
            )


def execute(run: Run, name: str, parameters: dict) -> None:
    """Execute the notebook `name` by papermill into `run`'s notebooks/.

    Its `say` lines and its live status are on our output meanwhile. The executed notebook holds everything up to an
    error; papermill's own log is raw/notebooks/<name>.log. Raises `SymmlibError` with the error of a cell that failed.
    """
    executed = run.notebooks / f"{name}.ipynb"
    settings = {**parameters, "run_dir": str(run.path)}
    # A file rather than -p options: papermill would turn the string 007 into the number 7. JSON is YAML.
    given = write_text(run.raw / "notebooks" / f"{name}.yaml", json.dumps(settings, indent=2) + "\n")
    command = [sys.executable, "-m", "papermill", str(path_of(name)), str(executed), "-f", str(given)]
    command += ["--kernel", "python3", "--cwd", str(DIRECTORY), "--start-timeout", str(round(patience.seconds(300)))]
    command += ["--no-progress-bar", "--stdout-file", "-"]
    environment = {
        progress.STEP: name,
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, whatever the user has at home
        "PYTHONUNBUFFERED": "1",
    }
    with tempfile.TemporaryDirectory(prefix="symmlib-") as directory:
        environment[progress.STATUS] = str(status_file := Path(directory) / "status")
        with ProcessGroup(command, log=given.with_suffix(".log"), env=environment) as group:
            _stream_progress(group, status_file)
            status = group.wait()
    if status == DEAD_KERNEL:
        raise SymmlibError(f"the kernel of {name} died: killed, or out of memory. Its log: {group.log.name}")
    if status != 0:
        raise SymmlibError(_cell_error(executed) or f"papermill ended with status {status}:\n{group.tail()}")


def begin(name: str, namespace: dict) -> Run:
    """The first call of a notebook: check its parameters in `namespace` (its `globals()`) and open its run.

    With `run_dir` empty, as by hand in JupyterLab or under plain papermill, a new run of the profile `interactive` is
    made. Raises `UsageError` if papermill set a parameter that does not exist, or any parameter has a wrong type.
    """
    import pandas as pd

    pd.set_option("display.max_colwidth", None)  # reasons are read to their ends
    known = parameters_of(name)
    injected = {key: namespace.get(key) for key in _injected(namespace.get("In", []))}
    settings = {key: namespace[key] for key in known if key in namespace}
    check(name, {**injected, **settings})
    if missing := [key for key in known if key not in namespace]:
        raise UsageError(f"{name}: {', '.join(missing)} is not set. Run the cell tagged 'parameters' first.")
    run_dir = settings.pop("run_dir")
    if run_dir:
        return Run.open(run_dir)
    from symmlib.profiles import Profile

    _finish_by_hand()  # what an earlier Run All in this kernel began
    progress.start_clock()
    progress.enter_step(name)
    run = Run.create(Profile("interactive", f"{name}, by hand", {name: settings}))
    progress.say(f"results go to {os.path.relpath(run.path)}")
    _by_hand.append(_HandRun(run, name, settings))
    return run


class _HandRun:
    """Keeps the only step of a run made by hand open until the notebook's last cell has run.

    If that never happens, until the next run begins or the kernel ends; then it is ok if the cell before was.
    """

    def __init__(self, run: Run, name: str, settings: dict):
        self._run = run
        self._error: BaseException | None = None
        self._last = [_source(cell) for cell in _cells(name) if cell["cell_type"] == "code"][-1]
        self._shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if self._shell:
            self._shell.events.register("post_run_cell", self._note)
        self._step = contextlib.ExitStack()
        self._step.enter_context(run.executing())
        self._step.enter_context(run.step(name, settings))

    def finish(self) -> None:
        if self._shell:
            self._shell.events.unregister("post_run_cell", self._note)
        error = self._error
        with contextlib.suppress(BaseException):  # the step raises its error again; it has told the notebook already
            self._step.__exit__(type(error) if error else None, error, None)
        self._run.finish()

    def _note(self, result) -> None:
        self._error = result.error_before_exec or result.error_in_exec
        if not self._error and result.info.raw_cell.strip() == self._last.strip():
            _finish_by_hand()


_by_hand: list[_HandRun] = []  # at most one: a kernel runs one notebook


@atexit.register
def _finish_by_hand() -> None:
    while _by_hand:
        _by_hand.pop().finish()


def _cells(name: str) -> list[dict]:
    return json.loads(path_of(name).read_text(encoding="utf-8"))["cells"]


def _source(cell: dict) -> str:
    return "".join(cell["source"])


def _injected(cells: list[str]) -> list[str]:
    """The names that papermill assigned: it puts a cell of its own, headed `# Parameters`, after the tagged one."""
    return [
        target.id
        for cell in cells
        if cell.startswith("# Parameters\n")
        for node in ast.parse(cell).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]


def _is_a(value, type_) -> bool:
    """Whether `value` (plain data) is of the type `type_`, parts of lists and dicts included; an int is a float too."""
    origin, parts = typing.get_origin(type_), typing.get_args(type_)
    if origin in (types.UnionType, typing.Union):
        return any(_is_a(value, part) for part in parts)
    if type_ in (None, type(None)):
        return value is None
    if origin is list:
        return isinstance(value, list) and all(_is_a(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is_a(k, parts[0]) and _is_a(v, parts[1]) for k, v in value.items())
    if isinstance(value, bool):
        return type_ is bool
    return isinstance(value, (int, float) if type_ is float else type_)


def _name(type_) -> str:
    return type_.__name__ if isinstance(type_, type) and not typing.get_args(type_) else str(type_)


def _yaml_hint(value) -> str:
    """What may have made a text of a number: YAML 1.1 wants 1.0e+308 where everything else writes 1.0e308."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and re.fullmatch(r"[-+]?[\d.]+[eE]\d+", item):
            number = item.lower().replace("e", "e+" if "." in item else ".0e+")
            return f" YAML takes {item} for text: write {number}."
    return ""


def _listing(known: dict[str, Parameter]) -> str:
    return ", ".join(f"{parameter.name} ({_name(parameter.type)})" for parameter in known.values())


def _stream_progress(group: ProcessGroup, status_file: Path) -> None:
    """Print the `say` lines in the group's log as they come, and show the status in the file, until the group ends.

    Raises `SymmlibError` where neither changes for `SILENT_S` seconds.
    """
    with open(group.log, encoding="utf-8", errors="replace") as log, live() as status:
        rest, seen, moved, silent_s = "", None, time.monotonic(), patience.seconds(SILENT_S)
        while True:
            ended = group.poll() is not None  # asked before reading, so that nothing written last is missed
            *lines, rest = (rest + log.read()).split("\n")
            for line in lines:
                if progress.is_line(line):
                    progress.print_line(line)
            if ended:
                return
            status.update(shown := passed(status_file))
            if (signs := (group.log.stat().st_size, shown)) != seen:
                seen, moved = signs, time.monotonic()
            elif time.monotonic() - moved > silent_s:
                raise SymmlibError(
                    f"its notebook gave no sign of life for {silent_s:g} s{group.dump_stacks()} ({patience.PATIENCE} "
                    f"stretches how long to wait). The end of {group.log}:\n{group.tail()}"
                )
            time.sleep(0.1)


def _cell_error(executed: Path) -> str | None:
    """The error in the executed notebook, in a line; None if it holds none."""
    with contextlib.suppress(OSError, ValueError):
        for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if output["output_type"] == "error":
                    known = output["ename"] in {kind.__name__ for kind in _family(SymmlibError)}
                    return output["evalue"] if known else f"{output['ename']}: {output['evalue']}"
    return None


def _family(kind: type) -> set[type]:
    return {kind}.union(*map(_family, kind.__subclasses__()))
