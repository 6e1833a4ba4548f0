"""Our latencies against vLLM's own: every metric and statistic that `vllm bench serve` printed of a real measurement.

vLLM 0.32.0 computes them in vllm/benchmarks/serve.py, `calculate_metrics`, from the same lists that
`--save-detailed` keeps: TPOT of a request is (latency − TTFT) / (output tokens − 1) and a request of one token has
none; ITL pools the gaps between chunks of all requests; latency ends with the last chunk that holds a token.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from symmlib.analysis import serving

RESULT = json.loads((Path(__file__).parents[1] / "serving" / "data" / "vllm-lengths.json").read_text(encoding="utf-8"))


def test_the_real_measurement_tells_the_definitions_apart():
    """With answers of one length, one token a chunk, the means of TPOT and ITL would be the same number."""
    assert min(RESULT["output_lens"]) == 1 and len(set(RESULT["output_lens"])) > 30
    chunks = sum(len(gaps) + 1 for gaps in RESULT["itls"])
    assert 0 < sum(RESULT["output_lens"]) - chunks < 10, "some chunks hold several tokens"
    assert RESULT["mean_tpot_ms"] != pytest.approx(RESULT["mean_itl_ms"], rel=1e-3)


@pytest.mark.parametrize("metric", ["ttft", "tpot", "e2el"])
@pytest.mark.parametrize("statistic", ["mean", "median", "std", "p50", "p90", "p95", "p99"])
def test_every_statistic_over_requests_is_the_one_that_vllm_wrote(metric, statistic):
    values = serving.requests(RESULT)[f"{metric}_ms"].dropna().to_numpy()
    assert statistic_of(values, statistic) == pytest.approx(RESULT[f"{statistic}_{metric}_ms"], rel=1e-9)


@pytest.mark.parametrize("metric", serving.METRICS)
@pytest.mark.parametrize("statistic", ["mean", "median", "p90"])
def test_every_statistic_in_the_summary_is_the_one_that_vllm_wrote(metric, statistic):
    summary = serving.summarize(RESULT).set_index(["metric", "statistic"])
    assert summary.value_ms[metric, statistic] == pytest.approx(RESULT[f"{statistic}_{metric}_ms"], rel=1e-9)
    assert summary.requests[metric, statistic] == RESULT["completed"] == 104


@pytest.mark.parametrize("metric", serving.METRICS)
@pytest.mark.parametrize("statistic", ["p95", "p99"])
def test_the_summary_withholds_percentiles_that_vllm_gives_for_too_few_requests(metric, statistic):
    row = serving.summarize(RESULT).set_index(["metric", "statistic"]).loc[(metric, statistic)]
    assert np.isnan(row.value_ms) and row.note == serving.TOO_SMALL
    assert RESULT[f"{statistic}_{metric}_ms"] > 0


@pytest.mark.parametrize("metric", serving.METRICS)
@pytest.mark.parametrize("statistic", ["p95", "p99"])
def test_the_percentiles_that_the_summary_withholds_would_be_vllms_too(metric, statistic, monkeypatch):
    monkeypatch.setattr(serving, "BEYOND", 0)
    value = serving.summarize(RESULT).set_index(["metric", "statistic"]).value_ms[metric, statistic]
    assert value == pytest.approx(RESULT[f"{statistic}_{metric}_ms"], rel=1e-9)


def test_requests_and_tokens_are_as_many_as_vllm_counted():
    requests = serving.requests(RESULT)
    assert len(requests) == RESULT["num_prompts"] and (requests["error"] == "").all()
    assert requests["input_tokens"].sum() == RESULT["total_input_tokens"]
    assert requests["output_tokens"].sum() == RESULT["total_output_tokens"]


def statistic_of(values: np.ndarray, statistic: str) -> float:
    """As `calculate_metrics` of vLLM takes it."""
    if statistic.startswith("p"):
        return np.percentile(values, int(statistic[1:]))
    return getattr(np, statistic)(values)
