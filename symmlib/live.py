"""A status that is updated in place while something long runs: what is running, how far it is, the time left.

    with live() as status:
        status.update("block 2 of 3, router, TP=2, 4 requests/s: 12 of 28 requests", left_s=95)

On a terminal it is the last line, below the lines that `say` prints meanwhile. In a notebook it is the first output of
its cell, in bold while it runs. In a log it is a plain line now and then. A notebook that `symmlib run` executes passes
it through a small file to that process, which shows it in its own place, so that the executed notebook keeps only how
it ended.

Measurements and `notebooks.execute` use it. An update costs at most the printing of a line, and never raises.
"""

import contextlib
import html
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from symmlib import progress

LOG_S = 15  # without any line in a log before a status becomes one
ERASE = "\r\x1b[K"
ECHO = len("^C")  # what a terminal writes behind the status when somebody presses that


class Status:
    """What is shown now. Made by `live`, where it is shown decides which of the classes below it is."""

    every_s = 0.0  # between two statuses that differ in numbers only; one that differs in words is shown at once

    def __init__(self) -> None:
        self.text = ""  # what runs, without the time left
        self.left = ""
        self._shown = ""
        self._shown_at = time.monotonic()

    def update(self, text: str, left_s: float | None = None) -> None:
        """Show `text`, in a line, and the time left if that is known and at least 1 s; an empty text shows nothing."""
        self.text = " ".join(text.split())
        # An estimate that has run out says nothing any more.
        self.left = f", about {progress.duration(left_s)} left" if text and left_s and left_s >= 1 else ""
        form = self._form()
        waited = time.monotonic() - self._shown_at >= self.every_s
        if form != self._shown and (waited or self._words(form) != self._words(self._shown)):
            self._show(form)

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Where a line is printed meanwhile (`progress.print_line`)."""
        yield

    def end(self, stopped: bool) -> None:
        """Called once by `live`; `stopped`: by an error or Ctrl-C."""

    def _form(self) -> str:
        return progress.line(self.text + self.left) if self.text else ""

    def _show(self, form: str) -> None:
        self._shown, self._shown_at = form, time.monotonic()
        self._write(form)

    def _write(self, form: str) -> None:
        raise NotImplementedError

    def _words(self, form: str) -> str:
        return re.sub(r"[\d:.]+", "", form)

    def _how_it_ended(self, stopped: bool) -> str:
        return f"stopped at: {self.text}" if stopped else self.text


class _Terminal(Status):
    """The last line of a terminal, drawn over itself."""

    every_s = 0.2

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        if self._shown:
            self._write("")
        yield
        if self._shown:
            self._write(self._shown)

    def end(self, stopped: bool) -> None:
        if self._shown:
            self._write("")
        if stopped and self.text:
            progress.say(self._how_it_ended(stopped))

    def _write(self, form: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(ERASE + _cut(form, _columns() - 1 - ECHO))
            sys.stdout.flush()


class _Kernel(Status):
    """The first output of a notebook's cell, replaced in place; lines come below it."""

    every_s = 1.0

    def __init__(self) -> None:
        super().__init__()
        self._handle = None

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        if self._handle is None:
            self._write("")  # takes the place above
        yield

    def end(self, stopped: bool) -> None:
        if self.text:
            self._display({"text/plain": progress.line(self._how_it_ended(stopped))})

    def _write(self, form: str) -> None:
        self._display({"text/html": f'<b role="status">{html.escape(form)}</b>', "text/plain": form})

    def _display(self, data: dict[str, str]) -> None:
        from IPython.display import display

        with contextlib.suppress(Exception):  # a front end that has left must not end what is running
            if self._handle is None:
                self._handle = display(data, raw=True, display_id=True)
            else:
                self._handle.update(data, raw=True)


class _Passed(_Kernel):
    """A file that `notebooks.execute` reads; in the executed notebook only how it ended."""

    every_s = 0.0

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def end(self, stopped: bool) -> None:
        self._pass("")
        if stopped and self.text:
            progress.say(self._how_it_ended(stopped))
        elif _in_kernel():
            super().end(stopped)

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        yield

    def _form(self) -> str:
        return progress.in_step(self.text + self.left) if self.text else ""  # the reader's line has the time

    def _show(self, form: str) -> None:
        self._shown = form
        self._pass(form)

    def _pass(self, form: str) -> None:
        beside = self._file.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            beside.write_text(form, encoding="utf-8")
            beside.replace(self._file)  # so that half a line is never read


class _Log(Status):
    """A plain line, if nothing else was printed for a while."""

    every_s = LOG_S

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        yield
        self._shown_at = time.monotonic()

    def end(self, stopped: bool) -> None:
        if stopped and self.text:
            progress.say(self._how_it_ended(stopped))

    def _form(self) -> str:
        return self.text + self.left if self.text else self._shown

    def _words(self, form: str) -> str:
        return ""

    def _write(self, form: str) -> None:
        progress.say(form)


@contextlib.contextmanager
def live() -> Iterator[Status]:
    """Show a status until the block ends; if it ends by an error or Ctrl-C, a last line says where that was."""
    status = _status()
    before, progress.room = progress.room, status.room
    stopped = True
    try:
        yield status
        stopped = False
    finally:
        progress.room = before
        status.end(stopped)


def passed(file: Path) -> str:
    """The status that a process whose `progress.STATUS` names `file` shows now; empty if none."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _status() -> Status:
    if file := os.environ.get(progress.STATUS):
        return _Passed(Path(file))
    if _in_kernel():
        return _Kernel()
    return _Terminal() if _on_terminal() else _Log()


def _in_kernel() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def _on_terminal() -> bool:
    with contextlib.suppress(AttributeError, ValueError):  # no standard output, or a closed one
        return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return False


def _cut(text: str, columns: int) -> str:
    """`text` in so many columns, since a second row would stay there; less of its middle: counts stand at its end."""
    if len(text) <= columns:
        return text
    head = columns // 3
    return f"{text[:head]}...{text[len(text) - (columns - head - 3) :]}" if columns > 10 else ""


def _columns() -> int:
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    return 80
