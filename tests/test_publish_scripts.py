"""The recipes of scripts/: what they put online is the site, added to what was there; a dry run puts nothing there.

Git is the real one, with a repository on this disk as the remote; aws and rclone are stand-ins over directories.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from symmlib.runs import PROJECT, write_json, write_text
from tests.waiting import PATIENCE_S

PAGES, STORE = (PROJECT / "scripts" / f"publish-{name}.sh" for name in ("github-pages", "object-store"))
OLD = "20250101T000000Z-old-00000000"
NEW = "20261123T221005Z-new-1a2b3c4d"


@pytest.fixture
def shell(tmp_path):
    """Runs a script with the stand-ins, one finished run in `tmp_path`/reports, and no configuration of git's."""
    _run(tmp_path / "reports" / "runs" / NEW)

    def run(script: Path, *arguments, ok: bool = True, **variables) -> str:
        environment = os.environ | {
            "PATH": f"{PROJECT / 'tests' / 'stand_ins'}:{os.environ['PATH']}",
            "BUCKETS": str(tmp_path / "buckets"),
            "REPORTS_DIR": str(tmp_path / "reports"),
            "SYMMLIB": str(Path(sys.executable).with_name("symmlib")),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            **variables,
        }
        done = subprocess.run(
            [script, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def remote(tmp_path):
    """An empty bare repository, and what its branch gh-pages holds."""
    path = tmp_path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", path], check=True)
    return path


def test_pages_get_a_branch_with_the_site_and_the_second_time_nothing_new(shell, remote):
    assert "Pushed to gh-pages" in shell(PAGES, remote)
    assert {"index.html", ".nojekyll", f"runs/{NEW}/index.html", f"runs/{NEW}/manifest.json"} <= _branch(remote)
    before = _head(remote)
    assert "Nothing new" in shell(PAGES, remote)
    assert _head(remote) == before


def test_pages_keep_the_runs_that_only_the_branch_has(shell, remote, tmp_path):
    _run(tmp_path / "reports" / "runs" / OLD)
    shell(PAGES, remote)
    shutil.rmtree(tmp_path / "reports" / "runs" / OLD)
    write_text(tmp_path / "reports" / "runs" / NEW / "more.csv", "a\n")
    shell(PAGES, remote)
    assert {f"runs/{OLD}/index.html", f"runs/{NEW}/more.csv"} <= _branch(remote)
    index = subprocess.run(["git", "-C", remote, "show", "gh-pages:index.html"], capture_output=True, text=True)
    assert OLD in index.stdout and NEW in index.stdout


def test_a_dry_run_for_pages_shows_what_would_change_and_pushes_nothing(shell, remote):
    said = shell(PAGES, "--dry-run", remote)
    assert f"runs/{NEW}/index.html" in said and "nothing was pushed" in said
    assert not _branch(remote)


def test_a_remote_that_is_not_there_is_an_error(shell, tmp_path):
    shell(PAGES, tmp_path / "nowhere.git", ok=False)


@pytest.mark.parametrize(("place", "directory"), [("s3://reports/here", "reports/here"), ("mine:a/b", "mine/a/b")])
def test_an_object_store_gets_the_site_beside_what_it_has(shell, tmp_path, place, directory):
    there = tmp_path / "buckets" / directory
    _run(there / "runs" / OLD)
    said = shell(STORE, place)
    assert (there / "runs" / NEW / "index.html").is_file() and (there / "runs" / OLD / "index.html").is_file()
    index = (there / "index.html").read_text(encoding="utf-8")
    assert OLD in index and NEW in index and "+ " in said


@pytest.mark.parametrize("place", ["s3://reports/here", "mine:a/b"])
def test_a_dry_run_for_an_object_store_sends_nothing(shell, tmp_path, place):
    said = shell(STORE, "--dry-run", place)
    assert "dry" in said and not (tmp_path / "buckets").exists()


def test_an_object_store_gets_only_what_changed(shell, tmp_path):
    site = tmp_path / "site"
    assert f"upload: ./runs/{NEW}/index.html" in shell(STORE, "s3://reports", SITE=str(site))
    write_text(tmp_path / "reports" / "runs" / NEW / "more.csv", "a\n")
    again = shell(STORE, "s3://reports", SITE=str(site))
    assert [line for line in again.splitlines() if line.startswith("upload")] == [f"upload: ./runs/{NEW}/more.csv"]


def test_a_destination_that_is_none_is_answered_with_how_it_is_used(shell):
    assert "s3://BUCKET/PREFIX" in shell(STORE, "somewhere", ok=False)
    assert "s3://BUCKET/PREFIX" in shell(STORE, ok=False)
    assert "[REMOTE [BRANCH]]" in shell(PAGES, "--help", ok=False)


def _run(path: Path) -> None:
    write_json(path / "manifest.json", {"run_id": path.name, "profile": path.name, "status": "ok", "steps": {}})
    write_text(path / "index.html", '<p><a href="manifest.json">files</a></p>')


def _branch(remote: Path) -> set[str]:
    command = ["git", "-C", remote, "ls-tree", "-r", "--name-only", "gh-pages"]
    return set(subprocess.run(command, capture_output=True, text=True).stdout.split())


def _head(remote: Path) -> str:
    return subprocess.run(["git", "-C", remote, "rev-parse", "gh-pages"], capture_output=True, text=True).stdout
