"""Message sizes as people write them: `64KiB`, `1MiB`, `1KiB:16MiB:x4`; always bytes per rank inside.

Binary units only, because every threshold in this field is a power of two.
"""

import re
from fractions import Fraction

from symmlib.errors import UsageError

UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_size(text: str | int) -> int:
    """Bytes in `text` ('4096', '64KiB', '1.5 MiB'); raises `UsageError` for what is not a whole number of bytes."""
    # Bounded, because Python refuses to read thousands of digits; a fraction, because a float would round.
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]*)\s*", str(text))
    unit = match and {name.lower(): factor for name, factor in UNITS.items()}.get(match[2].lower())
    size = Fraction(match[1]) * unit if unit else 0
    if not size or size.denominator != 1:
        raise UsageError(f"{text!r} is not a message size. Write whole bytes with B, KiB, MiB or GiB, such as 64KiB.")
    return int(size)


def parse_sizes(text: str | list) -> list[int]:
    """Sizes in `text`: a list ('4KiB,64KiB'), a geometric range ('1KiB:16MiB:x4', both ends included), or a mix.

    Returns bytes in ascending order without repeats; raises `UsageError` with the offending part.
    """
    parts = text if isinstance(text, (list, tuple)) else str(text).split(",")
    sizes: set[int] = set()
    for part in parts:
        sizes.update(_expand(part) if isinstance(part, str) and ":" in part else [parse_size(part)])
    return sorted(sizes)


def format_size(size: int) -> str:
    """`size` bytes in the largest unit that keeps it exact: 65536 → '64 KiB', 1000 → '1000 B'."""
    for name in ("GiB", "MiB", "KiB"):
        if size >= UNITS[name] and size % UNITS[name] == 0:
            return f"{size // UNITS[name]} {name}"
    return f"{size} B"


def _expand(part: str) -> list[int]:
    fields = part.split(":")
    factor = fields[2] if len(fields) == 3 else "x2" if len(fields) == 2 else ""
    if not re.fullmatch(r"x[0-9]{1,15}", factor) or int(factor[1:]) < 2:
        raise UsageError(f"{part!r} is not a range of sizes. Write FIRST:LAST:xFACTOR, such as 1KiB:16MiB:x4.")
    first, last = parse_size(fields[0]), parse_size(fields[1])
    if first > last:
        raise UsageError(f"{part!r} runs downwards: put the smaller size first.")
    sizes = [first]
    while sizes[-1] * int(factor[1:]) <= last:
        sizes.append(sizes[-1] * int(factor[1:]))
    return [*sizes, last]
