"""Commands that the suite starts, and the certainty that they end with it.

Everything that symmlib starts (torchrun, vLLM, papermill) goes through `ProcessGroup`. Between the two stands a small
supervisor (`supervise.py`) that holds a pipe to this process: when this process ends, even by SIGKILL, the pipe closes
and the supervisor ends the command and all of its descendants, by id.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from symmlib.errors import SymmlibError, UsageError

STACKS = signal.SIGUSR1  # on which our processes write their Python stacks (faulthandler.register)
COMPILES_AGAIN = "PYTHONDONTWRITEBYTECODE"
"""Many images set this and come without bytecode: each rank and each process of a server would then compile all that it
imports, 21 s of CPU where 9 do (docs/serving-experiments.md). So the first one may keep it for the others.
"""
STILL_LOOKS = 10  # at a log of the same size, 20 ms apart: on a busy machine a process is interrupted while it writes
_SUPERVISOR = Path(__file__).with_name("supervise.py")


class ProcessGroup:
    """A command and everything it starts, running from construction until its own end or `end()`.

    `argv`: the command; its output and error stream both go to the file `log` (made anew, with its directories).
    `env`: changes to this process's environment; a value of None takes a variable away. PYTHONDONTWRITEBYTECODE is
    taken away in any case (`COMPILES_AGAIN`).
    `cwd`: where it runs; here by default.
    `pid` is the command's process id, and that of its process group.

    Raises `SymmlibError` if the command cannot be started, `UsageError` if the log cannot be written. Use it as a
    context manager: leaving it ends the group whatever happens.
    """

    def __init__(
        self,
        argv: list[str],
        *,
        log: Path,
        env: dict[str, str | None] | None = None,
        cwd: Path | None = None,
    ):
        self.argv = [str(part) for part in argv]
        self.log = Path(log)
        environment = {**os.environ, **(env or {}), COMPILES_AGAIN: None}
        environment = {name: str(value) for name, value in environment.items() if value is not None}
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            output = open(self.log, "wb")  # noqa: SIM115 - closed below, once the supervisor holds it
        except OSError as error:
            raise UsageError(f"cannot write the log {self.log}: {error.strerror}. Choose another directory.") from None
        control, writing = os.pipe()
        reading, status = os.pipe()
        # A file object, so that dropping the last reference to this group ends it as well.
        self._control = os.fdopen(writing, "wb", buffering=0)
        try:
            with output:
                self._supervisor = subprocess.Popen(
                    # -I -S: nothing of the user's Python set-up may get between us and a clean end.
                    [sys.executable, "-I", "-S", str(_SUPERVISOR), str(control), str(status), *self.argv],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=cwd,
                    pass_fds=(control, status),
                    # A group, so that Ctrl-C reaches us only and we end it in order. Not a session: Linux schedules
                    # sessions against each other (sched(7), 'autogroup'), and there a server's workers that wait by
                    # sched_yield were seen to keep the load generator off its core for a second at a time.
                    process_group=0,
                )
        finally:
            os.close(control)
            os.close(status)
        with os.fdopen(reading) as lines:
            word, _, rest = lines.readline().strip().partition(" ")
        if word != "pid":
            self.end(0)
            raise SymmlibError(f"cannot start {self.command}: {rest or self.tail(5) or 'the supervisor failed'}.")
        self.pid = int(rest)

    @property
    def command(self) -> str:
        """The command line as one would type it, shortened to fit a message."""
        line = shlex.join(self.argv)
        return line if len(line) <= 200 else f"{line[:197]}..."

    def poll(self) -> int | None:
        """None while the command runs, then its exit status; -N if signal N ended it."""
        return self._supervisor.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the command's end and return its exit status; after `timeout_s` raise `SymmlibError`.

        A time-out leaves the command running: `end` it, or leave the context.
        """
        try:
            return self._supervisor.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise SymmlibError(
                f"{self.command} did not end within {timeout_s:g} s. The end of its log {self.log}:\n{self.tail()}"
            ) from None

    def end(self, grace_s: float = 10, meanwhile: Callable[[], None] = lambda: None) -> None:
        """SIGTERM to the group; after `grace_s` seconds SIGKILL to it and all its descendants. Safe to call again.

        `meanwhile` is called again and again until the last of them is gone.
        """
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended, or was asked before
            self._control.write(f"{grace_s}\n".encode())
        self._control.close()
        deadline = time.monotonic() + grace_s + 20  # the supervisor's own patience with SIGKILL is 10 s
        while self._supervisor.poll() is None:
            if time.monotonic() > deadline:
                self._supervisor.kill()
                self._supervisor.wait()
            meanwhile()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(0.01)

    def members(self) -> list[int]:
        """The process ids of the command and all that it started, orphans included; empty once it has ended."""
        with contextlib.suppress(psutil.Error):
            return [process.pid for process in psutil.Process(self._supervisor.pid).children(recursive=True)]
        return []

    def dump_stacks(self, wait_s: float = 3) -> str:
        """Have all that hang write their Python stacks into the log, before they are ended.

        Asked are those that listen, by `faulthandler.register(STACKS)`: the signal would end any other. Returns words
        on those that somebody has stopped and that can therefore say nothing, to follow in a message; else ''.
        """
        halted, deadline = [], time.monotonic() + wait_s
        for pid in self.members():
            with contextlib.suppress(psutil.Error, OSError):
                if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                    halted.append(pid)
                elif _catches(pid, STACKS):
                    written = self.log.stat().st_size
                    os.kill(pid, STACKS)
                    self._hear(written, deadline)  # what several write at once into one log nobody can read
        return f"; stopped by a signal: process {', '.join(map(str, halted))}" if halted else ""

    def tail(self, lines: int = 20) -> str:
        """The last `lines` lines of the log, read from its end only: server logs grow large."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 400 * lines))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def first_error(self) -> str:
        """The first line of the log that names an error, without what logging put before it; else empty.

        What follows a first error is mostly its consequences.
        """
        with contextlib.suppress(OSError), open(self.log, errors="replace") as log:
            for line in log:
                if found := re.search(r"(?:^|[\s\]])((?:\w+\.)*\w*(?:Error|Exception)(?:: .*))", line):
                    return found[1].strip()[:500]
        return ""

    def _hear(self, written: int, deadline: float) -> None:
        """Wait until stacks stand behind the log's first `written` bytes, and it has stopped to grow."""
        size, looks = -1, 0
        with open(self.log, "rb") as log:
            while time.monotonic() < deadline and looks < STILL_LOOKS:
                log.seek(written)
                said = log.read()
                looks = looks + 1 if b"Current thread 0x" in said and size == len(said) else 0
                size = len(said)
                time.sleep(0.02)

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(self, *exception) -> None:
        self.end()


def _catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal (proc_pid_status(5), SigCgt)."""
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(found and int(found[1], 16) >> (number - 1) & 1)
