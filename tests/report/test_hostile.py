"""Whatever a name, a reason or a file says, pages show it as text: as HTML, inside figures, in lists and in links."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from symmlib.report import compare, make_index, make_report
from symmlib.runs import write_csv, write_json, write_text

SCRIPT = "<script>alert(1)</script>"
CLOSING = '"></title></svg><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """The `text` of a page, its `tags` with their attributes, and what its `scripts` hold."""

    def __init__(self, html: str):
        super().__init__()
        self.text, self.tags, self.scripts = "", [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts += data
        else:
            self.text += data

    def obeys(self) -> list[str]:
        """What the tests planted and became markup; the pages' own scripts, allowed by their hashes, may be there."""
        found = ["a script"] if "alert(" in self.scripts else []
        for tag, attributes in self.tags:
            found += [f"<{tag} {name}>" for name in attributes if name.startswith("on") or name == "src"]
            found += [target for target in [attributes.get("href") or ""] if "script:" in target]
        return found


def hostile_run(run, tables, text: str) -> None:
    """Put `text` wherever a run's files have room for one."""
    for name, table in tables.items():
        names = {column: {"router": text, "vllm/shm": text, "gloo served 12 calls": text} for column in table.columns}
        write_csv(run / "results" / f"{name}.csv", table.replace(names))
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest |= {"profile": text, "topology": text, "argv": [text, text], "reason": text, "status": "failed"}
    manifest |= {"environment": {"VLLM_X": text}, "versions": {text: text}}
    manifest["hardware"] = {
        "cpu": {"model": text, "cores": 2, "kernel": text},
        "gpus": [{"name": text, "driver": text}],
    }
    manifest["steps"] = {text: {"status": "failed", "reason": text}}
    write_json(run / "manifest.json", manifest)
    write_json(run / "raw" / "serving" / "experiment.json", {"workload": f"{text} of model {text}", "vllm": text})
    write_json(run / "03_routing.failure.json", {"reason": text})
    write_text(run / "raw" / text.replace("/", "_") / "a.log", "x")


@pytest.mark.parametrize("text", [SCRIPT, CLOSING])
def test_a_page_and_the_list_of_runs_show_hostile_text_and_obey_none_of_it(whole_run, tables, text):
    hostile_run(whole_run, tables, text)
    html = make_report(whole_run).read_text(encoding="utf-8")
    index = make_index(whole_run.parent.parent).read_text(encoding="utf-8")
    for page, least in ((html, 20), (index, 2)):
        assert not Page(page).obeys() and Page(page).text.count(text) >= least
    pictures = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "alert(1)" in pictures, "no figure names an arm, so nothing was tried there"


def test_a_comparison_of_runs_shows_hostile_text_and_obeys_none_of_it(whole_run, tables, tmp_path):
    hostile_run(whole_run, tables, SCRIPT)
    other = whole_run.with_name(f"{whole_run.name}-<script>alert(2)<_script>")
    shutil.copytree(whole_run, other)
    html = compare([whole_run, other], tmp_path / "compare.html").read_text(encoding="utf-8")
    assert not Page(html).obeys() and Page(html).text.count(SCRIPT) > 3
