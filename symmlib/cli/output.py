"""Where a command's results go, and how it prints them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

TRIAL_BYTES = 16 << 10  # a file without content can be made on a disk that is full


@contextlib.contextmanager
def output(out: Path | None, name: str, parameters: dict[str, dict]) -> Iterator[Path]:
    """`out`, tried now so that a place that cannot be written costs no measurement; else the directory of a new run.

    `parameters`: the one notebook that does the same, and its parameters, so that the new run can be repeated.
    """
    from symmlib import profiles
    from symmlib.runs import Run, write_text

    if out is not None:
        trial = out / ".writable"
        try:
            write_text(trial, " " * TRIAL_BYTES)
        finally:
            with contextlib.suppress(OSError):
                trial.unlink()
        yield out
        return
    profile = profiles.parse({"name": name, "parameters": parameters}, f"symmlib {name}")
    (step, settings), *_ = profile.parameters.items()
    run = Run.create(profile)
    try:
        with run.executing(), run.step(step, settings):
            yield run.path
    finally:
        run.finish()


def print_banner(summary) -> None:
    """What has to stand beside the numbers of ranks that shared a GPU."""
    from symmlib.analysis import words

    if banner := words.banner(summary["device"]):
        print(f"\n{banner}")


def short(path: Path) -> str:
    """`path` as one would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def digits(number: float) -> str:
    """`number` with three significant digits, or all that stand before the point."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:#.3g}".rstrip(".")
