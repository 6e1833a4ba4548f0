"""Runs one command, and ends it with everything it started as soon as the process that asked for it is gone.

`processes.ProcessGroup` starts this file by path, so it uses the standard library only and never imports symmlib:

    python -I -S supervise.py CONTROL STATUS COMMAND...

CONTROL is the reading end of a pipe whose only writing end the parent holds. A line in it ("5.0") asks for an end
within so many seconds; end of file means that the parent died, by whatever cause, and asks for the same. STATUS takes
one line: "pid 123" once the command runs, or "error ..." where it cannot. The exit status is the command's own.

Linux only: as a child subreaper it becomes the parent of every orphan below it, so that no descendant escapes by
starting a session of its own (torchrun's and vLLM's workers do). What they had in /dev/shm and leave there goes, too.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PARENT_DIED_GRACE_S = 5.0
LEFTOVERS_GRACE_S = 2.0  # for what is still there after the command itself has ended
KILL_PATIENCE_S = 10.0  # a process in an uninterruptible wait may outlast SIGKILL; say so rather than wait for ever

# How Python, vLLM and NCCL begin the random names of theirs; a process that is killed leaves them behind.
SHARED_MEMORY = ("/dev/shm/psm_", "/dev/shm/vllm_dist_", "/dev/shm/nccl-")

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(argv: list[str]) -> int:
    control, status, command = int(argv[0]), int(argv[1]), argv[2:]
    wakeup = _wake_on_signals()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getppid()
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            # Should this process be killed, the kernel takes the command along. Safe here: there is one thread.
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.write(status, f"error {error}\n".encode())
        return 127
    os.write(status, f"pid {child.pid}\n".encode())
    os.close(status)
    return _watch(child.pid, control, wakeup, parent)


def _watch(pid: int, control: int, wakeup: int, parent: int) -> int:
    """Wait for the command, or for a reason to end it; then end what is left. Returns the command's exit code."""
    grace = exit_code = None
    while exit_code is None and grace is None:
        grace = _asked_to_end(control, wakeup, parent)
        exit_code = _reap(pid)
    if exit_code is not None:
        _end_descendants(signal.SIGTERM, time.monotonic() + LEFTOVERS_GRACE_S)
        return exit_code
    deadline = time.monotonic() + grace
    _note_memory(_descendants())
    # The group first: torchrun and vLLM then end their own workers in their own order.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
    while exit_code is None and time.monotonic() < deadline:
        select.select([wakeup], [], [], 0.02)
        _note_memory(_descendants())  # what is still starting may make some as it is ended
        exit_code = _reap(pid)
    _end_descendants(signal.SIGTERM, deadline)
    exit_code = _reap(pid) if exit_code is None else exit_code
    return -signal.SIGKILL if exit_code is None else exit_code  # the kernel keeps it still: its end is on its way


_exit_codes: dict[int, int] = {}


def _reap(pid: int) -> int | None:
    """Collect every dead child, adopted orphans included; return the exit code of `pid` once it is known."""
    with contextlib.suppress(ChildProcessError):  # no child left
        while (status := os.waitpid(-1, os.WNOHANG))[0]:
            _exit_codes[status[0]] = os.waitstatus_to_exitcode(status[1])
    return _exit_codes.get(pid)


def _asked_to_end(control: int, wakeup: int, parent: int) -> float | None:
    """Seconds of grace if an end was asked for, else None; returns when a child dies, and once a second anyway."""
    readable, _, _ = select.select([control, wakeup], [], [], 1.0)
    if wakeup in readable and {*os.read(wakeup, 512)} & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
        return PARENT_DIED_GRACE_S
    if control in readable:
        return float(os.read(control, 64).decode().strip() or PARENT_DIED_GRACE_S)
    # A fork of the parent may hold the pipe open after the parent's death; the change of parent still shows it.
    return PARENT_DIED_GRACE_S if os.getppid() != parent else None


def _end_descendants(first: int, deadline: float) -> None:
    """Send `first` to every descendant, and SIGKILL from `deadline` on, until none is left, nor memory of theirs."""
    left = _descendants()
    give_up = max(deadline, time.monotonic()) + KILL_PATIENCE_S
    _signal(left, first)
    while left and time.monotonic() < give_up:
        if time.monotonic() >= deadline:
            _signal(left, signal.SIGKILL)
        _note_memory(left)
        time.sleep(0.02)
        _reap(0)
        left = _descendants()
    for path in () if left else _memory:
        with contextlib.suppress(OSError):
            os.unlink(path)
    if left:
        print(f"supervise: processes {left} outlast SIGKILL; they wait in the kernel", file=sys.stderr, flush=True)


def _descendants() -> list[int]:
    """Every live process below this one, by id."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name in parentheses may itself hold spaces and parentheses: split after the last one.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it ended while we looked
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(entry.name))
    found, frontier = [], [os.getpid()]
    while frontier:
        frontier = [child for parent in frontier for child in children.get(parent, [])]
        found += frontier
    return found


_memory: set[str] = set()


def _note_memory(pids: list[int]) -> None:
    """Remember what these have mapped in /dev/shm under names that are theirs."""
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
            _memory.update(path for line in lines if (path := line.rpartition(" ")[2]).startswith(SHARED_MEMORY))


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _wake_on_signals() -> int:
    """A file descriptor that becomes readable, with the signal's number, whenever one of ours arrives."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reading


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code < 0:  # die of the same signal as the command did, so that the parent sees the same status
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
