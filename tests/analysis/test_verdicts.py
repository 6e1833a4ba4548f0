import math

import pandas as pd
import pytest

from symmlib.analysis import fastest, verdicts, words


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
    assert "simultaneous 95 % intervals within 0.17 to 0.23" in sentences[0]


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


@pytest.mark.parametrize(("blocks", "words"), [(1, "1 block"), (2, "2 blocks")])
def test_a_smoke_run_gives_no_verdict_and_says_how_many_blocks_it_has(blocks, words):
    rows = [compared(tier="smoke", blocks=blocks, ci_low=math.nan, ci_high=math.nan, verdict="none")]
    (sentence,) = said(*rows)
    assert "a verdict needs three blocks" in sentence and "TPOT ratio 0.19" in sentence and f"in {words}," in sentence
    assert "Use SYMMLIB" not in sentence
    assert verdicts.headline(pd.DataFrame(rows)) == "No verdict: fewer than three blocks"
    assert verdicts.certainty(pd.DataFrame(rows)) == f"no verdict: {words}"


def test_a_cell_of_too_few_blocks_beside_a_judged_one_is_undecided():
    few = compared(qps=8, tier="smoke", blocks=2, ci_low=math.nan, ci_high=math.nan, verdict="none")
    first, second = said(compared(qps=4), few)
    assert first.endswith("Use SYMMLIB_ALLREDUCE=router at TP=2, QPS 4; measure more blocks for the rest.")
    assert "undecided" in second and "QPS 8" in second
    assert verdicts.headline(pd.DataFrame([compared(qps=4), few])) == (
        "Per token the router is faster than gloo in 1 of 2 cells"
    )
    assert verdicts.certainty(pd.DataFrame([compared(qps=4), few])) == "preliminary: 2 to 3 blocks"


@pytest.mark.parametrize(
    ("found", "headline"),
    [
        (["faster", "equivalent", "equivalent"], "Per token the router is faster than gloo in 1 of 3 cells"),
        (["faster", "faster", "inconclusive"], "Per token the router is faster than gloo in 2 of 3 cells"),
        (["equivalent", "slower", "equivalent"], "Per token the router is slower than gloo in 1 of 3 cells"),
        (["inconclusive", "equivalent", "inconclusive"], "Per token the router is as fast as gloo in 1 of 3 cells"),
        (["faster", "slower", "equivalent"], "It depends on the load whether the router is faster than gloo"),
    ],
)
def test_a_headline_counts_the_cells_with_the_verdict_that_it_names(found, headline):
    rows = [compared(qps=qps, verdict=verdict) for qps, verdict in zip((1, 4, 8), found, strict=True)]
    assert verdicts.headline(pd.DataFrame(rows)) == headline


def test_invalid_cells_are_named_with_the_reason_and_lend_nothing_to_the_verdict():
    broken = compared(qps=8, verdict="invalid", ratio=0.01, note="the rate reached was 6.1 of 8")
    sentences = said(compared(qps=4), broken)
    assert sentences[-1] == ("Invalid, so no verdict, at TP=2, QPS 8: the rate reached was 6.1 of 8. Mend that first.")
    assert "QPS 8" not in sentences[0]


def test_an_invalid_arm_is_named_where_others_are_judged():
    broken = compared("vllm/shm", qps=8, verdict="invalid", note="achieved rate: sent 6.1 requests/s")
    sentences = said(compared(qps=4), compared(qps=8), compared("vllm/shm", qps=4), broken)
    assert sentences[-1].startswith("Invalid, so no verdict, on vllm/shm at TP=2, QPS 8: gate “achieved rate” failed")


def test_where_every_cell_is_invalid_that_comes_first_with_the_gates_reason():
    gates = pd.DataFrame([{"gate": "trace", "cell": "x", "status": "invalid", "reason": "gloo served 12 calls"}])
    (sentence,) = said(compared(verdict="invalid", ratio=math.nan), gates=gates)
    assert sentence.startswith("No verdict, because every cell is invalid")
    assert "gate “trace” failed in 1 measurement (gloo served 12 calls)" in sentence
    assert verdicts.headline(pd.DataFrame([compared(verdict="invalid")])) == "No verdict: every cell is invalid"
    assert verdicts.certainty(pd.DataFrame([compared(verdict="invalid")])) == ""


def test_many_failed_checks_are_summed_up_in_a_short_sentence():
    late = [
        f"0 requests differ in length; sent at most {ms} ms off the block's schedule" for ms in range(280, 1280, 50)
    ]
    gates = pd.DataFrame([{"gate": "sent on time", "cell": "x", "status": "invalid", "reason": why} for why in late])
    (sentence,) = said(
        *(compared(qps=qps, verdict="invalid", note=f"sent on time: {late[0]}") for qps in (4, 8)), gates=gates
    )
    assert sentence == (
        "No verdict, because every cell is invalid (TP=2, QPS 4 and 8): gate “sent on time” failed in 20 measurements "
        "(at worst: sent at most 1230 ms off the block's schedule). Measure on a machine that does nothing else, or at "
        "lower rates."
    )


def test_another_arm_is_compared_with_the_router():
    sentences = said(compared(), compared("vllm/shm", ratio=0.2))
    assert sentences[1] == (
        "vllm/shm is faster than gloo (TPOT ratio 0.20); per token it cannot be told apart from the router."
    )


def test_a_peer_of_too_few_blocks_is_told_with_its_ratio_and_without_a_verdict():
    nothing = {"verdict": "none", "blocks": 1, "tier": "smoke", "ci_low": math.nan, "ci_high": math.nan}
    direct = compared(ratio=0.1, baseline="floor", **nothing)
    rows = [compared(), compared("floor", ratio=14, **nothing), direct]
    assert said(*rows)[-1] == "floor ran in 1 block, too few for a verdict (TPOT ratio 14.00)."
    assert verdicts.certainty(pd.DataFrame(rows)) == "preliminary: 3 blocks"  # of what the headline is about


def test_a_peer_whose_verdicts_differ_is_still_compared_by_all_rows():
    arms = [compared(), compared(metric="ttft", ratio=0.33)]
    peers = [compared("vllm/shm", ratio=0.2), compared("vllm/shm", metric="ttft", ratio=1, verdict="inconclusive")]
    direct = compared(ratio=0.95, baseline="vllm/shm", treatment="router")  # their intervals alone would not tell
    assert said(*arms, *peers, direct)[-1] == (
        "vllm/shm against gloo: per token faster, to the first token inconclusive (TPOT ratio 0.20, TTFT ratio "
        "1.000); per token the router is faster still."
    )


@pytest.mark.parametrize(
    ("found", "relation"),
    [
        (["inconclusive", "inconclusive"], "it cannot be told apart from the router"),
        (["faster", "inconclusive"], "it depends on the cell how it compares with the router"),
        (["faster", "slower"], "it depends on the cell how it compares with the router"),
        (["equivalent", "faster"], "it depends on the cell how it compares with the router"),
        (["equivalent", "equivalent"], "the router is as fast"),
    ],
)
def test_how_a_peer_stands_to_the_router_says_no_more_than_the_cells(found, relation):
    arms = [compared(arm, qps=qps) for arm in ("router", "vllm/shm") for qps in (4, 8)]
    direct = [
        compared(qps=qps, ratio=0.95, verdict=verdict, baseline="vllm/shm")
        for qps, verdict in zip((4, 8), found, strict=True)
    ]
    assert said(*arms, *direct)[-1].endswith(f"; per token {relation}.")


def test_of_several_arms_faster_than_the_router_the_fastest_leads():
    arms = [compared(ratio=0.5), compared("vllm/shm", ratio=0.3), compared("host/one_shot", ratio=0.1)]
    assert verdicts.headline(pd.DataFrame(arms)) == "Use host/one_shot: 10x faster per token than gloo"
    assert all("host/one_shot is faster still" in sentence for sentence in said(*arms)[1:])


def test_comparisons_that_contradict_each_other_are_told_as_they_are():
    arms = [compared(ratio=0.5), compared("vllm/shm", ratio=0.3), compared("host/one_shot", ratio=0.1)]
    odd = compared(ratio=0.9, verdict="faster", baseline="host/one_shot", treatment="router")
    lead, router, _ = said(*arms, odd)
    assert lead.endswith("Use SYMMLIB_ALLREDUCE=host/one_shot.")
    assert router.endswith("; per token it is faster than host/one_shot.")


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


def test_where_ranks_shared_a_gpu_that_is_said_first():
    summary = pd.DataFrame([measured("triton/one_shot", 65536, 9, device="sm_90/one-gpu")])
    first, second = said(compared(), summary=summary)[0], said(summary=summary)[1]
    assert first == words.ONE_GPU_BANNER and second.startswith("triton/one_shot sums 64 KiB")
    assert words.ONE_GPU_BANNER not in said(compared(), summary=summary.assign(device="sm_90"))


def test_where_world_sizes_differ_in_what_is_fastest_the_headline_names_each():
    times = {(2, "triton/one_shot"): 5, (2, "triton/two_shot"): 9, (4, "triton/one_shot"): 9, (4, "triton/two_shot"): 8,
             (8, "triton/one_shot"): 19, (8, "triton/two_shot"): 12}  # fmt: skip
    summary = pd.DataFrame([measured(name, 65536, us, world_size=ranks) for (ranks, name), us in times.items()])
    assert verdicts.headline(None, summary) == (
        "Fastest all-reduce at 64 KiB: triton/one_shot on 2 ranks; triton/two_shot on 4 ranks and 8 ranks"
    )
    same = summary[summary.backend == "triton/one_shot"]
    assert verdicts.headline(None, same) == "Fastest all-reduce at 64 KiB: triton/one_shot"


def test_where_modes_differ_the_all_reduce_sentences_name_them():
    summary = pd.DataFrame([measured("nccl", 65536, 20, mode=mode) for mode in ("eager", "graph")])
    assert [line.split(" in ")[0] for line in verdicts.sentences(None, summary)] == [
        "nccl sums 64 KiB over 2 ranks (eager mode)",
        "nccl sums 64 KiB over 2 ranks (graph mode)",
    ]


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


def test_a_backend_that_failed_is_never_the_fastest_however_short_its_times():
    failed = measured("host/one_shot", 65536, 3.1, status="failed", reason="rank 1 died in launch 2")
    summary = pd.DataFrame([measured("gloo", 65536, 205), failed])
    assert verdicts.headline(None, summary) == "Fastest all-reduce at 64 KiB: gloo"
    assert len(fastest.usable(summary)) == 1


def test_of_level_backends_the_one_that_stays_level_longest_is_called_the_fastest():
    times = {"host/one_shot": (10.1, 20, 40), "host/two_shot": (10, 21, 41)}
    summary = pd.DataFrame(
        [
            measured(name, size, time)
            for name in times
            for size, time in zip((1024, 65536, 1 << 20), times[name], strict=True)
        ]
    )
    assert fastest.by_size(summary).backend.to_list() == ["host/one_shot"] * 3
    assert fastest.level(summary[summary.bytes == 1024]).backend.to_list() == ["host/two_shot", "host/one_shot"]
    (best,) = fastest.per_setting(summary[summary.bytes < 65536])
    assert (best["backend"], best["level"]) == ("host/two_shot", ["host/one_shot"])


def test_nothing_measured_is_said():
    assert verdicts.sentences(None) == [verdicts.NOTHING]
    nowhere = pd.DataFrame([measured("gloo", 65536, math.nan, status="failed", reason="no network", wrong=math.nan)])
    assert verdicts.sentences(None, nowhere) == ["No all-reduce ran; the report says why for each backend."]
