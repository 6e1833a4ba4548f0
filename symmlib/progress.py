"""One plain line at a time that tells a person what is running and how much is left.

The same line suits a terminal, a notebook and a log; `live.live` adds a status that is updated in place. Processes that
a run starts inherit its clock and the name of its step, so the elapsed times of all of them read as one story.
"""

import contextlib
import os
import re
import time

CLOCK = "SYMMLIB_CLOCK"  # CLOCK_MONOTONIC at the start of the run, in seconds: one clock for all processes of a host
STEP = "SYMMLIB_STEP"  # the notebook that is running, such as 02_allreduce
STATUS = "SYMMLIB_STATUS"  # the file through which a notebook passes its live status to the run that executes it

_loaded = time.monotonic()
room = contextlib.nullcontext  # around a printed line; a live status steps aside in it


def say(text: str) -> None:
    """Print one flushed line: elapsed time, the running step, `text`; such as `[ 1:23] 02_allreduce: launch 2 of 3`."""
    print_line(line(text))


def print_line(text: str) -> None:
    """Print `text` and a line's end above the live status, if there is one; what cannot be printed is left out."""
    # A full disk, or a reader that has left, must not end what is running; nor a standard output that was closed.
    with room(), contextlib.suppress(OSError, ValueError):
        print(text, flush=True)


def line(text: str) -> str:
    """`text` as `say` prints it: with the elapsed time and the running step."""
    return f"[{_clock(elapsed_s())}] {in_step(text)}"


def in_step(text: str) -> str:
    """`text` with the running step's name before it, if there is one."""
    step = os.environ.get(STEP)
    return f"{step}: {text}" if step else text


def elapsed_s() -> float:
    """Seconds since the run started, or since this module was loaded where there is no run."""
    try:
        return time.monotonic() - float(os.environ.get(CLOCK, _loaded))
    except ValueError:  # somebody else's variable
        return time.monotonic() - _loaded


def start_clock() -> None:
    """Count from now, here and in every process started from here."""
    os.environ[CLOCK] = repr(time.monotonic())


def enter_step(name: str) -> None:
    """Name the step in front of every following line, here and in every process started from here."""
    os.environ[STEP] = name


def is_line(text: str) -> bool:
    """Whether `text` is a line that `say` printed."""
    return re.match(r"\[ ?\d+(:\d\d){1,2}\] ", text) is not None


def duration(seconds: float) -> str:
    """`seconds` as people say them: '40 s', '3 min', '2 h 10 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes:2}:{rest:02}"
