"""What is predicted, of calls and times whose answer can be worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from symmlib.analysis import explained, prediction, words

ROW, PER_STEP = 512, 9  # bytes of a token of 256 elements in bf16; all-reduces of a step of 4 layers
MODEL = {"hidden_size": 256, "calls_per_step": PER_STEP, "input_len": 64, "mode": "eager"}
PAIR = ("gloo", "router")


def calls_of(arm: str, steps: dict[int, int], backend="gloo", tp=2, block="block-1") -> pd.DataFrame:
    """The trace of a server that made so many `steps` of so many tokens."""
    backend = backend if callable(backend) else lambda tokens, name=backend: name
    rows = [
        (tp, arm, block, backend(tokens), tokens * ROW, "bfloat16", count * PER_STEP) for tokens, count in steps.items()
    ]
    return pd.DataFrame(rows, columns=prediction.CALL_COLUMNS)


def times_of(medians_us: dict[str, dict[int, float]], **more) -> pd.DataFrame:
    """allreduce_summary.csv of `medians_us`: backend -> bytes -> µs."""
    setting = {"world_size": 2, "dtype": "bfloat16", "mode": "eager", "status": "ok", "wrong": 0, "device": "cpu"}
    rows = [
        {"backend": name, "bytes": size, "median_us": time_us, **setting, **more}
        for name, times in medians_us.items()
        for size, time_us in times.items()
    ]
    return pd.DataFrame(rows)


TIMES = times_of(
    {
        "gloo": {ROW: 100, 65 * ROW: 200},
        "host/one_shot": {ROW: 10, 65 * ROW: 400},
        "host/two_shot": {ROW: 15, 65 * ROW: 20},
    }
)
CALLS = pd.concat(
    [
        calls_of("gloo", {1: 100, 65: 10}),
        calls_of("router", {1: 50, 2: 30, 65: 10}, lambda tokens: "host/one_shot" if tokens < 10 else "host/two_shot"),
    ]
)

REPLAYED = CALLS.assign(replayed=CALLS["calls"])
SHARED = "sm_90/one-gpu"


def predicted(calls=CALLS, times=TIMES, pairs=(PAIR,), **changes) -> pd.DataFrame:
    return prediction.predict(calls, times, pairs, **{**MODEL, **changes})


def values(table: pd.DataFrame) -> dict[str, float]:
    return dict(zip(table["metric"], table["predicted_ms"], strict=True))


def test_a_decoding_request_meets_all_steps_and_a_prompt_the_one_that_holds_it():
    found = predicted()
    assert list(found["note"]) == ["", ""]
    # 100 steps decode one request at 10 - 100 us; 10 hold a prompt beside a decoding request, at 20 - 200 us.
    assert values(found)["tpot"] == pytest.approx(PER_STEP * (100 * -90 + 10 * -180) / 110 / 1000)
    assert values(found)["ttft"] == pytest.approx(PER_STEP * -180 / 1000)


def test_the_steps_are_those_of_the_baseline_so_that_swapping_the_arms_is_another_question():
    one, other = values(predicted()), values(predicted(pairs=[PAIR[::-1]]))
    assert one["ttft"] == pytest.approx(-other["ttft"])
    assert -one["tpot"] != pytest.approx(other["tpot"])


def test_a_step_weighs_by_the_requests_that_meet_it():
    steps = prediction.steps_of(calls_of("gloo", {1: 5, 8: 3, 130: 2}), ROW, PER_STEP, 64)
    assert list(steps["steps"]) == [5, 3, 2]
    assert list(steps["prefilling"]) == [0, 0, 2]
    assert list(steps["decoding"]) == [1, 8, 2]


def test_a_prompt_that_is_a_token_short_is_still_a_prompt():
    assert list(prediction.steps_of(calls_of("gloo", {40: 1, 63: 1}), ROW, PER_STEP, 64)["prefilling"]) == [0, 1]


def test_the_one_step_in_which_a_server_tries_its_limits_is_left_out():
    assert list(prediction.steps_of(calls_of("gloo", {1: 9, 64: 3, 2048: 1}), ROW, PER_STEP, 64)["bytes"]) == [
        ROW,
        64 * ROW,
    ]
    assert len(prediction.steps_of(calls_of("gloo", {1: 9, 64: 3, 128: 1}), ROW, PER_STEP, 64)) == 3


def test_blocks_count_together():
    twice = pd.concat([CALLS, CALLS.assign(block="block-2")])
    assert values(predicted(twice)) == pytest.approx(values(predicted()))


def test_times_are_straight_lines_on_log_axes_between_sizes_and_flat_beyond_them():
    times = times_of({"gloo": {1024: 10, 4096: 40}})
    assert prediction.time_us(times, np.array([256, 1024, 2048, 4096, 1 << 20])) == pytest.approx([10, 10, 20, 40, 40])


def test_many_sizes_beyond_those_that_were_timed_are_mentioned():
    (note,) = set(predicted(times=TIMES[TIMES["bytes"] > ROW])["note"])
    assert note.startswith("91% of the steps have sizes beyond those that were timed")


def test_the_backend_of_a_size_that_the_treatment_did_not_meet_is_that_of_the_nearest():
    other_sizes = calls_of("router", {2: 5, 80: 5}, lambda tokens: "host/one_shot" if tokens < 10 else "host/two_shot")
    without = pd.concat([CALLS[CALLS["arm"] == "gloo"], other_sizes])
    assert values(predicted(without)) == pytest.approx(values(predicted()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mode": "graph"}, "their traces count no replays"),
        ({"mode": "graph", "calls": REPLAYED}, "was not timed on 2 ranks in bfloat16 in CUDA graphs"),
        ({"one_gpu": True}, "on ranks with a GPU each"),
        ({"times": None}, "no all-reduce was timed"),
        ({"times": TIMES[TIMES["backend"] != "host/two_shot"]}, "host/two_shot, which served router, was not timed"),
        ({"times": TIMES.assign(wrong=3)}, "gloo, which served gloo, was not timed on 2 ranks in bfloat16"),
        ({"times": TIMES.assign(world_size=4)}, "gloo, which served gloo, was not timed on 2 ranks"),
        ({"times": TIMES.assign(mode="graph")}, "without CUDA graphs"),
        ({"times": TIMES.assign(device=SHARED)}, words.ONE_GPU_BANNER),
        ({"calls": CALLS[CALLS["arm"] == "gloo"]}, "router left no trace"),
        ({"calls": CALLS.assign(dtype="int8")}, "dtype int8"),
        ({"input_len": 512}, "no step of gloo held a whole prompt of 512 tokens"),
        ({"hidden_size": 4096}, "rows of 8192 bytes"),
        ({"calls_per_step": 65}, "do not come 65 a step"),
    ],
)
def test_where_there_is_no_prediction_the_note_says_why(changes, reason):
    found = predicted(**changes)
    assert list(found["metric"]) == ["ttft", "tpot"]
    assert found["predicted_ms"].isna().all()
    for note in found["note"]:
        assert reason in note


def test_steps_in_cuda_graphs_are_priced_by_times_in_cuda_graphs_where_replays_were_counted():
    graphs = predicted(REPLAYED, TIMES.assign(mode="graph"), mode="graph")
    assert values(graphs) == pytest.approx(values(predicted()))


def test_on_a_shared_gpu_times_of_a_shared_gpu_count():
    shared = predicted(times=TIMES.assign(device=SHARED), one_gpu=True)
    assert values(shared) == pytest.approx(values(predicted()))


def serving_summary(blocks: int, router_ms: float = 7.0) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"block": block, "arm": arm, "tp": 2, "qps": qps, "metric": metric, "statistic": statistic,
             "value_ms": value + 0.1 * block * (arm == "gloo"), "requests": 20, "note": ""}
            for block in range(1, blocks + 1)
            for arm, value in {"gloo": 8.0, "router": router_ms}.items()
            for qps in (4, 8)
            for metric in ("ttft", "tpot", "itl")
            for statistic in ("mean", "median", "p99")
        ]
    )  # fmt: skip


def test_measured_is_the_mean_over_blocks_with_its_interval():
    found = prediction.measured(serving_summary(3), [PAIR])
    assert len(found) == 2 * 2 * 2  # cells, metrics, statistics
    assert found["measured_ms"].to_numpy() == pytest.approx(-1.2)
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom
    assert found["measured_low_ms"].to_numpy() == pytest.approx(-1.2 - half)
    assert found["measured_high_ms"].to_numpy() == pytest.approx(-1.2 + half)


def test_the_share_is_given_only_where_the_interval_leaves_no_change_out():
    sure = prediction.beside(predicted(), prediction.measured(serving_summary(3), [PAIR]))
    assert list(sure.columns) == prediction.PREDICTION_COLUMNS
    tpot = sure[sure["metric"] == "tpot"]
    assert tpot["explained"].to_numpy() == pytest.approx(values(predicted())["tpot"] / -1.2)
    level = prediction.beside(predicted(), prediction.measured(serving_summary(3, router_ms=8.2), [PAIR]))
    assert level["explained"].isna().all() and level["measured_ms"].notna().all()
    once = prediction.beside(predicted(), prediction.measured(serving_summary(1), [PAIR]))
    assert once["explained"].isna().all() and once["measured_low_ms"].isna().all()


def test_a_cell_that_a_gate_found_invalid_has_no_measured_change():
    void = {(2, 8, *PAIR): "invalid: two schedules"}
    found = prediction.beside(predicted(), prediction.measured(serving_summary(3), [PAIR], void))
    assert found[found["qps"] == 8]["measured_ms"].isna().all()
    assert set(found[found["qps"] == 8]["note"]) == {"invalid: two schedules"}
    assert found[found["qps"] == 4]["explained"].notna().all()


def told(blocks: int, **changes) -> list[str]:
    return explained.sentences(
        prediction.beside(predicted(**changes), prediction.measured(serving_summary(blocks), [PAIR]))
    )


def test_words_say_what_the_all_reduce_explains_or_why_that_cannot_be_said():
    assert told(3)[0] == "All-reduce explains 74 % of the change in TPOT between gloo and router."
    assert told(3)[1] == "All-reduce alone predicts 135 % of the measured change in TTFT between gloo and router."
    assert told(1)[0] == (
        "From gloo to router, all-reduce alone would change TPOT by −0.88 ms; measured: −1.10 ms, and one block cannot "
        "tell that from chance."
    )
    void = {(2, qps, *PAIR): "invalid: two schedules" for qps in (4, 8)}
    table = prediction.beside(predicted(), prediction.measured(serving_summary(3), [PAIR], void))
    assert explained.sentences(table) == [
        "No measured change to explain between gloo and router: invalid: two schedules."
    ]
    assert told(3, mode="graph") == [
        "No prediction for gloo and router: the servers used CUDA graphs, and their traces count no replays."
    ]


def test_a_change_the_other_way_is_no_share_of_what_was_predicted():
    table = prediction.beside(predicted(), prediction.measured(serving_summary(3), [PAIR]))
    tpot = table["metric"] == "tpot"
    turned = table.assign(
        explained=table["explained"].where(~tpot, -0.5), measured_ms=table["measured_ms"].where(~tpot, 1.76)
    )
    assert explained.sentences(turned)[0] == (
        "From gloo to router, all-reduce alone would change TPOT by −0.88 ms; measured: +1.76 ms, the other way: "
        "something else changed more."
    )
    half = turned.assign(explained=turned["explained"].where(turned["qps"] == 4, 0.7))
    assert "in part the other way" in explained.sentences(half)[0]
