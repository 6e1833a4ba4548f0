"""The errors that symmlib raises on purpose; everything else is a defect.

`cli.main` prints one of these as a single line and exits with its `exit_status`; notebooks let it end the cell.
"""


class SymmlibError(Exception):
    """Something a person can act on: the message says what was wrong, with the value, and what to do."""

    exit_status = 1


class UsageError(SymmlibError):
    """The request itself is wrong: an unknown name, a malformed size, a profile with a typo."""

    exit_status = 2


class RanksDisagree(SymmlibError):
    """Ranks of one group hold different tables, or called different operations."""


class RankLost(SymmlibError):
    """A rank died, or did not arrive at an operation within the time allowed."""


def unknown(kind: str, value: str, valid) -> UsageError:
    """`UsageError` for a name that is none of `valid`, with the closest spelling and the whole list."""
    import difflib

    valid = sorted(valid)
    close = difflib.get_close_matches(str(value), valid, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UsageError(f"unknown {kind} {value!r}.{hint} Valid: {', '.join(valid)}.")
