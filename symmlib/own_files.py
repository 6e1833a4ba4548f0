"""A run's directory holds its files itself, which matters where it came from somebody else.

A link among them could make a report show, or a resumed run write, what lies elsewhere on this machine. Called by
`runs` and `report` before they look into a run.
"""

import os
import stat
from pathlib import Path

from symmlib.errors import UsageError


def require_own_files(run: Path) -> None:
    """Raise `UsageError` for a symbolic link that leads out of the directory `run`, and for a pipe or device in it."""
    root = Path(run).resolve()
    for directory, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = Path(directory, name)
            try:
                mode = path.lstat().st_mode
            except OSError:  # gone meanwhile, as half of a file that was being written
                continue
            if stat.S_ISLNK(mode) and not _aim(path).is_relative_to(root):
                raise UsageError(
                    f"{path} is a link that leads out of the run. Put there what is to be read, or remove it."
                )
            if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                raise UsageError(f"{path} is a pipe or a device, which no run has. Remove it.")


def _aim(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # a link to itself
        return link.parent
