import math

import pandas as pd
import pytest

from symmlib.analysis import verdicts


def compared(treatment="router", verdict="faster", ratio=0.19, qps=4, metric="tpot", **changes) -> dict:
    """One synthetic row of comparison.csv."""
    row = {
        "tp": 2, "qps": qps, "metric": metric, "statistic": "median", "baseline": "gloo", "treatment": treatment,
        "ratio": ratio, "ci_low": ratio * 0.9, "ci_high": ratio * 1.15, "p_value": 0.25, "blocks": 3, "tier": "quick",
        "verdict": verdict, "note": "",
    }  # fmt: skip
    return row | changes


def measured(backend, nbytes, median_us, **changes) -> dict:
    """One synthetic row of allreduce_summary.csv."""
    row = {
        "backend": backend, "world_size": 2, "dtype": "bfloat16", "mode": "eager", "bytes": nbytes, "launches": 3,
        "median_us": median_us, "wrong": 0, "status": "ok", "reason": "",
    }  # fmt: skip
    return row | changes


def said(*rows, summary=None, gates=None) -> list[str]:
    return verdicts.sentences(pd.DataFrame(list(rows)), summary, gates)


def test_the_first_sentence_has_the_effect_its_certainty_and_what_to_do():
    first, *rest = said(compared(), compared(metric="ttft", ratio=0.33))
    assert first == (
        "On this machine the router answers 5.3x faster per token than gloo at TP=2, QPS 4 "
        "(TPOT ratio 0.19, 95 % interval 0.17 to 0.22, 3 blocks, preliminary). Use SYMMLIB_ALLREDUCE=router."
    )
    assert rest == ["The router starts to answer 3.0x faster than gloo (TTFT ratio 0.33, 95 % interval 0.30 to 0.38)."]


def test_cells_that_agree_share_a_sentence():
    sentences = said(compared(qps=4), compared(qps=8, ratio=0.2))
    assert len(sentences) == 1
    assert "5.0x to 5.3x faster" in sentences[0] and "QPS 4 and 8" in sentences[0]
    assert "intervals within 0.17 to 0.23" in sentences[0]


def test_six_blocks_are_not_preliminary():
    assert "preliminary" not in said(compared(blocks=6, tier="standard"))[0]
    assert verdicts.certainty(pd.DataFrame([compared(blocks=6, tier="standard")])) == "6 blocks"
    assert verdicts.certainty(pd.DataFrame([compared()])) == "preliminary: 3 blocks"


@pytest.mark.parametrize(
    ("verdict", "ratio", "advice"),
    [
        ("slower", 1.2, "Keep gloo."),
        ("equivalent", 1.004, "Keep gloo: a change would gain nothing."),
        ("inconclusive", 0.97, "Measure more blocks before you change anything."),
    ],
)
def test_the_advice_follows_the_verdict(verdict, ratio, advice):
    assert said(compared(verdict=verdict, ratio=ratio))[0].endswith(advice)
    assert "Use SYMMLIB" not in said(compared(verdict=verdict, ratio=ratio))[0]


def test_small_effects_are_percentages_with_three_digits_of_ratio():
    (sentence,) = said(compared(ratio=0.935, ci_low=0.91, ci_high=0.96))
    assert "takes 6.5 % less time per token" in sentence
    assert "TPOT ratio 0.935, 95 % interval 0.910 to 0.960" in sentence


def test_a_mixed_outcome_names_the_cells_where_it_helps():
    first, second = said(compared(qps=4), compared(qps=8, verdict="inconclusive", ratio=0.98))
    assert first.endswith("Use SYMMLIB_ALLREDUCE=router at TP=2, QPS 4; measure more blocks for the rest.")
    assert "undecided" in second and "QPS 8" in second


def test_a_gain_per_token_that_costs_the_first_token_is_said_so():
    sentences = said(compared(), compared(metric="ttft", ratio=1.4, verdict="slower"))
    assert "where time per token counts for more than the first token" in sentences[0]


def test_a_smoke_run_gives_no_verdict():
    rows = [compared(tier="smoke", blocks=1, ci_low=math.nan, ci_high=math.nan, verdict="inconclusive")]
    (sentence,) = said(*rows)
    assert "no verdict" in sentence and "TPOT ratio 0.19" in sentence
    assert "Use SYMMLIB" not in sentence
    assert verdicts.headline(pd.DataFrame(rows)) == "Smoke run: no verdict"


def test_invalid_cells_are_named_with_the_reason_and_lend_nothing_to_the_verdict():
    broken = compared(qps=8, verdict="invalid", ratio=0.01, note="the rate reached was 6.1 of 8")
    sentences = said(compared(qps=4), broken)
    assert sentences[-1] == "No verdict at TP=2, QPS 8, which is invalid: the rate reached was 6.1 of 8."
    assert "QPS 8" not in sentences[0]


def test_where_every_cell_is_invalid_that_comes_first_with_the_gates_reason():
    gates = pd.DataFrame([{"gate": "trace", "cell": "x", "status": "invalid", "reason": "gloo served 12 calls"}])
    (sentence,) = said(compared(verdict="invalid", ratio=math.nan), gates=gates)
    assert sentence.startswith("No verdict, because every cell is invalid")
    assert "gate “trace”: gloo served 12 calls" in sentence
    assert verdicts.headline(pd.DataFrame([compared(verdict="invalid")])) == "No verdict: every cell is invalid"


def test_another_arm_is_compared_with_the_router():
    sentences = said(compared(), compared("vllm/shm", ratio=0.2))
    assert sentences[1] == (
        "vllm/shm is faster than gloo (TPOT ratio 0.20); per token it cannot be told apart from the router."
    )


def test_an_arm_that_is_faster_beyond_doubt_takes_the_router_s_place():
    sentences = said(compared(ratio=0.5), compared("vllm/shm", ratio=0.2))
    assert sentences[0].endswith("Use SYMMLIB_ALLREDUCE=vllm/shm.")
    assert "vllm/shm is faster still" in sentences[1]
    assert verdicts.headline(pd.DataFrame([compared(ratio=0.5), compared("vllm/shm", ratio=0.2)])) == (
        "Use vllm/shm: 5.0x faster per token than gloo"
    )


def test_a_direct_comparison_decides_between_two_arms():
    arms = [compared(), compared("vllm/shm", ratio=0.2)]
    direct = {"baseline": "vllm/shm", "treatment": "router"}
    faster = said(*arms, compared(ratio=0.95, verdict="faster", **direct))
    assert len(faster) == 2 and faster[1].endswith("; per token the router is faster still.")
    level = said(*arms, compared(ratio=1.0, verdict="equivalent", **direct))
    assert level[1].endswith("; per token the router is as fast.")
    slower = said(*arms, compared(ratio=1.2, verdict="slower", **direct))
    assert slower[0].endswith("Use SYMMLIB_ALLREDUCE=vllm/shm.")
    assert slower[1].endswith("; per token vllm/shm is faster still.")


def test_the_all_reduce_sentence_speaks_of_64_kib():
    summary = pd.DataFrame(
        [measured("gloo", 65536, 205), measured("host/one_shot", 65536, 3.1), measured("vllm/shm", 65536, 9.1),
         measured("host/one_shot", 1024, 0.6)]
    )  # fmt: skip
    assert verdicts.sentences(None, summary) == [
        "host/one_shot sums 64 KiB over 2 ranks in 3.1 µs, 66x faster than gloo and 2.9x faster than vllm/shm "
        "(median, 3 launches)."
    ]
    assert verdicts.headline(None, summary) == "Fastest all-reduce at 64 KiB: host/one_shot"


def test_backends_within_three_per_cent_are_called_level():
    summary = pd.DataFrame(
        [measured("gloo", 65536, 205), measured("host/one_shot", 65536, 33.1), measured("host/two_shot", 65536, 32.9)]
    )
    (sentence,) = verdicts.sentences(None, summary)
    assert sentence.startswith("host/two_shot sums 64 KiB") and "; host/one_shot within 3 % of that" in sentence
    assert verdicts.headline(None, summary) == "Fastest all-reduce at 64 KiB: host/two_shot and host/one_shot"


def test_a_backend_with_wrong_sums_is_warned_of_and_never_praised():
    summary = pd.DataFrame([measured("gloo", 65536, 205), measured("host/one_shot", 65536, 3.1, wrong=7)])
    first, second = verdicts.sentences(None, summary)
    assert first.startswith("host/one_shot gave wrong sums (at 64 KiB)")
    assert second.startswith("gloo sums 64 KiB")


def test_nothing_measured_is_said():
    assert verdicts.sentences(None) == [verdicts.NOTHING]
    nowhere = pd.DataFrame([measured("gloo", 65536, math.nan, status="failed", reason="no network", wrong=math.nan)])
    assert verdicts.sentences(None, nowhere) == ["No all-reduce ran; the report says why for each backend."]
