"""`scripts/browser.sh` finds a browser or installs one where it may, and never stops `make test`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from symmlib.runs import PROJECT

TOOLS = ("bash", "dirname", "id", "mkdir", "chmod", "cat")
WORKS, BROKEN = "#!/bin/sh\necho Chromium 1", "#!/bin/sh\nexit 1"


@pytest.fixture
def machine(tmp_path):
    """A machine of few programs: `machine({name: its text}, *arguments, **environment)` runs the script there."""
    place = tmp_path / "checkout" / "scripts" / "browser.sh"
    place.parent.mkdir(parents=True)
    shutil.copy(PROJECT / "scripts" / "browser.sh", place)
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool))

    def run(has: dict[str, str], *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        for name, text in has.items():
            (programs / name).unlink(missing_ok=True)
            (programs / name).write_text(text.replace("HERE", str(programs)))
            (programs / name).chmod(0o755)
        environment = {"PATH": str(programs), **environment}
        return subprocess.run([place, *arguments], env=environment, capture_output=True, text=True)

    return run


def test_a_browser_is_found_by_its_names_or_where_it_is_said_to_be(machine, tmp_path):
    assert machine({"google-chrome": WORKS}, "--find").stdout.strip().endswith("/google-chrome")
    assert machine({"chromium": WORKS}, "--find").stdout.strip().endswith("/chromium")
    (tmp_path / "mine").write_text(WORKS)
    (tmp_path / "mine").chmod(0o755)
    assert machine({}, "--find", CHROMIUM=str(tmp_path / "mine")).stdout.strip() == str(tmp_path / "mine")
    assert machine({}, CHROMIUM=str(tmp_path / "mine")).stdout == ""


def test_a_name_without_a_browser_behind_it_is_none(machine):
    assert machine({"chromium-browser": BROKEN}, "--find").returncode == 1


def test_without_a_browser_somebody_who_is_not_root_is_told_what_to_do_and_the_tests_go_on(machine):
    calls = {"apt-get": "#!/bin/sh\ntouch HERE/called", "id": "#!/bin/sh\necho 1000"}
    said = machine(calls)
    assert said.returncode == 0 and len(said.stdout.splitlines()) == 1
    assert "tests in a browser are skipped" in said.stdout and "apt install chromium" in said.stdout


@pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="Debian's package is installed on Debian")
def test_root_on_debian_gets_the_package_and_goes_on_where_that_fails(machine):
    root = {"id": "#!/bin/sh\necho 0"}
    failed = machine({**root, "apt-get": "#!/bin/sh\necho no network; exit 100"})
    assert failed.returncode == 0
    assert "installing the package chromium" in failed.stdout and "are skipped" in failed.stdout
    installs = '#!/bin/sh\n[ "$4" = -y ] || exit 0\n/bin/cp HERE/model HERE/chromium\n/bin/chmod +x HERE/chromium'
    done = machine({**root, "model": WORKS, "apt-get": installs})
    assert done.returncode == 0 and "are skipped" not in done.stdout
    assert machine({}, "--find").stdout.strip().endswith("/chromium")
    assert "installing" not in machine({}).stdout


@pytest.mark.parametrize("variable", [None, "SYMMLIB_REQUIRE_BROWSER"])
def test_without_a_browser_tests_are_skipped_and_fail_only_where_one_is_required(variable):
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "SYMMLIB_REQUIRE_BROWSER")}
    environment = {**kept, "CHROMIUM": "/no/such/browser", **({variable: "1"} if variable else {})}
    command = [sys.executable, "-m", "pytest", "-q", "tests/browser/test_reports.py", "-k", "what_its_numbers_mean"]
    ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert (ended.returncode == 0) == (variable is None)
    assert ("3 skipped" if variable is None else "3 errors") in ended.stdout
    assert "there is no Chromium or Chrome" in ended.stdout
