"""Gates over what vLLM's benchmark and the plug-in leave: sound measurements pass, each flaw is found by name."""

import json

import numpy as np
import pytest

from symmlib.serving import gates
from symmlib.serving.arms import Arm
from symmlib.serving.gates import Measurement

QPS, COUNT = 4.0, 40


def result(late_s: dict[int, float] | None = None, **changes) -> dict:
    """As `vllm bench serve --save-detailed` writes it: `COUNT` requests, sent on time but for `late_s` by number."""
    starts = 1000 + np.arange(1, COUNT + 1) / QPS
    for number, seconds in (late_s or {}).items():
        starts[number] += seconds
    plain = {
        "start_times": starts.tolist(),
        "ttfts": [0.02] * COUNT,
        "itls": [[0.005] * 3] * COUNT,
        "input_lens": [128] * COUNT,
        "output_lens": [4] * COUNT,
        "errors": [""] * COUNT,
        "request_rate": QPS,
        "duration": float(starts.max() + 0.035 - 1000),
        "completed": COUNT,
    }
    return plain | changes


@pytest.fixture
def measurement(tmp_path):
    """Makes the `Measurement` of an arm from its result and from what its ranks counted."""

    def make(
        arm: str | dict, result: dict, calls: list[dict] | None = None, block: int = 1, schedule: str = "s"
    ) -> Measurement:
        arm = Arm.of(arm)
        place = tmp_path / f"{block}-{arm.name.replace('/', '-')}"
        (place / "trace").mkdir(parents=True)
        (place / "qps.json").write_text(json.dumps(result))
        planned = (np.arange(1, COUNT + 1) / QPS).tolist()
        note = {"schedule_sha256": f"{schedule}{block}", "planned_s": planned}
        (place / "qps.schedule.json").write_text(json.dumps(note))
        served_by = "host/one_shot" if arm.all_reduce == "router" else arm.all_reduce
        calls = calls or [call(served_by, 1000, by_table=True)]
        for rank in (0, 1):
            (place / "trace" / f"rank-{rank}.json").write_text(json.dumps({"rank": rank, "calls": calls}))
        return Measurement(block, arm, 2, QPS, place / "qps.json", place / "trace")

    return make


def call(backend: str, calls: int, *, by_table: bool, reason: str = "as planned") -> dict:
    return {
        "backend": backend,
        "bytes": 1024,
        "dtype": "bfloat16",
        "by_table": by_table,
        "reason": reason,
        "calls": calls,
    }


def failures(*measurements: Measurement) -> dict[str, str]:
    """(gate, arm) -> reason, of every row that is invalid."""
    rows = gates.check(measurements).frame()
    return {f"{row.gate}: {row.cell}": row.reason for row in rows[rows["status"] == "invalid"].itertuples()}


def test_sound_measurements_pass_every_gate(measurement):
    arms = [measurement(arm, result()) for arm in ("gloo", "vllm/shm", "router")]
    checked = gates.check(arms)
    assert not checked.invalid
    assert set(checked.frame()["gate"]) == {
        "no failed requests",
        "same schedule",
        "sent on time",
        "achieved rate",
        "no growing queue",
        "intended all-reduce",
    }


def test_a_failed_request_is_quoted(measurement):
    errors = [""] * (COUNT - 1) + ["Traceback\nConnectionResetError: peer left"]
    found = failures(measurement("gloo", result(errors=errors)), measurement("router", result()))
    assert any("ConnectionResetError: peer left" in reason for reason in found.values())


def test_an_arm_that_was_sent_other_requests_is_found_out(measurement):
    other = result(input_lens=[128] * (COUNT - 1) + [64])
    found = failures(*(measurement(arm, result()) for arm in ("gloo", "vllm/shm")), measurement("router", other))
    assert [name for name in found if "same schedule" in name] == ["same schedule: TP=2, QPS 4, router, block 1"]


def test_an_arm_that_was_sent_other_prompts_is_found_out_by_the_hash_of_its_schedule(measurement):
    found = failures(*(measurement(arm, result()) for arm in ("gloo", "vllm/shm")),
                     measurement("router", result(), schedule="t"))  # fmt: skip
    assert list(found) == ["same schedule: TP=2, QPS 4, router, block 1"]


def test_of_two_arms_that_differ_neither_is_believed(measurement):
    found = failures(measurement("gloo", result()), measurement("router", result(), schedule="t"))
    assert len(found) == 2 and all(name.startswith("same schedule") for name in found)


def test_two_blocks_with_one_schedule_are_no_two_repetitions(measurement):
    members = [measurement("gloo", result(), block=block, schedule="") for block in (1, 2)]
    for member in members:
        member.schedule["schedule_sha256"] = "one"
    assert any("two blocks have the same schedule" in reason for reason in failures(*members).values())


def test_an_arm_that_stumbled_is_found_out_even_if_it_ran_first_and_the_others_are_not_blamed(measurement):
    first = measurement("gloo", result(late_s={number: 1.0 for number in range(5, 9)}))
    found = failures(first, *(measurement(arm, result()) for arm in ("vllm/shm", "router")))
    assert list(found) == ["sent on time: TP=2, QPS 4, gloo, block 1"]
    assert "1000 ms late" in found["sent on time: TP=2, QPS 4, gloo, block 1"]


def test_blocks_have_schedules_of_their_own(measurement):
    members = [measurement(arm, result(), block=block) for block in (1, 2) for arm in ("gloo", "router")]
    assert not failures(*members)


def test_a_queue_that_grows_makes_latencies_void(measurement):
    waits = result(ttfts=(np.arange(COUNT) * 2.0).tolist(), duration=COUNT / QPS + 2.0 * (COUNT - 1) + 0.015)
    found = failures(measurement("gloo", result()), measurement("router", waits))
    assert list(found) == ["no growing queue: TP=2, QPS 4, router, block 1"]


def test_a_few_requests_that_come_in_a_clump_are_no_growing_queue(measurement):
    alone = {"start_times": [0.0, 2.8, 2.9, 4.5, 4.6, 5.5], "ttfts": [0.9] * 6}
    few = result() | {name: values[:6] for name, values in result().items() if isinstance(values, list)} | alone
    ((keeps_up, said),) = gates.no_growing_queue([measurement("gloo", few)])
    before, after = said.split(", ")
    assert before.startswith("0.0 ") and float(after.split()[0]) > 1, "a queue, by the second and last quarter alone"
    assert keeps_up


def test_a_gpu_that_was_slowed_down_makes_its_rate_void_with_the_cause(measurement):
    members = [measurement("gloo", result()), measurement("router", result())]
    for member, said in zip(members, ([], ["GPU 0: hw thermal slowdown"]), strict=True):
        member.path.with_name("qps.throttled.json").write_text(json.dumps(said))
    found = failures(*members)
    assert found == {"no throttling: TP=2, QPS 4, router, block 1": "GPU 0: hw thermal slowdown"}


def test_vllms_own_all_reduces_are_told_by_its_log(measurement):
    line = (
        "INFO Using ['CUSTOM', 'SYMM_MEM', 'PYNCCL'] all-reduce backends (in dispatch order) for group 'tp:0' out of"
        " potential backends: ['CUSTOM', 'SYMM_MEM', 'PYNCCL'].\n"
    )
    given = {"all_reduce": "vllm-default"}
    arms = {
        "on": given | {"name": "on", "must_use": ["SYMM_MEM"]},
        "off": given | {"name": "off", "must_not_use": ["SYMM_MEM"]},
        "flash": given | {"name": "flash", "must_use": ["FLASHINFER"]},
    }
    members = [measurement(arm, result()) for arm in arms.values()]
    for member in members:
        (member.trace.parent / "server.log").write_text(line)
    found = failures(*members)
    assert set(found) == {f"intended all-reduce: TP=2, {name}, block 1" for name in ("off", "flash")}
    assert "vLLM uses SYMM_MEM, which this arm must not" in found["intended all-reduce: TP=2, off, block 1"]
    (members[0].trace.parent / "server.log").write_text("")
    assert "does not say" in failures(members[0])["intended all-reduce: TP=2, on, block 1"]


def test_a_client_that_sends_too_slowly_is_found_out(measurement):
    slow = result()
    slow["start_times"] = (1000 + np.arange(1, COUNT + 1) / QPS * 1.05).tolist()
    slow["duration"] = slow["start_times"][-1] + 0.035 - 1000
    found = failures(measurement("gloo", slow), measurement("router", slow))
    assert any("sent 3.81 requests/s where 4 were asked for" in reason for reason in found.values())


def test_an_arm_served_by_another_all_reduce_than_intended_is_void_with_the_reason(measurement):
    calls = [
        call("host/one_shot", 900, by_table=True),
        call("gloo", 100, by_table=False, reason="host/one_shot: the tensor is not contiguous"),
    ]
    found = failures(measurement("gloo", result()), measurement("router", result(), calls))
    assert list(found) == ["intended all-reduce: TP=2, router, block 1"]
    assert "10.0% of the all-reduces" in found["intended all-reduce: TP=2, router, block 1"]
    assert "not contiguous" in found["intended all-reduce: TP=2, router, block 1"]


def test_replays_of_cuda_graphs_are_evidence_and_captures_are_none(measurement):
    replayed = call("triton/one_shot", 1000, by_table=True) | {"captured": 10, "replayed": 900}
    member = measurement("router", result(), [replayed])
    for path in member.trace.iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"graphs": 2, "replays": 90}))
    ((ok, reason),) = gates.intended_all_reduce([member])
    assert ok and reason.endswith("triton/one_shot 100.0%; 90% of them in 90 replays of 2 CUDA graphs")
    captured = call("triton/one_shot", 0, by_table=True) | {"captured": 10, "replayed": 0}
    ((ok, reason),) = gates.intended_all_reduce([measurement("router", result(), [captured], block=2)])
    assert not ok and reason == "a rank counted no all-reduce at all"


def test_a_server_without_a_trace_is_void(measurement):
    blind = measurement("router", result())
    for path in blind.trace.iterdir():
        path.unlink()
    assert any(
        "0 of 2 ranks left a trace" in reason for reason in failures(measurement("gloo", result()), blind).values()
    )
