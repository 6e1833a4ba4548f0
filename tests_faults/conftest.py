"""Faults, injected for real: what each test of them shares, and the record that it leaves for docs/faults.md.

A test has the mark `fault("what goes wrong", "where")` and takes the fixture `fault`. In the end nothing that the test
started may run, nothing of it may lie in /dev/shm, and a bystander's process and memory must be as they were. With
SYMMLIB_FAULTS=FILE each test appends a line of JSON to FILE, from which `scripts/fault_table.py` makes the table.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.waiting import PATIENCE_S

SYMMLIB = str(Path(sys.executable).with_name("symmlib"))
MARK = "SYMMLIB_FAULT"  # in the environment of everything that a test starts
LEFT_S = 120  # for what is being ended to be gone
MEMORY = ("psm_", "vllm_dist_", "nccl-", "torch_", "symmlib")


class Fault:
    """What a test uses to inject one, and to tell what came of it."""

    def __init__(self, place: Path, mark: str):
        self.place, self.mark = place, mark
        self.message, self.exit_status, self.kept = "", None, ""
        self._before = {one.pid for one in psutil.Process().children()}  # servers of other tests, the bystander
        self.is_over = threading.Event()
        self._injecting: list[threading.Thread] = []

    def saw(self, message: str, exit_status: int | None, kept: str) -> None:
        """Note what was said, the exit status (None where no command ended), and what is left of the work."""
        self.message, self.exit_status, self.kept = message, exit_status, kept

    def start(self, *arguments, log: Path | None = None, **options) -> subprocess.Popen:
        """`symmlib arguments...`, its output in the file `log`, in a process group of its own."""
        return self.start_command([SYMMLIB, *map(str, arguments)], log=log, **options)

    def start_command(self, command: list[str], log: Path | None = None, **options) -> subprocess.Popen:
        with open(log or self.place / "said", "wb") as said:
            # A shell's background jobs ignore Ctrl-C and hand that on; a user's foreground command does not.
            return subprocess.Popen(
                command, stdout=said, stderr=said, process_group=0, cwd=self.place,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **options,
            )  # fmt: skip

    def said(self) -> str:
        return (self.place / "said").read_text(errors="replace")

    def with_mount(self, mount: str, *arguments, keep: Path | None = None) -> subprocess.Popen:
        """`symmlib arguments...` where the shell command `mount` was done first, which nobody else sees.

        What is in `keep` in the end is copied to the directory kept/ of this test.
        """
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
            pytest.skip("this machine allows no private mounts (unshare --mount)")
        script = f"{mount} || exit 99; {shlex.join([SYMMLIB, *map(str, arguments)])}; status=$?; "
        script += f"cp -r {keep} {self.place}/kept; " if keep else ""
        return self.start_command(["unshare", "--mount", "sh", "-c", f"{script}exit $status"])

    def alive(self, part: str = "", rank: int | None = None) -> list[psutil.Process]:
        """What this test started and still runs: processes whose command has `part`, of the rank `rank`."""
        started = [one for one in psutil.Process().children() if one.pid not in self._before]
        below = {one.pid for first in started for one in (first, *_descendants(first))}
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                # An orphan is told by its environment; vLLM's processes write their names over theirs.
                ours = process.pid in below or environment.get(MARK) == self.mark and process.pid != os.getpid()
                of_rank = rank is None or environment.get("RANK") == str(rank)
                if ours and of_rank and process.status() != "zombie" and part in shlex.join(process.cmdline()):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def until(self, condition, what: str, running: subprocess.Popen | None = None):
        """What `condition` returns as soon as that is true, while `running` runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert running is None or running.poll() is None, f"ended before {what}: {self.said()}"
            assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
            time.sleep(0.02)
        return found

    def meanwhile(self, condition, action) -> None:
        """Do `action` with what `condition` returns, as soon as that is true, while the test goes on."""

        def inject():
            while not (found := condition()):
                if self.is_over.wait(0.02):
                    return
            action(found)

        self._injecting.append(threading.Thread(target=inject, daemon=True))
        self._injecting[-1].start()


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


@pytest.fixture(scope="session")
def bystander():
    """Somebody else's process, with shared memory like vLLM's."""
    memory = Path(f"/dev/shm/psm_bystander{os.getpid()}")
    memory.write_bytes(b"somebody else's")
    waiting = [sys.executable, "-c", "import sys; sys.stdin.read()"]  # it ends with this process, however that ends
    process = subprocess.Popen(waiting, stdin=subprocess.PIPE)
    yield process, memory
    process.kill()
    process.wait()
    memory.unlink(missing_ok=True)


@pytest.fixture
def fault(request, tmp_path, monkeypatch, bystander):
    mark = f"{os.getpid()}-{request.node.name}"
    monkeypatch.setenv(MARK, mark)
    one, began = Fault(tmp_path, mark), time.monotonic()
    memory = NewMemory(one)
    yield one
    one.is_over.set()
    for thread in one._injecting:
        thread.join(PATIENCE_S)
    deadline = time.monotonic() + LEFT_S
    while (left := one.alive()) and time.monotonic() < deadline:
        time.sleep(0.05)
    commands = [shlex.join(process.cmdline()) for process in left]
    for process in left:
        process.kill()
    left_there = memory.left()
    process, theirs = bystander
    untouched = process.poll() is None and theirs.read_bytes() == b"somebody else's"
    _record(request.node, one, len(left), len(left_there), untouched, time.monotonic() - began)
    assert not commands, f"still running: {commands}"
    assert not left_there, f"left in /dev/shm: {left_there}"
    assert untouched, "a bystander was touched"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and (mark := item.get_closest_marker("fault")):
        _write({"fault": _named(item), "where": mark.args[1], "test": item.name, "skipped": str(call.excinfo.value)})
    item.stash[PASSED] = report.passed if call.when == "call" else item.stash.get(PASSED, False)
    return report


PASSED = pytest.StashKey[bool]()


def _named(item) -> str:
    """What goes wrong, with the test's parameters where the mark has their names in braces."""
    given = item.callspec.params if hasattr(item, "callspec") else {}
    return item.get_closest_marker("fault").args[0].format(**{key: getattr(v, "name", v) for key, v in given.items()})


class NewMemory:
    """What has come into /dev/shm since this was made and was seen to be used by processes of the test.

    Machines are shared: what others make and leave there, in other tests of the same kind for one, tells nothing.
    """

    def __init__(self, fault: Fault):
        self._fault, self._before, self._ours = fault, _memory(), set()
        self._is_over = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def left(self) -> set[Path]:
        """What is still there after a while: what is about to be removed is not left."""
        self._is_over.set()
        self._watching.join()
        deadline = time.monotonic() + LEFT_S
        while (found := self._ours & _memory()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def _watch(self) -> None:
        while not self._is_over.wait(0.2):
            for path in _memory() - self._before - self._ours:
                if _users(path) & {process.pid for process in self._fault.alive()}:
                    self._ours.add(path)


def _memory() -> set[Path]:
    found = {path for path in Path("/dev/shm").iterdir() if path.name.startswith(MEMORY)}
    return {path for path in found if "bystander" not in path.name}


def _users(memory: Path) -> set[int]:
    """The processes that have it mapped."""
    users = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if str(memory) in maps.read_text(errors="replace"):
                users.add(int(maps.parent.name))
    return users


def _record(item, fault: Fault, processes: int, memory: int, untouched: bool, seconds: float) -> None:
    if not item.stash.get(PASSED, False):
        return
    what, where = _named(item), item.get_closest_marker("fault").args[1]
    message = re.sub(rf"{re.escape(str(fault.place))}/?", "", " ".join(fault.message.split()))
    message = re.sub(r"(?<!\S)/\S*/(?=\S)", "", message)  # of other paths the last part
    _write({
        "fault": what, "where": where, "test": item.name, "message": message[:240], "exit_status": fault.exit_status,
        "kept": fault.kept, "processes_left": processes, "memory_left": memory, "others_untouched": untouched,
        "seconds": round(seconds),
    })  # fmt: skip


def _write(record: dict) -> None:
    if path := os.environ.get("SYMMLIB_FAULTS"):
        with open(path, "a") as file:
            file.write(json.dumps(record) + "\n")
