"""Executed notebooks as pages beside the report: `make_notebook_pages` writes RUN/notebooks/NAME.html for each.

A page is one file in the report's look: it loads nothing from anywhere, works without JavaScript, folds code and
progress away, and names each picture for those who do not see it. nbconvert walks the notebook by templates/notebook;
`outputs` makes what cells showed safe.
"""

import contextlib
import re
from pathlib import Path
from urllib.parse import unquote

from markupsafe import Markup

from symmlib.errors import SymmlibError
from symmlib.report.contents import Contents
from symmlib.runs import write_text

TEMPLATES = Path(__file__).parent / "templates"
INJECTED = "injected-parameters"  # papermill's tag of the cell that it put in


def make_notebook_pages(run: Contents) -> list[tuple[str, str]]:
    """Write a page for every notebook in `run`'s notebooks/; the same notebook gives the same bytes.

    Returns (notebook, why) for those of which no page could be made: each costs only itself. An old page of such a one
    is removed: it would show what the notebook no longer holds.
    """
    failed = []
    for path in sorted((run.path / "notebooks").glob("*.ipynb")):
        page = path.with_suffix(".html")
        try:
            write_text(page, _page(path, run))
        except Exception as error:  # a notebook may be damaged in any way, and nbconvert raises what it likes
            with contextlib.suppress(OSError):
                page.unlink(missing_ok=True)
            reason = str(error) if isinstance(error, SymmlibError) else f"{type(error).__name__}: {error}"
            failed.append((f"the page of notebooks/{path.name}", f"no page could be made of it: {reason:.300}"))
    return failed


def _page(path: Path, run: Contents) -> str:
    import nbformat

    from symmlib.report.page import environment

    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    if "cells" not in notebook:
        raise SymmlibError("it is no notebook: it has no cells")
    title = _take_title(notebook) or path.stem
    errors = [
        f"{output.get('ename', '')}: {output.get('evalue', '')}"
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    return (
        environment()
        .get_template("notebook.html")
        .render(
            title=title,
            name=path.name,
            manifest=run.manifest,
            errors=errors,
            banner=run.banner,
            body=Markup(_body(notebook, path)),
        )
    )


def _take_title(notebook) -> str:
    """The first heading of the notebook's first words, which the page shows as its own; it is taken out there."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            if heading := re.match(r"\s*# +(.+)\n?", cell.source):
                cell.source = cell.source[heading.end() :]
                return re.sub(r"[`*_]", "", heading[1]).strip()
            return ""
    return ""


def _body(notebook, path: Path) -> str:
    from nbconvert import HTMLExporter

    from symmlib.report import outputs

    run_dir = path.parent.parent.resolve()

    def may_link(target: str) -> bool:
        aim = (path.parent / unquote(target.split("#")[0])).resolve()
        return aim.is_relative_to(run_dir) and aim.is_file()

    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            cell.outputs = outputs.prepared(cell.outputs, f"cell-{number}", may_link)
            tags = cell.metadata.get("tags", [])
            cell.metadata.fold = "Parameters of this run" if INJECTED in tags else "Code"
    exporter = HTMLExporter(
        template_name="notebook",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_anchor_links=True,
        filters={"sanitized": lambda html: outputs.sanitized(html, may_link)},
    )
    html, _ = exporter.from_notebook_node(notebook, {"max_lines": outputs.MAX_LINES})
    return html
