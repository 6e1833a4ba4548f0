"""Sees what code does to the machine while it reads something hostile: files that it writes, programs that it starts.

By Python's audit hooks, which cannot be removed: one hook that does nothing unless `watch` is active.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

QUERIES = ({"git"}, {"lscpu"}, {"nvidia-smi"})  # the programs that a manifest asks, with arguments of our own
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_BY_PLACE = {"os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.symlink": (1,)}
_BY_PLACE |= {"os.link": (1,), "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "shutil.rmtree": (0,)}
_STARTING = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")

_seen: list[str] | None = None
_inside = ""


@contextlib.contextmanager
def watch(directory: Path) -> Iterator[None]:
    """Raise `AssertionError` at the end if something outside `directory` was written, or a program was started."""
    global _seen, _inside
    _seen, _inside = [], os.path.realpath(directory)
    try:
        yield
    finally:
        seen, _seen = _seen, None
    assert not seen, f"reached beyond {directory}: {seen}"


def _hook(event: str, arguments: tuple) -> None:
    if _seen is None:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = set(mode or "") & set("wax+") or flags & _WRITING
        if writes and not isinstance(path, int):
            _note(event, path)
    elif event in _BY_PLACE:
        for number in _BY_PLACE[event]:
            _note(event, arguments[number])
    elif event == "subprocess.Popen":
        if {os.path.basename(os.fspath(arguments[0]))} not in QUERIES:
            _seen.append(f"{event} {arguments[:2]!r:.200}")
    elif event in _STARTING or event == "socket.connect":
        _seen.append(f"{event} {arguments!r:.200}")


def _note(event: str, path) -> None:
    if isinstance(path, int):
        return
    place = os.path.realpath(os.fsdecode(path))
    caches = "__pycache__" in place or place in (os.devnull,) or "/.cache/matplotlib" in place
    if not caches and place != _inside and not place.startswith(_inside + os.sep):
        _seen.append(f"{event} {place!r:.200}")


sys.addaudithook(_hook)
