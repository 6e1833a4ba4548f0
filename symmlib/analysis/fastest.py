"""Which all-reduce is the fastest, out of the micro-benchmark's summary, and in a sentence.

Used by `verdicts`, the figures and the page, so that a title and a sentence mean the same by "fastest" and by "level".
"""

import math

import pandas as pd

from symmlib.analysis import words
from symmlib.sizes import format_size

HEADLINE_BYTES = 64 * 1024  # an all-reduce of one decode step: 8 tokens of a 4096-wide model in bf16
INCUMBENTS = ("gloo", "nccl")  # what a plain torch.distributed program would use
LEVEL = 0.03  # times closer than 3 % count as equal, as where routes are derived


def usable(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows whose times count: timed, with status `ok`, and no sum found wrong."""
    return summary[(summary.status == "ok") & summary.median_us.notna() & ~(summary.wrong.fillna(0) > 0)]


def level(rows: pd.DataFrame) -> pd.DataFrame:
    """Of usable `rows` of one size, those less than 3 % slower than the fastest; the fastest first."""
    return rows[rows.median_us < rows.median_us.min() * (1 + LEVEL)].sort_values("median_us", kind="stable")


def by_size(rows: pd.DataFrame) -> pd.DataFrame:
    """The fastest of usable `rows` at each size, in order of size; of those level, the one that stays it longest."""
    levels = [level(group).set_index("backend", drop=False) for _, group in rows.groupby("bytes")]
    chosen: list[pd.Series] = []
    while len(chosen) < len(levels):
        ahead = levels[len(chosen) :]
        lengths = {
            name: next((length for length, names in enumerate(ahead) if name not in names.index), len(ahead))
            for name in ahead[0].index
        }
        name = max(lengths, key=lengths.get)
        chosen += [names.loc[name] for names in ahead[: lengths[name]]]
    return pd.DataFrame(chosen)


def per_setting(summary: pd.DataFrame | None) -> list[dict]:
    """Per (world size, dtype, mode) the fastest backend (`by_size`) at 64 KiB, or at the measured size next to it.

    Keys: `backend`, `size` (in words), `bytes`, `time_us`, `setting` ('8 ranks', with dtype and mode where these differ
    in `summary`), `launches`, `others` (backend -> time in µs), `level` (the names of those of the others that are
    `level` with it).
    """
    if summary is None or summary.empty:
        return []
    found = []
    differ = [name for name in ("dtype", "mode") if summary[name].nunique() > 1]
    for (world_size, dtype, mode), group in usable(summary).groupby(["world_size", "dtype", "mode"]):
        more = [{"dtype": dtype, "mode": f"{mode} mode"}[name] for name in differ]
        nbytes = int(min(group.bytes.unique(), key=lambda value: abs(math.log(value / HEADLINE_BYTES))))
        here = group[group.bytes == nbytes].sort_values("median_us", kind="stable")
        times = {row.backend: float(row.median_us) for row in here.itertuples()}
        best = by_size(group).set_index("bytes").backend[nbytes]
        found.append(
            {
                "backend": best,
                "size": format_size(nbytes),
                "bytes": nbytes,
                "time_us": times.pop(best),
                "setting": f"{world_size} ranks" + (f" ({', '.join(more)})" if more else ""),
                "launches": int(group.launches.max()),
                "others": times,
                "level": [name for name in level(here).backend if name != best],
            }
        )
    return found


def headline(summary: pd.DataFrame | None) -> str:
    """The answer in a line, where nothing was served: the fastest at one size, by setting where that differs."""
    settings = per_setting(summary)
    if not settings:
        return "Nothing was measured"
    places: dict[tuple[str, str], list[str]] = {}  # (size, the fastest) -> where that is so
    for best in settings:
        places.setdefault((best["size"], words.listed([best["backend"], *best["level"]])), []).append(best["setting"])
    (size, names), *others = places
    if not others:
        return f"Fastest all-reduce at {size}: {names}"
    told = [f"{names} on {words.listed(where)}" for (_, names), where in places.items()]
    return f"Fastest all-reduce at {size}: {'; '.join(told)}"


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
        level_with = f"; {words.listed(best['level'])} within 3 % of that" if best["level"] else ""
        lines.append(
            f"{best['backend']} sums {best['size']} over {best['setting']} in "
            f"{words.microseconds(best['time_us'])}{', ' if than else ''}{than}{level_with} "
            f"(median, {best['launches']} launch{'' if best['launches'] == 1 else 'es'})."
        )
    return lines or ["No all-reduce ran; the report says why for each backend."]
