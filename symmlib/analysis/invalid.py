"""Why measurements do not count: which gates failed, how often, how badly, and what to do about it, in short.

Used by `verdicts` and by the index of runs; `results/gates.csv` lists every failure.
"""

import re
import textwrap
from collections.abc import Iterable

import pandas as pd

from symmlib.analysis import words

CALM = "Measure on a machine that does nothing else, or at lower rates"
REMEDIES = {  # the gates of `symmlib.serving.gates`, as gates.csv names them
    "no failed requests": "Look for the error in the arm's server.log, below raw/serving",
    "same schedule": "Measure all arms of a block with the same versions and the same seed",
    "sent on time": CALM,
    "achieved rate": CALM,
    "no growing queue": "Choose rates that the server can keep up with: above them, latencies tell when one stopped",
    "no throttling": "Cool the GPUs, or look for what else draws on their power",
    "intended all-reduce": "Look in the arm's server.log, below raw/serving, for what its all-reduce could not serve",
}
REASON_CHARACTERS = 110


def failures(gates: pd.DataFrame | None, notes: Iterable[str] = ()) -> str:
    """'gate “same schedule” failed in 9 measurements (at worst: ... 1258 ms ...) and gate “achieved rate” in 2'.

    From the rows of `gates` (columns of gates.csv) that are invalid, one a measurement; without such, from the `notes`
    of the comparison ('gate: reason'), which cannot be counted. Empty if neither says anything.
    """
    found, counted = _by_gate(gates, notes)
    told = []
    for gate, reasons in found.items():
        worst = f" ({_worst(reasons)})" if not told else ""
        count = f" in {len(reasons)}" if counted else ""
        unit = f" measurement{'' if len(reasons) == 1 else 's'}" if counted and not told else ""
        told.append(f"gate “{gate}”{'' if told else ' failed'}{count}{unit}{worst}" if gate else _worst(reasons))
    return words.listed(told)


def remedies(gates: pd.DataFrame | None, notes: Iterable[str] = ()) -> str:
    """What to do about it, a sentence for each different remedy."""
    found, _ = _by_gate(gates, notes)
    return " ".join(f"{what}." for what in dict.fromkeys(REMEDIES.get(gate, "Mend that first") for gate in found))


def _by_gate(gates: pd.DataFrame | None, notes: Iterable[str]) -> tuple[dict[str, list[str]], bool]:
    """Reasons by gate, the gate that failed most often first; and whether there is one for each measurement."""
    found: dict[str, list[str]] = {}
    failed = [] if gates is None else list(gates[gates.status == "invalid"][["gate", "reason"]].itertuples(index=False))
    for gate, reason in failed or [_split(note) for note in dict.fromkeys(filter(None, notes))]:
        found.setdefault(gate, []).append(reason)
    return dict(sorted(found.items(), key=lambda item: -len(item[1]))), bool(failed)


def _split(note: str) -> tuple[str, str]:
    gate, colon, reason = note.partition(": ")
    return (gate, reason) if colon and gate in REMEDIES else ("", note)


def _worst(reasons: list[str]) -> str:
    """The reason with the most milliseconds in it, or else the first, without what it says of nothing ('0 ...')."""
    delays = [max(map(int, re.findall(r"(\d+) ms\b", reason)), default=-1) for reason in reasons]
    reason = reasons[delays.index(max(delays))]
    clauses = [clause for clause in reason.split("; ") if not clause.startswith("0 ")]
    short = textwrap.shorten("; ".join(clauses) or reason, REASON_CHARACTERS, placeholder=" …")
    if len(set(reasons)) == 1:
        return short
    return f"{'at worst' if max(delays) >= 0 else 'such as'}: {short}"
