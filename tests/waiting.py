"""How long tests wait for what takes seconds on an idle machine; a busy one may be ten times as slow, and no defect."""

import time

import psutil

PATIENCE_S = 900
RUN_S = 2700  # for a whole run


def until(condition, what: str):
    """The first value of `condition()` that is true; `what` says in a failure what was waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.01)
    return value


def gone(pids: list[int]) -> bool:
    """Whether none of these processes runs any more; one that waits to be collected does not."""
    return not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
