"""Which all-reduce is the fastest, out of the micro-benchmark's summary, and in a sentence.

Used by `verdicts` and by the figures; a backend whose sums were wrong is never the fastest.
"""

import math

import pandas as pd

from symmlib.analysis import words
from symmlib.sizes import format_size

HEADLINE_BYTES = 64 * 1024  # an all-reduce of one decode step: 8 tokens of a 4096-wide model in bf16
INCUMBENTS = ("gloo", "nccl")  # what a plain torch.distributed program would use
LEVEL = 0.03  # times closer than 3 % count as equal, as where routes are derived


def per_setting(summary: pd.DataFrame | None) -> list[dict]:
    """Per (world size, dtype, mode) the fastest correct backend at 64 KiB, or at the measured size next to it.

    Keys: `backend`, `size` (in words), `bytes`, `time_us`, `world_size`, `launches`, `others` (backend -> time in µs),
    `level` (those of the others that are less than 3 % slower).
    """
    if summary is None or summary.empty:
        return []
    right = summary[summary.median_us.notna() & ~(summary.wrong.fillna(0) > 0)]
    found = []
    for (world_size, _dtype, _mode), group in right.groupby(["world_size", "dtype", "mode"]):
        nbytes = int(min(group.bytes.unique(), key=lambda value: abs(math.log(value / HEADLINE_BYTES))))
        medians = group[group.bytes == nbytes].set_index("backend").median_us.sort_values(kind="stable")
        others = {name: float(value) for name, value in medians.iloc[1:].items()}
        time_us = float(medians.iloc[0])
        found.append(
            {
                "backend": medians.index[0],
                "size": format_size(nbytes),
                "bytes": nbytes,
                "time_us": time_us,
                "world_size": int(world_size),
                "launches": int(group.launches.max()),
                "others": others,
                "level": [name for name, value in others.items() if value < time_us * (1 + LEVEL)],
            }
        )
    return found


def sentences(summary: pd.DataFrame | None) -> list[str]:
    """Warnings of wrong sums, then the fastest per setting, compared with the incumbent and with vLLM's own."""
    if summary is None or summary.empty:
        return []
    wrong = summary[summary.wrong.fillna(0) > 0]
    lines = []
    for backend, rows in wrong.groupby("backend"):
        sizes = words.listed(format_size(int(size)) for size in sorted(rows.bytes.unique()))
        lines.append(f"{backend} gave wrong sums (at {sizes}): do not use it before that is mended.")
    for best in per_setting(summary):
        others = best["others"]
        peers = [name for name in INCUMBENTS if name in others] + [name for name in others if name.startswith("vllm/")]
        peers = [name for name in peers if name not in best["level"]]
        than = words.listed(f"{words.times(others[name] / best['time_us'])} faster than {name}" for name in peers[:3])
        level = f"; {words.listed(best['level'])} within 3 % of that" if best["level"] else ""
        lines.append(
            f"{best['backend']} sums {best['size']} over {best['world_size']} ranks in "
            f"{words.microseconds(best['time_us'])}{', ' if than else ''}{than}{level} "
            f"(median, {best['launches']} launch{'' if best['launches'] == 1 else 'es'})."
        )
    return lines or ["No all-reduce ran; the report says why for each backend."]
