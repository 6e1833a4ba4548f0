"""The page of one run: `make_report` reads the run's files and writes `index.html`, which needs nothing else.

The order is that of a reader with ten seconds, then a minute, then an afternoon: the answer, the numbers, the
evidence, what is missing, how to repeat it. A section that a run has nothing for is left out and named among what is
missing. `sections`, `prediction`, `timings` and `numerics` gather the content, templates hold the structure.
"""

import re
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from symmlib.analysis import words
from symmlib.report import accuracy, contents, numerics, prediction, scripts, sections, style, timings
from symmlib.report.entry import NO_ANSWER
from symmlib.report.notebook_pages import make_notebook_pages
from symmlib.runs import write_text

STATUS_WORDS = {
    "ok": "finished",
    "failed": "failed in part",
    "invalid": "measured, but a gate says invalid",
    "running": "still running",
}
SECTIONS = {  # what each makes of a run's `Contents`
    "answer": sections.answer,
    "tiles": sections.tiles,
    "serving": sections.serving,
    "accuracy": accuracy.answers,
    "allreduce": timings.allreduce,
    "routes": timings.routes,
    "prediction": prediction.explained,
    "published": sections.beside_published,
    "numerics": numerics.numerics,
    "gates": sections.gates,
    "not_run": timings.not_run,
    "suggested_blocks": sections.suggested_blocks,
}
NAMES = {  # sections in their order: `templates/sections/<id>.html`, and what the contents call it
    "serving": "Serving",
    "allreduce": "All-reduce",
    "routes": "Routes",
    "prediction": "Prediction",
    "accuracy": "Accuracy",
    "numerics": "Sums",
    "published": "Published B200",
    "gates": "Gates",
    "missing": "Missing",
    "provenance": "Repeat it",
    "files": "Files",
}
NEEDED = {  # section: (what is absent where it is left out, if that is to be told; of which of its parts it has none)
    "serving": ("serving results", ("plots", "table")),
    "allreduce": ("all-reduce results", ("plots",)),
    "routes": ("routing table", ("plots",)),
    "prediction": ("", ("sentences",)),
    "numerics": ("", ("table",)),
    "gates": ("gates", ("table",)),
    "accuracy": ("", ("scores",)),
}


def make_report(run_dir: Path) -> Path:
    """Write `index.html` into the run's directory, from its files alone, and return its path.

    The same files give the same bytes. Results that are missing are named with the reason. Raises `UsageError` if
    `run_dir` is no run's directory or cannot be written.
    """
    run = contents.read(Path(run_dir))
    run.missing += make_notebook_pages(run)
    made, unmade = _make_sections(run)
    page = environment().get_template("report.html")
    html = page.render(
        run=run,
        names=NAMES.items(),
        manifest=run.manifest,
        machine=contents.machine(run.manifest),
        banner=run.banner,
        **(made.pop("answer") or {"headline": NO_ANSWER, "certainty": "", "sentences": [unmade["answer"]]}),
        provenance=sections.provenance(run.manifest),
        files=sections.files(run),
        unmade=unmade,
        empty=_empty(made),
        **made,
    )
    return write_text(run.path / "index.html", html)


def _make_sections(run: contents.Contents) -> tuple[dict, dict[str, str]]:
    """What `SECTIONS` make of `run`, by name; and why, for those that could not be made.

    Whatever is odd about the numbers of one section costs that section: the others may be what somebody waits for.
    """
    made, unmade = {}, {}
    for name, make in SECTIONS.items():
        try:
            made[name] = make(run)
        except Exception as error:
            made[name], unmade[name] = None, f"{type(error).__name__}: {error}"
            run.missing.append(
                (f"the section “{name.replace('_', ' ')}” of this page", f"it failed with {unmade[name]}")
            )
    return made, unmade


def _empty(made: dict) -> dict[str, str]:
    """The sections that have nothing to show, and what is absent; one that could not be made has that to show."""
    return {
        name: what
        for name, (what, parts) in NEEDED.items()
        if made[name] is not None and not any(made[name][part] for part in parts)
    }


def environment() -> Environment:
    """The templates' environment: everything is escaped unless it is `Markup`, and an unknown name is an error."""
    loader = PackageLoader("symmlib.report")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {
        "settings_as_code": _settings_as_code,
        "when": contents.when,
        "link": _link,
        "breakable": _breakable,
        "no_such": lambda names: words.listed(f"no {name}" for name in names if name),
    }
    made.globals |= {"css_variables": lambda scheme: Markup(style.css_variables(scheme)), "status_words": STATUS_WORDS}
    made.globals |= {"script": scripts.script, "script_policy": lambda: Markup(scripts.script_policy())}
    return made


def _link(path: str) -> str:
    """A relative path as a link that stays relative, whatever characters it has."""
    return quote(path, safe="/")


def _breakable(name: str) -> Markup:
    """A name in which a line may end behind a slash, so that columns of backends stay narrow."""
    return escape(name).replace("/", Markup("/<wbr>"))


def _settings_as_code(text: str) -> Markup:
    """`text` escaped, with settings that can be pasted into a shell set as code."""
    return Markup(re.sub(r"SYMMLIB_[A-Z_]+=[\w/.-]*\w", lambda match: f"<code>{match[0]}</code>", str(escape(text))))
