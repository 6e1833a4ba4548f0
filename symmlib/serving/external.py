"""Files of load generators, all in the layout that `vllm bench serve --save-detailed` writes. Called by `imported`.

Definitions are this suite's (`analysis.serving`), and each generator has its own words:

                 TTFT                  TPOT                    ITL                   end of E2EL
    vLLM         ttft                  tpot                    itl (gaps)            last chunk with a token
    GuideLLM     time_to_first_token   inter_token_latency     not kept              last_token_iteration
    AIPerf       time_to_first_token   inter_token_latency     inter_chunk_latency   last chunk with text

GuideLLM's "time_per_output_token" counts the first token, too, and its "request_latency" ends with the connection:
neither is used. AIPerf's latencies are those of chunks with text: a last token without any ends none.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from symmlib.analysis import serving as analysis
from symmlib.errors import UsageError

_VLLM = ("start_times", "ttfts", "itls", "input_lens", "output_lens", "errors", "duration")
_TIMES = ("start_times", "ttfts", "latencies")
MOST = 1e12  # of any number there: seconds since 1970 are some 2e9
_EXPECTED = (
    "the JSON of `guidellm` or of `vllm bench serve --save-result --save-detailed`, or AIPerf's profile_export.jsonl"
)
_STREAMED = "the generator must stream answers, or it cannot see a first token"


def read(path: Path) -> dict:
    """The file as `vllm bench serve --save-detailed` would have written it: times in seconds, a value a request.

    Requests that were cut off because the measurement was over are left out; failed ones have no output tokens, and
    an error. Raises `UsageError`, which names the file, for one that is no such result.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text. Give {_EXPECTED}.") from None
    found, layout = _recognize(text, path)
    try:
        result = layout(found, path)
        if any(None in result.get(name, ()) for name in _TIMES):
            raise UsageError(f"{path} lacks a time of some of its requests.")
        if strange := _strange(result):
            raise ValueError(strange)
        requests = analysis.requests(result)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is not {_EXPECTED}: {said}.") from None
    if not (requests["error"] == "").any():
        raise UsageError(f"{path} holds no request that was answered.")
    return result


def _strange(result: dict) -> str:
    """What in `result` is not of its kind, so that no table could be made of it; empty where all is."""
    numbers = {name: result[name] for name in (*_TIMES, "input_lens", "output_lens") if name in result}
    numbers |= {"duration": [result["duration"]]} | {"itls": []}
    for gaps in result["itls"]:
        if not isinstance(gaps, list):
            return f"itls holds {gaps!r:.40}, which is no list"
        numbers["itls"] += gaps
    for name, values in numbers.items():
        for value in values:
            if not isinstance(value, int | float) or not 0 <= value < MOST:
                return f"{name} holds {value!r:.40}, which is no number from 0 to {MOST:g}"
    texts = (value for value in result["errors"] if not isinstance(value, str))
    return next((f"errors holds {value!r:.40}, which is no text" for value in texts), "")


def _recognize(text: str, path: Path) -> tuple[object, Callable]:
    """What the file holds, and the function that knows its layout."""
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        lines = text.splitlines()
        try:
            rows = [json.loads(line, parse_constant=_no_number) for line in lines if line.strip()]
        except (ValueError, RecursionError):
            rows = []
        if rows and all(isinstance(row, dict) and "metadata" in row for row in rows):
            return rows, _aiperf
        raise UsageError(f"{path} is no JSON: {error}. Give {_EXPECTED}.") from None
    if isinstance(found, dict):
        if "aiperf_version" in found:
            raise UsageError(
                f"{path} is AIPerf's summary. Give profile_export.jsonl beside it, which has the requests."
            )
        if {"metadata", "metrics"} <= set(found):
            return [found], _aiperf  # JSON lines of a single request
        return found, _guidellm if "benchmarks" in found else _vllm
    raise UsageError(f"{path} holds no result. Give {_EXPECTED}.")


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
    """GuideLLM's report (seen with 0.8.1)."""
    if len(found["benchmarks"]) != 1:
        raise UsageError(
            f"{path} holds {len(found['benchmarks'])} benchmarks; import one rate at a time (a run of guidellm each)."
        )
    kept = found["benchmarks"][0]["requests"]
    rows = []
    for request in kept["successful"]:
        start, timings = request["request_start_time"], request["info"]["timings"]
        if timings["first_token_iteration"] is None:
            raise UsageError(f"{path} has no time of a first token: {_STREAMED}.")
        rows.append(
            {
                "start_times": start,
                "ttfts": timings["first_token_iteration"] - start,
                "latencies": timings["last_token_iteration"] - start,
                "input_lens": request["prompt_tokens"] or 0,
                "output_lens": request["output_tokens"],
            }
        )
    for request in kept["errored"] or []:
        error = request["info"].get("error") or "failed"
        rows.append(_failed(request["request_start_time"], request.get("prompt_tokens"), error))
    return _result(rows, path)


def _aiperf(found: list[dict], path: Path) -> dict:
    """AIPerf's profile_export.jsonl (seen with 0.13.0); requests of its warm-up are left out."""
    rows = []
    for record in found:
        about, metrics = record["metadata"], record["metrics"]
        if about.get("benchmark_phase", "profiling") != "profiling" or about.get("was_cancelled"):
            continue
        start = about["request_start_ns"] / 1e9
        if error := record.get("error"):
            rows.append(_failed(start, _ms(metrics, "error_isl"), error.get("message") or "failed"))
            continue
        if "time_to_first_token" not in metrics:
            raise UsageError(f"{path} has no time of a first token: {_STREAMED} (aiperf --streaming).")
        rows.append(
            {
                "start_times": start,
                "ttfts": _ms(metrics, "time_to_first_token") / 1000,
                "latencies": _ms(metrics, "request_latency") / 1000,
                "itls": [gap / 1000 for gap in _ms(metrics, "inter_chunk_latency") or []],
                "input_lens": int(_ms(metrics, "input_sequence_length") or 0),
                "output_lens": int(_ms(metrics, "output_sequence_length") or 0),
            }
        )
    return _result(rows, path)


def _ms(metrics: dict, name: str):
    """The value of one of AIPerf's metrics, of which times are in ms; None where it is not there."""
    metric = metrics.get(name) or {}
    if metric.get("unit") not in (None, "ms", "tokens"):
        raise ValueError(f"{name} is in {metric['unit']}, where ms were expected")
    return metric.get("value")


def _failed(start: float, input_tokens: float | None, error) -> dict:
    return {
        "start_times": start,
        "ttfts": 0.0,
        "latencies": 0.0,
        "input_lens": int(input_tokens or 0),
        "output_lens": 0,
        "errors": str(error),
    }


def _result(rows: list[dict], path: Path) -> dict:
    """Lists of a value a request, in the order of sending."""
    if not rows:
        raise UsageError(f"{path} holds no request that was answered.")
    rows = [{"itls": [], "errors": ""} | row for row in sorted(rows, key=lambda row: row["start_times"])]
    names = ("start_times", "ttfts", "latencies", "itls", "input_lens", "output_lens", "errors")
    result = {name: [row[name] for row in rows] for name in names}
    ends = np.array(result["start_times"]) + np.array(result["latencies"])
    return {**result, "duration": float(ends.max() - min(result["start_times"]))}
