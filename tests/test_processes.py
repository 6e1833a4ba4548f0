"""Real commands, real deaths: whatever happens to the parent, nothing that it started may stay behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from symmlib.errors import SymmlibError, UsageError
from symmlib.processes import COMPILES_AGAIN, ProcessGroup
from tests.waiting import PATIENCE_S, gone, until

# A command that starts a grandchild in a session of its own, as torchrun does with its workers, and prints both ids.
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def family_of(log: Path) -> list[int]:
    return [int(pid) for pid in until(lambda: log.exists() and log.read_text().split(), "the ids of the family")]


def test_a_command_reports_its_exit_status_and_leaves_its_output_in_the_log(tmp_path):
    log = tmp_path / "deep" / "log"
    with ProcessGroup(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), log=log) as group:
        assert group.wait(PATIENCE_S) == 3
        assert group.poll() == 3
    assert sorted(group.tail().split()) == ["err", "out"]


def test_death_by_a_signal_is_reported_as_its_negative_number(tmp_path):
    with ProcessGroup(python("import os; os.kill(os.getpid(), 9)"), log=tmp_path / "log") as group:
        assert group.wait(PATIENCE_S) == -signal.SIGKILL


def test_the_environment_is_changed_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("TAKEN", "1")
    code = "import os; print(*(os.environ.get(name) for name in ('KEPT', 'TAKEN', 'GIVEN')))"
    env = {"TAKEN": None, "GIVEN": "2"}
    with ProcessGroup(python(code), log=tmp_path / "log", env=env) as group:
        group.wait(PATIENCE_S)
    assert group.tail() == "1 None 2"


def test_what_a_command_imports_is_compiled_once_even_where_an_image_forbids_to_keep_it(tmp_path, monkeypatch):
    monkeypatch.setenv(COMPILES_AGAIN, "1")
    (tmp_path / "imported.py").touch()
    with ProcessGroup(python("import imported"), log=tmp_path / "log", env={"PYTHONPATH": str(tmp_path)}) as group:
        group.wait(PATIENCE_S)
    assert list((tmp_path / "__pycache__").glob("imported.*.pyc"))


def test_leaving_the_context_ends_children_that_made_their_own_session(tmp_path):
    with pytest.raises(KeyboardInterrupt), ProcessGroup(python(FAMILY), log=tmp_path / "log") as group:
        family = family_of(group.log)
        assert family[0] == group.pid
        raise KeyboardInterrupt
    assert gone(family)
    assert group.poll() == -signal.SIGTERM


def test_children_that_outlive_the_command_are_ended_with_it(tmp_path):
    with ProcessGroup(python(FAMILY.replace("time.sleep(600)\n", "")), log=tmp_path / "log") as group:
        family = family_of(group.log)
        assert group.wait(PATIENCE_S) == 0
    assert gone(family)


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path):
    with ProcessGroup(python(STUBBORN), log=tmp_path / "log") as group:
        until(lambda: "ready" in group.tail(), "the command to ignore SIGTERM")
        group.end(grace_s=0.1)
        assert group.poll() == -signal.SIGKILL
        group.end()  # a second call is harmless


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_family_dies_with_a_parent_that_dies_by(number, tmp_path):
    log = tmp_path / "log"
    code = f"""
import sys, time
from pathlib import Path
from symmlib.processes import ProcessGroup
group = ProcessGroup([sys.executable, "-c", {FAMILY!r}], log=Path({str(log)!r}))
time.sleep(600)
"""
    parent = subprocess.Popen(python(code), env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        family = family_of(log)
    finally:
        parent.send_signal(number)
        parent.wait()
    until(lambda: gone(family), "the family to end after its parent")


def test_the_command_dies_with_its_supervisor(tmp_path):
    with ProcessGroup(python(STUBBORN), log=tmp_path / "log") as group:
        until(lambda: "ready" in group.tail(), "the command")
        psutil.Process(group.pid).parent().kill()
        until(lambda: gone([group.pid]), "the command to end after its supervisor")


def test_a_time_out_names_the_command_and_shows_the_end_of_its_log(tmp_path):
    with ProcessGroup(python(STUBBORN), log=tmp_path / "log") as group:
        until(lambda: "ready" in group.tail(), "the command")
        with pytest.raises(SymmlibError, match=r"(?s)signal\.SIG_IGN.*did not end within 0.01 s.*ready"):
            group.wait(0.01)
        group.end(grace_s=0)


LISTENING = """
import faulthandler, signal, subprocess, sys, time
faulthandler.register(signal.SIGUSR1)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def sleep_for_ever():
    print("ready", flush=True)
    time.sleep(600)
sleep_for_ever()
"""


def test_a_command_that_hangs_tells_where_and_what_does_not_listen_lives_on(tmp_path):
    with ProcessGroup(python(LISTENING), log=tmp_path / "log") as group:
        until(lambda: "ready" in group.tail(), "the command")
        assert group.dump_stacks(PATIENCE_S) == ""
        assert "in sleep_for_ever" in (tmp_path / "log").read_text()
        assert len(group.members()) == 2 and group.poll() is None  # SIGUSR1 would have ended the child


SEVERAL = """
import faulthandler, os, signal, threading, time
faulthandler.register(signal.SIGUSR1)
for _ in range(3):
    if not os.fork():
        break
def sleep_below(depth):
    sleep_below(depth - 1) if depth else time.sleep(600)
for _ in range(8):
    threading.Thread(target=sleep_below, args=(80,), daemon=True).start()
print("ready\\n", end="", flush=True)  # in one piece: unbuffered output writes a line's end by itself
sleep_below(80)
"""


def test_what_several_processes_tell_does_not_mix(tmp_path):
    with ProcessGroup(python(SEVERAL), log=tmp_path / "log") as group:
        until(lambda: group.tail().count("ready") == 4, "the command and its children")
        group.dump_stacks(PATIENCE_S)
        said = (tmp_path / "log").read_text()
    lines = [line for line in said.splitlines() if line and line != "ready"]
    heads = [line for line in lines if re.fullmatch(r"(Thread|Current thread) 0x\w+ \(most recent call first\):", line)]
    frames = [line for line in lines if re.fullmatch(r'  File "[^"]+", line \d+ in \S+', line)]
    assert (len(heads), len(heads) + len(frames)) == (4 * 9, len(lines))


def test_a_command_that_somebody_stopped_is_named(tmp_path):
    with ProcessGroup(python(STUBBORN), log=tmp_path / "log") as group:
        until(lambda: "ready" in group.tail(), "the command")
        os.kill(group.pid, signal.SIGSTOP)
        stopped = f"; stopped by a signal: process {group.pid}"
        until(lambda: group.dump_stacks(0) == stopped, "the command to stop")
        group.end(grace_s=0)


def test_shared_memory_of_what_is_killed_is_removed_even_if_the_parent_dies(tmp_path):
    memory = Path(f"/dev/shm/psm_test{os.getpid()}")
    code = f"""
import mmap, os, time
with open({str(memory)!r}, "wb+") as file:
    file.truncate(4096)
    held = mmap.mmap(file.fileno(), 4096)
print(os.getpid(), flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        python(
            "import time; from pathlib import Path; from symmlib.processes import ProcessGroup\n"
            f"group = ProcessGroup({python(code)!r}, log=Path({str(tmp_path / 'log')!r})); time.sleep(600)"
        ),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        family = family_of(tmp_path / "log")
        assert memory.exists()
        parent.kill()
        parent.wait()
        until(lambda: gone(family), "the family to end after its parent")
        until(lambda: not memory.exists(), "its memory to go")
    finally:
        memory.unlink(missing_ok=True)


def test_a_command_that_does_not_exist_says_so(tmp_path):
    with pytest.raises(SymmlibError, match="cannot start no-such-command: .*No such file"):
        ProcessGroup(["no-such-command"], log=tmp_path / "log")


def test_a_log_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the log"):
        ProcessGroup(["true"], log=tmp_path / "file" / "log")
