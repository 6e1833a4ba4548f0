"""JupyterLab on working copies of the notebooks: `symmlib lab`.

The copies are in `reports/lab/`, which git ignores: what somebody runs or changes there never shows in a diff, and the
shipped notebooks stay as they are for batch runs. Each start brings copies that nobody changed up to date; a changed
one stays as long as the shipped one does, and is then kept beside the new one as `<name>.old.ipynb`.

The server answers 127.0.0.1 only, to those who have its token, and fetches nothing from the network.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

from symmlib import notebooks
from symmlib.errors import UsageError
from symmlib.progress import say
from symmlib.runs import REPORTS, default_reports_dir, digest, write_json, write_text

LANDING = "README.md"
_SHIPPED = ".shipped.json"  # in the copies' directory: by name, the digest of what was copied last
_JUPYTER = ".jupyter"  # in the copies' directory: what JupyterLab is told and keeps, apart from the user's own

# JupyterLab's defaults for these notebooks; what a user sets in its settings menu goes before.
SETTINGS = {
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}},
    "@jupyterlab/extensionmanager-extension:plugin": {"enabled": False},
    # Run All leaves one at the end of the notebook; this adds the button back to the cell that runs.
    "@jupyterlab/notebook-extension:tracker": {
        "kernelStatus": {"showOnStatusBar": False, "showProgress": True, "showJumpToRecentExecutionButton": True}
    },
}
# This one asks whether it may fetch news.
PAGE = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


def open_lab(reports_dir: Path | None, options: list[str]) -> None:
    """Become JupyterLab on the working copies in `reports_dir` (the project's own by default); does not return.

    `options` go to JupyterLab after ours. Raises `UsageError` if there are no notebooks or no place for copies.
    """
    reports_dir = Path(reports_dir or default_reports_dir()).resolve()
    copies = refresh(reports_dir / "lab")
    say(f"working copies of the notebooks are in {os.path.relpath(copies)}; results go to runs/ beside it")
    argv, environment = command(reports_dir, options)
    # In this process's place: Ctrl-C, and the question that Jupyter asks then, belong to it.
    os.execve(argv[0], argv, environment)


def refresh(copies: Path) -> Path:
    """Make or update the working copies in the directory `copies`, and say which were replaced; returns `copies`.

    Nothing that a user wrote is lost: of a notebook that was changed on both sides, the user's is renamed.
    """
    shipped = [notebooks.path_of(name) for name in notebooks.names()]
    if not shipped:
        raise UsageError(f"{notebooks.DIRECTORY} holds no notebooks: they come with a checkout of symmlib, not alone.")
    before, now = _copied(copies), {}
    for path in [notebooks.DIRECTORY / LANDING, *shipped]:
        copy, new, last = copies / path.name, _content(path), before.get(path.name)
        now[path.name] = new
        if not copy.exists():
            pass
        elif (there := _content(copy)) == new or last == new:
            continue
        elif there == last:
            say(f"{path.name} has changed since it was copied, and your copy had not: it is new now")
        else:
            old = _free(copy)
            copy.rename(old)
            say(f"{path.name} has changed since it was copied. So has your copy, which is {old.name} now")
        write_text(copy, path.read_text(encoding="utf-8"))
    write_json(copies / _SHIPPED, now)
    return copies


def command(reports_dir: Path, options: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of JupyterLab on `reports_dir`/lab, whose settings are written there."""
    own = reports_dir / "lab" / _JUPYTER
    write_json(own / "config" / "labconfig" / "default_setting_overrides.json", SETTINGS)
    write_json(own / "config" / "labconfig" / "page_config.json", PAGE)
    argv = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", "--ServerApp.allow_origin="]
    # All reports can be read beside the notebooks: the root holds both.
    argv += [f"--ServerApp.root_dir={reports_dir}", f"--LabApp.default_url=/lab/tree/lab/{LANDING}"]
    argv += [f"--LabApp.workspaces_dir={own / 'workspaces'}"]  # which tabs are open; elsewhere, others are
    # News, updates and extensions would be looked for on the network.
    argv += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    argv += ["--LabApp.extension_manager=readonly"]
    if os.geteuid() == 0:  # the usual user of a container; the server answers this machine alone, and wants a token
        argv += ["--allow-root"]
    environment = {
        "JUPYTER_CONFIG_PATH": _path_list(own / "config", os.environ.get("JUPYTER_CONFIG_PATH")),
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, whatever the user has at home
        "PATH": _path_list(Path(sys.executable).parent, os.environ.get("PATH")),  # `symmlib` in Jupyter's terminals
        REPORTS: str(reports_dir),
    }
    return [*argv, *options], {**os.environ, **environment}


def _copied(copies: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((copies / _SHIPPED).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    return {}


def _content(path: Path) -> str:
    """A digest of what people write into a file: of a notebook its cells, without outputs, counts and ids."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    if path.suffix == ".ipynb":
        with contextlib.suppress(ValueError, LookupError, TypeError):
            return digest([[cell["cell_type"], "".join(cell["source"])] for cell in json.loads(text)["cells"]])
    return digest(text)


def _free(copy: Path) -> Path:
    """A name beside `copy` that is not taken: 02_allreduce.old.ipynb, then 02_allreduce.old-2.ipynb."""
    number, path = 1, copy.with_suffix(f".old{copy.suffix}")
    while path.exists():
        number += 1
        path = copy.with_suffix(f".old-{number}{copy.suffix}")
    return path


def _path_list(first: Path, rest: str | None) -> str:
    return os.pathsep.join([str(first), *([rest] if rest else [])])
