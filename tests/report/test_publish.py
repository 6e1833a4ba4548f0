"""The published site: all links lead somewhere in it, no secret is in it, and publishing again changes nothing."""

import gzip
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from symmlib import cli
from symmlib.errors import UsageError
from symmlib.report import compare, make_index, make_report, publish
from symmlib.runs import write_json, write_text

SECRETS = {
    "HF_TOKEN": "correct-horse-battery",  # of no known shape
    "OPENAI_API_KEY": "sk-proj-Zq3vX9tLw2mN7pRs",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLE",
}
FOREIGN = [
    "hf_QwErTyUiOpAsDfGhJkLz",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_0123456789abcdefABCDEF",
    "hunter2-of-another",
    "Zq3vX9tLw2",
]


@pytest.fixture(scope="session")
def made(reported_run, tmp_path_factory):
    """Two runs with pages, an executed notebook each, a comparison, and files that are no texts."""
    run = tmp_path_factory.mktemp("made") / "reports" / "runs" / reported_run.name
    shutil.copytree(reported_run, run)
    cells = [new_markdown_cell("# T\n\n[results](../results/regret.csv)"), new_code_cell("x", outputs=[])]
    write_text(run / "notebooks" / "02_allreduce.ipynb", nbformat.writes(new_notebook(cells=cells)))
    (run / "raw" / "trace.bin").write_bytes(b"\0\1\2")
    (run / "raw" / "samples.csv.gz").write_bytes(gzip.compress(b"launch,time_us\n1,2.5\n"))
    (run / "raw" / "broken.gz").write_bytes(b"no gzip")
    make_report(run)
    later = run.with_name("20261124T221005Z-later-5e6f7a8b")
    shutil.copytree(run, later)
    make_index(run.parent.parent)
    compare([run, later])
    return run.parent.parent


@pytest.fixture(scope="session")
def made_with_secrets(made, reported_run, tmp_path_factory):
    """The same, after somebody's secrets got into logs, parameters, a notebook, a compressed log and the manifest."""
    reports = tmp_path_factory.mktemp("planted") / "reports"
    shutil.copytree(made, reports)
    run = reports / "runs" / reported_run.name
    hf, aws, github, password, key = FOREIGN
    log = "\n".join(
        [
            f"non-default args: {{'api_key': ['{key}'], 'port': 8000}}",
            f"HF_TOKEN={SECRETS['HF_TOKEN']} vllm serve --api-key {key}",
            f"downloading with {hf}; cloning https://me:{password}@example.org/x.git and https://{github}@github.com/y",
            f"Authorization: Bearer {SECRETS['OPENAI_API_KEY']}",
            f"s3 {aws} {SECRETS['AWS_SECRET_ACCESS_KEY']}",
            "block 1 of 3, server 2 of 9: router",
        ]
    )
    write_text(run / "raw" / "serving" / "block-1" / "server.log", log)
    (run / "raw" / "old.log.gz").write_bytes(gzip.compress(log.encode()))
    (run / "raw" / "cut.log").write_bytes(log.encode() + b"\xff\xfe")
    (run / "raw" / "core").write_bytes(b"\0" + log.encode())
    params = f"name: synthetic\nparameters:\n  04_serving:\n    server_args: [--hf-token, {hf}]\n    token: {key}\n"
    write_text(run / "params.yaml", params)
    write_json(run / "results" / "environment.json", {"password": password, "argv": ["--api-key", key]})
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    write_json(run / "manifest.json", manifest | {"argv": ["symmlib", "run", f"--hf-token={hf}"]})
    outputs = [new_output("stream", name="stdout", text=log), new_output("error", ename="E", evalue=f"token={key}")]
    cells = [new_code_cell(f'token = "{key}"\npassword = "{password}"', outputs=outputs)]
    write_text(run / "notebooks" / "02_allreduce.ipynb", nbformat.writes(new_notebook(cells=cells)))
    make_report(run)
    return reports


@pytest.fixture
def reports(made, tmp_path):
    """`made`, to change at will."""
    return Path(shutil.copytree(made, tmp_path / "reports"))


@pytest.fixture
def planted(made_with_secrets, tmp_path, monkeypatch):
    """`made_with_secrets`, to change at will; some of them are in this process's environment, too."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return Path(shutil.copytree(made_with_secrets, tmp_path / "reports"))


@pytest.fixture
def run(tmp_path, reported_run):
    """The run that has what the tests look at."""
    return tmp_path / "reports" / "runs" / reported_run.name


def test_every_link_of_the_site_leads_to_a_file_of_the_site(reports, tmp_path):
    site = publish(reports, tmp_path / "site").parent
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == 1 + 1 + 2 * 2  # the index, the comparison, each run's report and notebook
    seen = 0
    for page in pages:
        ids, links = _links(page)
        for link in links:
            parts = urlsplit(link)
            if parts.scheme:
                assert link.startswith("https://github.com/vllm-project/"), link
            elif not parts.path:
                assert parts.fragment in ids, link
            else:
                aim = (page.parent / unquote(parts.path)).resolve()
                assert aim.is_relative_to(site.resolve()) and aim.is_file(), f"{page.name} links {link}"
                seen += 1
    assert seen > 40


def test_the_site_is_reachable_from_its_index(reports, tmp_path):
    site = publish(reports, tmp_path / "site").parent
    found, waiting = set(), [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page not in found:
            found.add(page)
            links = [urlsplit(link) for link in _links(page)[1]] if page.suffix == ".html" else []
            waiting += [(page.parent / unquote(link.path)).resolve() for link in links if not link.scheme and link.path]
    runs = {path for path in (site / "runs").rglob("*") if path.is_file() and path.name != "redaction.txt"}
    assert runs <= found


def test_what_is_not_published_has_a_note_in_its_place_to_which_the_page_links(reports, run, tmp_path):
    site = publish(reports, tmp_path / "site").parent
    published = site / "runs" / run.name
    assert not (published / "raw" / "trace.bin").exists() and not (published / "raw" / "broken.gz").exists()
    assert "it is binary" in (published / "raw" / "trace.bin.left-out.txt").read_text()
    assert 'href="raw/trace.bin.left-out.txt"' in (published / "index.html").read_text(encoding="utf-8")
    assert gzip.decompress((published / "raw" / "samples.csv.gz").read_bytes()).startswith(b"launch,time_us")
    assert "raw/broken.gz: left out (it cannot be decompressed)" in (published / "redaction.txt").read_text()


def test_no_secret_is_in_the_site(planted, run, tmp_path):
    site = publish(planted, tmp_path / "site").parent
    assert _holds(planted, "hunter2-of-another")  # or the test would test nothing
    for secret in (*SECRETS.values(), *FOREIGN):
        assert not _holds(site, secret), secret
    published = site / "runs" / run.name
    log = (published / "raw" / "serving" / "block-1" / "server.log").read_text()
    assert log.endswith("block 1 of 3, server 2 of 9: router") and log.count("[redacted]") >= 8
    assert (published / "raw" / "cut.log").read_bytes().endswith(b"router\xff\xfe")
    assert json.loads((published / "manifest.json").read_text())["argv"] == ["symmlib", "run", "--hf-token=[redacted]"]
    assert re.search(r"raw/serving/block-1/server.log: \d+ values redacted", (published / "redaction.txt").read_text())
    assert "raw/core: left out (it is binary)" in (published / "redaction.txt").read_text()


def test_the_runs_themselves_keep_everything(planted, run, tmp_path):
    before = _bytes(planted)
    publish(planted, tmp_path / "site")
    assert _bytes(planted) == before


def test_a_file_whose_name_is_a_secret_is_left_out_and_not_named(planted, run, tmp_path):
    write_text(run / "raw" / f"{FOREIGN[0]}.log", "x")
    site = publish(planted, tmp_path / "site").parent
    assert not [path for path in site.rglob("*") if FOREIGN[0] in path.name] and not _holds(site, FOREIGN[0])


def test_publishing_again_changes_no_byte_and_touches_no_file(planted, tmp_path):
    site = tmp_path / "site"
    publish(planted, site)
    before, times = _bytes(site), _times(site)
    publish(planted, site)
    assert _bytes(site) == before
    assert _times(site) == times
    publish(planted, tmp_path / "elsewhere")
    assert _bytes(tmp_path / "elsewhere") == before


def test_runs_that_are_only_in_the_site_stay_and_are_listed(reports, tmp_path):
    site = tmp_path / "site"
    old = site / "runs" / "20250101T000000Z-kept-00000000"
    write_json(old / "manifest.json", {"run_id": old.name, "profile": "kept", "steps": {}})
    write_text(old / "index.html", "<p>an old page</p>")
    index = publish(reports, site).read_text(encoding="utf-8")
    assert (old / "index.html").read_text() == "<p>an old page</p>" and f"runs/{old.name}/index.html" in index


def test_what_an_earlier_publication_gave_away_is_taken_back(planted, run, tmp_path):
    target = tmp_path / "site" / "runs" / run.name
    shutil.copytree(run, target)
    site = publish(planted, tmp_path / "site").parent
    for secret in (*SECRETS.values(), *FOREIGN):
        assert not _holds(site, secret), secret


def test_what_has_left_a_run_leaves_the_site_and_nothing_else_does(reports, run, tmp_path):
    site = publish(reports, tmp_path / "site").parent
    target, other = site / "runs" / run.name, site / "CNAME"
    other.write_text("example.org")
    (target / ".nojekyll").write_text("")
    gone = ("raw/samples.csv.gz", "raw/trace.bin")
    before = {path for path in site.rglob("*") if path.is_file()}
    assert (target / gone[0]).is_file() and (target / f"{gone[1]}.left-out.txt").is_file()
    for name in gone:
        (run / name).unlink()
    publish(reports, site)
    left = before - {path for path in site.rglob("*") if path.is_file()}
    assert left == {target / gone[0], target / f"{gone[1]}.left-out.txt"}


def test_a_link_in_a_page_that_leads_out_of_the_site_is_none_any_more(reports, run, tmp_path):
    page = run / "index.html"
    html = page.read_text(encoding="utf-8")
    odd = '<a href="/etc/passwd">a</a> <a class="x" href="../../../secret.txt">b</a> <a href="gone.csv">c</a>'
    page.write_text(html.replace("</main>", f"{odd}</main>"), encoding="utf-8")
    site = publish(reports, tmp_path / "site").parent
    found = (site / "runs" / run.name / "index.html").read_text(encoding="utf-8")
    assert "passwd" not in found and "secret.txt" not in found and "gone.csv" not in found
    assert '<a class="x" data-not-published>b</a>' in found


def test_a_comparison_of_somebody_elses_is_not_published(reports, tmp_path):
    write_text(reports / "compare-mine.html", "<p>notes</p>")
    site = publish(reports, tmp_path / "site").parent
    assert not (site / "compare-mine.html").exists() and len(list(site.glob("compare-*.html"))) == 1


def test_the_command_says_where_the_site_is(reports, tmp_path, capsys):
    assert cli.main(["publish", str(tmp_path / "site"), "--reports-dir", str(reports)]) == 0
    assert "Published: " in capsys.readouterr().out
    with pytest.raises(UsageError, match="nothing to publish"):
        publish(tmp_path / "empty", tmp_path / "other")


class _Reader(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes["id"]} if "id" in attributes else set()
        self.links += [attributes["href"]] if tag == "a" and "href" in attributes else []


def _links(page: Path) -> tuple[set[str], list[str]]:
    reader = _Reader(page.read_text(encoding="utf-8"))
    return reader.ids, reader.links


def _contents(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except OSError:
        return data


def _holds(directory: Path, text: str) -> bool:
    return any(text.encode() in _contents(path) for path in directory.rglob("*") if path.is_file())


def _bytes(directory: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def _times(directory: Path) -> dict[str, int]:
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.stat().st_mtime_ns for path in paths}
