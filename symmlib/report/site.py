"""One file of the published site: copied without what looks like a secret, and written only where it would change.

Called by `publish`.
"""

import contextlib
import gzip
import html
import io
import os
import re
import stat
import zlib
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from symmlib.redact import Redaction
from symmlib.report.index import MARKS

LEFT_OUT = ".left-out.txt"  # ends the name of the note in the place of a file that is not published
LARGEST_BYTES = 1 << 30  # of one text in memory, decompressed


def copy(source: Path, target: Path, redaction: Redaction) -> str:
    """Copy the file `source`, redacted, to `target`; returns what was changed, in words, or an empty text.

    A file that cannot be read as text is left out; a note stands in its place: `target`'s name with `LEFT_OUT` behind.
    Raises `OSError` if it is no regular file, or cannot be read or written.
    """
    status = source.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for somebody to write
        raise OSError("it is no regular file")
    note = target.with_name(target.name + LEFT_OUT)
    compressed = source.suffix == ".gz"
    data = source.read_bytes() if status.st_size <= LARGEST_BYTES else None
    text, why = (None, f"it has {status.st_size} bytes") if data is None else _text(data, compressed)
    if text is None:
        put(target, None)
        put(note, f"{target.name} was not published: {why}, so nobody looked through it for secrets.\n".encode())
        return f"left out ({why})"
    put(note, None)
    clean, count = redaction(text)
    if count:
        data = clean.encode("utf-8", "surrogateescape")
        data = _compressed(data) if compressed else data
    put(target, data, status)
    return replaced(count) if count else ""


def put(target: Path, data: bytes | None, status: os.stat_result | None = None) -> None:
    """Make `target` hold `data`, with the times of `status`; None: make it not be there. Does nothing if it is so."""
    if data is None:
        target.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not target.is_symlink() and target.read_bytes() == data:
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        if status:
            os.utime(beside, ns=(status.st_atime_ns, status.st_mtime_ns))
        beside.replace(target)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def mended(page: str, place: Path, site: Path, planned: set[Path]) -> str:
    """`page`, to stand at `place`, with every relative link leading to a file of `site`, or to one that is `planned`.

    Where a note is in a file's place, the link leads there; a link that leads to nothing is none any more.
    """

    def mend(match: re.Match) -> str:
        parts = urlsplit(html.unescape(match[2]))
        if parts.scheme or parts.netloc or not parts.path:
            return match[0]
        aim = Path(os.path.normpath(place.parent / unquote(parts.path)))
        if aim.is_relative_to(site):
            if {aim, aim / "index.html"} & planned or aim.is_file():
                return match[0]
            if aim.with_name(aim.name + LEFT_OUT).is_file():
                return f'{match[1]}href="{html.escape(quote(unquote(parts.path) + LEFT_OUT, safe="/"))}"'
        return f"{match[1]}data-not-published"

    return re.sub(r"(<a\b(?:\s[^<>]*?)?\s)href=\"([^\"<>]*)\"", mend, page)


def is_page(path: Path) -> bool:
    """Whether symmlib wrote the HTML file at `path`."""
    return MARKS[0] in path.read_text(encoding="utf-8", errors="replace")


def replaced(count: int) -> str:
    """In words."""
    return f"{count} value{'' if count == 1 else 's'} redacted"


def _text(data: bytes, compressed: bool) -> tuple[str | None, str]:
    """The text in `data`, any stray bytes kept, or None and why there is none."""
    if compressed:
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(LARGEST_BYTES + 1)
        except (OSError, EOFError, zlib.error):
            return None, "it cannot be decompressed"
        if len(data) > LARGEST_BYTES:
            return None, f"it has more than {LARGEST_BYTES} bytes when decompressed"
    if b"\0" in data:
        return None, "it is binary"
    return data.decode("utf-8", "surrogateescape"), ""


def _compressed(data: bytes) -> bytes:
    """As gzip, without a name or a time in it, so that the same text gives the same bytes."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", filename="", mtime=0) as file:
        file.write(data)
    return out.getvalue()
