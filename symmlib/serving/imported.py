"""Results of another load generator in the same tables: GuideLLM's JSON, or what `vllm bench serve` wrote elsewhere.

Called by `symmlib serve import`. Each file is one arm at one rate in one block; it is kept as
raw/serving/imported/block-1/tp2-gloo/qps-4.json in the layout of `vllm bench serve --save-detailed`, and all tables are
made anew from what lies there. So a file that is imported twice counts once.

Definitions are this suite's (`analysis.serving`). GuideLLM calls "inter_token_latency" of a request what is TPOT here,
and its "time_per_output_token" counts the first token, too. It keeps no single gaps, so there is no ITL.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from symmlib.analysis import serving as analysis
from symmlib.errors import UsageError
from symmlib.runs import write_json
from symmlib.serving import gates
from symmlib.serving.arms import Arm
from symmlib.serving.experiment import place_of
from symmlib.serving.gates import Measurement
from symmlib.serving.run import write_tables
from symmlib.serving.turns import rate_name

_VLLM = ("start_times", "ttfts", "itls", "input_lens", "output_lens", "errors", "duration")
_EXPECTED = "the JSON of `guidellm benchmark` or of `vllm bench serve --save-result --save-detailed`"


def import_results(
    path: Path, out: Path, *, arm: str, tp: int, qps: float, block: int, baseline: str = ""
) -> pd.DataFrame:
    """Add the file `path` to the results in `out` and return the comparison of all that was imported there so far.

    `baseline`: the arm with which all others are compared; by default the one that was imported first. Raises
    `UsageError`, having changed nothing, for a file that cannot be read or holds nothing to compare.
    """
    if not arm.strip() or len(arm) > 60 or not arm.isprintable():
        raise UsageError(f"an arm's name must be a short text, not {arm!r:.80}.")
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
    for other in raw.glob(f"block-*/{place.name}/{rate_name(qps)}.json"):
        if other.parent != place and json.loads(other.read_text(encoding="utf-8")) == result:
            where = f"{other.parents[1].name} of {arm!r}"
            raise UsageError(f"{path} is {where} already: the same requests are no repetition.")
    write_json(place / f"{rate_name(qps)}.json", result)
    write_json(place / "arm.json", {"arm": arm, "tp": tp, "block": block})
    write_json(raw / "arms.json", arms)
    pairs = [(baseline, other) for other in arms if other != baseline]
    measured = _measurements(raw)
    checked = gates.check(measured, (gates.no_failed_requests, gates.no_growing_queue))
    return write_tables(measured, checked, pairs, "full", Path(out) / "results")


def read(path: Path) -> dict:
    """The file as `vllm bench serve --save-detailed` would have written it: times in seconds, a value a request.

    Raises `UsageError` for a file that is no such result, or holds several benchmarks.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}. Give {_EXPECTED}.") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no result. Give {_EXPECTED}.")
    try:
        result = _guidellm(found, path) if "benchmarks" in found else _vllm(found, path)
        requests = analysis.requests(result)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"{path} is not {_EXPECTED}: {error!r}.") from None
    if not (requests["error"] == "").any():
        raise UsageError(f"{path} holds no request that was answered.")
    return result


def _no_number(word: str) -> float:
    raise ValueError(f"it holds {word}")


def _vllm(found: dict, path: Path) -> dict:
    if missing := [name for name in _VLLM if name not in found]:
        raise UsageError(f"{path} has no {', '.join(missing)}: it is not {_EXPECTED}.")
    kept = {name: found[name] for name in (*_VLLM, "latencies") if name in found}
    if len({len(kept[name]) for name in kept if name != "duration"}) != 1:
        raise UsageError(f"{path} has not one entry a request in each of {', '.join(_VLLM[:-1])}.")
    return kept


def _guidellm(found: dict, path: Path) -> dict:
    """From GuideLLM (seen with 0.8.1): one benchmark; requests that it cut off at its end are none."""
    if len(found["benchmarks"]) != 1:
        raise UsageError(
            f"{path} holds {len(found['benchmarks'])} benchmarks; import one rate at a time (guidellm --rate with one)."
        )
    benchmark = found["benchmarks"][0]
    answered, failed = benchmark["requests"]["successful"], benchmark["requests"]["errored"] or []
    rows = []
    for request in answered:
        timings, start = request["info"]["timings"], request["request_start_time"]
        ttft_s = request["time_to_first_token_ms"] / 1000
        rows.append((start, ttft_s, timings["last_token_iteration"] - start, request["prompt_tokens"],
                     request["output_tokens"], ""))  # fmt: skip
    for request in failed:
        rows.append((request["request_start_time"], 0.0, 0.0, request["prompt_tokens"] or 0, 0,
                     str(request["info"].get("error") or "failed")))  # fmt: skip
    rows.sort()
    starts, ttfts, latencies, input_lens, output_lens, errors = (list(column) for column in zip(*rows, strict=True))
    ends = np.array(starts) + np.array(latencies)
    return {
        "start_times": starts, "ttfts": ttfts, "latencies": latencies, "itls": [[] for _ in rows],
        "input_lens": input_lens, "output_lens": output_lens, "errors": errors,
        "duration": float(ends.max() - min(starts)),
    }  # fmt: skip


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
