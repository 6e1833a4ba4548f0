"""Results of another load generator in the same tables: GuideLLM's, AIPerf's, or of `vllm bench serve` elsewhere.

Called by `symmlib serve import`. Each file is one arm at one rate in one block; it is kept as
raw/serving/imported/block-1/tp2-gloo/qps-4.json in the layout of `vllm bench serve --save-detailed`, and all tables are
made anew from what lies there. So a file that is imported twice counts once.
"""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from symmlib.analysis import serving as analysis
from symmlib.errors import UsageError
from symmlib.runs import write_json
from symmlib.serving import gates
from symmlib.serving.arms import Arm, require_name
from symmlib.serving.experiment import place_of
from symmlib.serving.external import read
from symmlib.serving.gates import Measurement
from symmlib.serving.results import write_tables
from symmlib.serving.turns import rate_name


def import_results(
    path: Path, out: Path, *, arm: str, tp: int, qps: float, block: int, baseline: str = ""
) -> pd.DataFrame:
    """Add the file `path` to the results in `out` and return the comparison of all that was imported there so far.

    `baseline`: the arm with which all others are compared; by default the one that was imported first. Raises
    `UsageError`, having changed nothing, for a file that cannot be read or holds nothing to compare.
    """
    require_name(arm)
    if tp < 1 or not 1 <= block <= analysis.MAX_BLOCKS or not 0 < qps < 1e6:
        most = f"1 to {analysis.MAX_BLOCKS}"
        raise UsageError(f"tp {tp} must be at least 1, block {block} one of {most}, and qps {qps:g} above 0.")
    result = read(path)
    raw = Path(out) / "raw" / "serving" / "imported"
    if (raw.parent / "experiment.json").exists():
        raise UsageError(f"{out} holds an experiment of symmlib's own. Choose another directory to import into.")
    place = raw / f"block-{block}" / f"tp{tp}-{place_of(arm)}"
    arms = list(dict.fromkeys([*_arms(raw), arm]))
    if shared := [other for other in arms if other != arm and place_of(other) == place_of(arm)]:
        raise UsageError(f"the arm {arm!r} would share its directory with {shared[0]!r}: rename one.")
    baseline = baseline or arms[0]
    if baseline not in arms:
        raise UsageError(f"the baseline {baseline!r} was not imported. There are {', '.join(arms)}.")
    _require_new(_measurements(raw), result, place / f"{rate_name(qps)}.json", path)
    write_json(place / f"{rate_name(qps)}.json", result)
    write_json(place / "arm.json", {"arm": arm, "tp": tp, "block": block})
    write_json(raw / "arms.json", arms)
    pairs = [(baseline, other) for other in arms if other != baseline]
    measured = _measurements(raw)
    checked = gates.check(measured, (gates.no_failed_requests, same_load, rate_asked_for, gates.no_growing_queue))
    return write_tables(measured, checked, pairs, "full", Path(out) / "results")


def same_load(members: list[Measurement]) -> list[tuple[bool, str]]:
    """A block's arms got prompts, and gave answers, of the same mean length within 2 %.

    Not more than that, because other generators repeat neither the order of prompts nor the times of sending.
    """
    means = [member.requests[["input_tokens", "output_tokens"]].replace(0, np.nan).mean() for member in members]
    seen = []
    for member, ours in zip(members, means, strict=True):
        block = [mean for other, mean in zip(members, means, strict=True) if other.block == member.block]
        usual = pd.DataFrame(block).median()
        apart = (ours / usual - 1).abs().max()
        said = f"{ours['input_tokens']:.1f} tokens in and {ours['output_tokens']:.1f} out on average"
        seen.append(
            (not apart > gates.RATE_TOLERANCE, f"{said}; {usual.iloc[0]:.1f} and {usual.iloc[1]:.1f} are usual")
        )
    return seen


def rate_asked_for(members: list[Measurement]) -> list[tuple[bool, str]]:
    """Requests were sent at the rate that the cell is named by, within three standard errors of a Poisson count."""
    seen = []
    for member in members:
        starts = np.array(member.result["start_times"])
        gaps, span_s = len(starts) - 1, float(np.ptp(starts))
        rate = gaps / span_s if span_s else math.nan
        ok = abs(rate / member.qps - 1) <= max(gates.RATE_TOLERANCE, 3 / math.sqrt(max(gaps, 1)))
        seen.append((ok, f"sent {rate:.2f} requests/s where {member.qps:g} were asked for"))
    return seen


def _require_new(measured: list[Measurement], result: dict, target: Path, path: Path) -> None:
    """Refuse what was imported elsewhere: sent at the same times to the last digit, it is the same measurement."""
    for other in measured:
        if other.path != target and other.result["start_times"] == result["start_times"]:
            where = f"block-{other.block} of {other.arm.name!r} at TP={other.tp}, QPS {other.qps:g}"
            raise UsageError(
                f"{path} is {where} already: the same requests count once. If not so, remove {other.path}."
            )


def _arms(raw: Path) -> list[str]:
    try:
        return json.loads((raw / "arms.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def _measurements(raw: Path) -> list[Measurement]:
    """Everything that was imported so far."""
    found = []
    for note in sorted(raw.glob("block-*/tp*-*/arm.json")):
        said = json.loads(note.read_text(encoding="utf-8"))
        for path in sorted(note.parent.glob("qps-*.json")):
            arm = Arm(said["arm"], "vllm-default")
            found.append(Measurement(said["block"], arm, said["tp"], float(path.stem[4:]), path, note.parent / "trace"))
    return found
