"""Hostile names in a real browser: nothing of them runs, with the page's own policy and without it."""

import json
import re

import pytest

from symmlib.report import make_index, make_report
from symmlib.runs import write_csv, write_json

RUNS = "<script>window.theirs = 1</script>"
CLOSES = '"></title></svg><img src=x onerror="window.theirs = 1">'


@pytest.mark.parametrize("with_policy", [True, False])
@pytest.mark.parametrize("text", [RUNS, CLOSES])
def test_hostile_names_are_text_in_a_report_and_in_the_list_of_runs(open_page, whole_run, tables, text, with_policy):
    for name, table in tables.items():
        names = {column: {"router": text, "vllm/shm": text} for column in table.columns}
        write_csv(whole_run / "results" / f"{name}.csv", table.replace(names))
    manifest = json.loads((whole_run / "manifest.json").read_text(encoding="utf-8"))
    manifest |= {"profile": text, "topology": text, "status": "failed", "reason": text}
    manifest["hardware"]["gpus"] = [{"name": text}]
    write_json(whole_run / "manifest.json", manifest)
    for page in (make_report(whole_run), make_index(whole_run.parent.parent)):
        if not with_policy:  # escaping has to be enough by itself
            html = page.read_text(encoding="utf-8")
            page.write_text(re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", html), encoding="utf-8")
        opened = open_page(page)
        assert opened.page.evaluate("window.theirs") is None
        assert opened.page.locator("img").count() == 0
        assert text in opened.page.locator("body").inner_text()
