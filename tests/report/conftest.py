"""A small run made of invented numbers, in the formats that the suite writes. Nothing here was measured."""

import json

import numpy as np
import pandas as pd
import pytest

from symmlib.analysis import numerics, published, unpaired
from symmlib.analysis.floats import accumulate, round_to
from symmlib.analysis.prediction import PREDICTED_COLUMNS, beside, measured
from symmlib.report import figures, make_report
from symmlib.routing import Route, RoutingTable, Table, show
from symmlib.runs import write_csv, write_json, write_text

SIZES = (1 << 10, 1 << 16, 1 << 20)
MEDIANS_US = {
    "gloo": (100, 200, 400),
    "host/one_shot": (0.6, 3, 45),
    "host/two_shot": (0.7, 4, 40),
    "vllm/shm": (2, 9, 90),
}
TIMES_MS = {
    "gloo": {"ttft": 34, "tpot": 16},
    "router": {"ttft": 11, "tpot": 2.8},
    "vllm/shm": {"ttft": 12, "tpot": 2.9},
}
RUN_ID = "20261123T221005Z-synthetic-1a2b3c4d"


@pytest.fixture(scope="session")
def allreduce_summary() -> pd.DataFrame:
    point = {"world_size": 2, "dtype": "bfloat16", "mode": "eager"}
    ran = {"launches": 3, "wrong": 0, "status": "ok", "reason": ""}
    rows = [
        {"backend": name, **point, "bytes": size, **ran, "median_us": time_us, "busbw_gbps": size / time_us / 1000}
        for name, times_us in MEDIANS_US.items()
        for size, time_us in zip(SIZES, times_us, strict=True)
    ]
    absent = {"launches": 0, "wrong": None, "status": "unavailable", "reason": "there is no CUDA device"}
    rows.append({"backend": "symm_mem/two_shot", **point, "bytes": 1024, **absent})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def one_gpu_summary() -> pd.DataFrame:
    """Of 2, 4 and 8 ranks that shared one GPU."""
    medians_us = {
        "triton/one_shot": (4, 6, 140),
        "triton/two_shot": (6, 7, 80),
        "symm_mem/one_shot": (5, 7, 160),
        "vllm/symm_mem": (8, 10, 120),
    }
    ran = {"launches": 5, "wrong": 0, "status": "ok", "reason": "", "device": "sm_90/one-gpu", "multicast": False}
    return pd.DataFrame(
        [
            {"backend": name, "world_size": ranks, "dtype": "bfloat16", "mode": "graph", "bytes": size, **ran,
             "median_us": time_us * ranks, "busbw_gbps": size / time_us / ranks / 1000,
             "max_abs_error": 0.01, "bitwise_equal_across_ranks": True}
            for ranks in (2, 4, 8)
            for name, times_us in medians_us.items()
            for size, time_us in zip((1 << 10, 1 << 16, 32 << 20), times_us, strict=True)
        ]
    )  # fmt: skip


@pytest.fixture(scope="session")
def serving_summary() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"block": block, "arm": arm, "tp": 2, "qps": qps, "metric": metric, "statistic": statistic,
             "value_ms": value * (1 + 0.02 * block + 0.05 * (qps - 4)), "requests": 40, "note": ""}
            for arm, metrics in TIMES_MS.items()
            for metric, value in metrics.items()
            for statistic in ("mean", "median")
            for qps in (4, 8)
            for block in (0, 1, 2)
        ]
    )  # fmt: skip


@pytest.fixture(scope="session")
def requests() -> pd.DataFrame:
    return invented_requests()


@pytest.fixture(scope="session")
def comparison() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"tp": 2, "qps": qps, "metric": metric, "statistic": statistic, "baseline": "gloo", "treatment": arm,
             "ratio": ratio, "ci_low": ratio * 0.9, "ci_high": ratio * 1.1, "p_value": 0.25, "blocks": 3,
             "tier": "quick", "verdict": "faster", "note": ""}
            for arm in ("router", "vllm/shm")
            for metric in ("ttft", "tpot")
            for statistic in ("mean", "median")
            for qps in (4, 8)
            for ratio in [TIMES_MS[arm][metric] / TIMES_MS["gloo"][metric]]
        ]
    )  # fmt: skip


@pytest.fixture(scope="session")
def gates() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"gate": "rate", "cell": "TP=2, QPS 4", "status": "valid", "reason": "3.97 of 4 requests a second"},
            {"gate": "trace", "cell": "TP=2, QPS 8", "status": "invalid", "reason": "gloo served 12 calls"},
        ]
    )


@pytest.fixture(scope="session")
def prediction(serving_summary, comparison) -> pd.DataFrame:
    """What all-reduces would change by themselves, were that nine tenths of what was measured in the mean."""
    pairs = list(dict.fromkeys(zip(comparison.baseline, comparison.treatment, strict=True)))
    predicted = [
        (2, baseline, treatment, metric, 0.9 * (TIMES_MS[treatment][metric] - TIMES_MS[baseline][metric]), "")
        for baseline, treatment in pairs
        for metric in ("ttft", "tpot")
    ]
    return beside(pd.DataFrame(predicted, columns=PREDICTED_COLUMNS), measured(serving_summary, pairs))


@pytest.fixture(scope="session")
def numerics_tables() -> dict[str, pd.DataFrame]:
    """As `symmlib numerics` leaves them: gloo adds in the dtype, host/one_shot in fp32, vllm/shm was not there."""
    ways = {"gloo": ("", "ring"), "host/one_shot": ("float32", "rank")}
    summary, shown, special = [], [], []
    for dtype in ("bfloat16", "float16"):
        parts = np.random.default_rng(1).standard_normal((4, 800))
        parts = round_to(parts, dtype)
        for name, (within, order) in ways.items():
            where = {"backend": name, "world_size": 4, "dtype": dtype, "inputs": "normal", "device": "cpu"}
            result = accumulate(parts, dtype, within=within or dtype, order=order)
            found = numerics.Found([["a"] * 100] * 4, {"a": result})
            summary.append(where | numerics.judge(found, parts, dtype))
            shown += [where | row for row in numerics.histogram_of(found, parts, dtype)]
            case = {"case": "inf + 1", "expected": "inf", "got": "inf", "promised": name != "gloo", "ok": True}
            odd = {"case": "smallest subnormal + 0", "expected": "1 smallest", "promised": name != "gloo"}
            odd |= (
                {"got": "0.0", "ok": False}
                if (name, dtype) == ("gloo", "float16")
                else {"got": "1 smallest", "ok": True}
            )
            special += [where | case, where | odd]
        for way, rows in numerics.simulated(parts, dtype).items():
            shown += [{**where, "backend": way, "device": "simulated"} | row for row in rows]
    absent = {"backend": "vllm/shm", "world_size": 4, "dtype": "bfloat16", "status": "unavailable"}
    summary.append({**absent, "device": "cpu", "reason": "vLLM is not installed in this environment"})
    return {
        "numerics": pd.DataFrame(summary, columns=numerics.SUMMARY_COLUMNS),
        "ulp_histogram": pd.DataFrame(shown, columns=numerics.HISTOGRAM_COLUMNS),
        "special_values": pd.DataFrame(special, columns=numerics.SPECIAL_COLUMNS),
    }


@pytest.fixture
def bare_run(tmp_path):
    """A run that has a manifest and nothing else, below a reports directory."""
    return _bare_run(tmp_path)


@pytest.fixture
def whole_run(tmp_path, tables):
    """A run that has everything, to change at will."""
    return _whole_run(tmp_path, tables)


@pytest.fixture(scope="session")
def one_gpu_run(tmp_path_factory, one_gpu_summary):
    """A run of ranks that shared one H200, with its page: three world sizes, samples, routes, held-out sizes."""
    run = _bare_run(tmp_path_factory.mktemp("one-gpu"))
    write_csv(run / "results" / "allreduce_summary.csv", one_gpu_summary)
    samples = one_gpu_summary[["backend", "world_size", "dtype", "mode", "bytes", "median_us"]]
    launches = [
        samples.assign(launch=launch, time_us=samples.median_us * (1 + launch / 100)).drop(columns="median_us")
        for launch in (1, 2, 3)
    ]
    write_csv(run / "results" / "allreduce.csv", pd.concat(launches))
    held_out = one_gpu_summary[one_gpu_summary.bytes == 1 << 16].assign(bytes=65538)
    router = held_out[held_out.backend == "triton/one_shot"].assign(
        backend="router", median_us=lambda rows: rows.median_us * 1.1
    )
    write_csv(run / "check" / "results" / "allreduce_summary.csv", pd.concat([held_out, router]))
    setting = {"dtype": "bfloat16", "mode": "graph"}
    regret = {"bytes": 65538, "chosen": "triton/one_shot", "best": "triton/one_shot", "regret": 0.0}
    write_csv(run / "results" / "regret.csv", pd.DataFrame([{"world_size": n, **setting, **regret} for n in (2, 4, 8)]))
    cost = {"bytes": 1024, "backend": "triton/one_shot", "ratio": 1.1, "ci_low": 1.0, "ci_high": 1.2}
    write_csv(
        run / "results" / "router_cost.csv", pd.DataFrame([{"world_size": n, **setting, **cost} for n in (2, 4, 8)])
    )
    routes = (Route(1 << 20, "triton/one_shot", (1 << 19, 1 << 21)), Route(None, "triton/two_shot"))
    RoutingTable(
        tuple(Table("sm_90/one-gpu", n, "bfloat16", "graph", False, f"run {RUN_ID}", routes) for n in (2, 4, 8))
    ).save(run / "routing.toml")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest["hardware"]["gpus"] = [{"name": "NVIDIA H200"}]
    write_json(run / "manifest.json", {**manifest, "status": "ok", "reason": "", "steps": {}})
    make_report(run)
    return run


@pytest.fixture
def drawn(allreduce_summary, serving_summary, requests, comparison, prediction, numerics_tables) -> dict:
    """Every figure, as a function of `compact`."""
    sizes = sorted(allreduce_summary.bytes.unique())
    chosen = {"chosen": "host/one_shot", "best": "host/two_shot", "regret": 0.01}
    regret = pd.DataFrame({"world_size": 2, "dtype": "bfloat16", "mode": "eager", "bytes": sizes, **chosen})
    cpu = show(RoutingTable.builtin(), device="cpu", world_size=2, dtype="bfloat16", mode="eager")
    times = unpaired.allreduce_times(allreduce_summary)
    both = unpaired.beside({"A": times, "B": times.assign(value=times.value * 1.1)}, unpaired.ALLREDUCE_KEY, {})
    return {
        "latency": lambda **options: figures.latency(allreduce_summary, **options),
        "bus_bandwidth": lambda **options: figures.bus_bandwidth(allreduce_summary, **options),
        "ttft_tpot": lambda **options: figures.ttft_tpot(serving_summary, **options),
        "distributions": lambda **options: figures.distributions(requests, comparison, "gloo", **options),
        "effects": lambda **options: figures.effects(comparison, **options),
        "predicted_beside_measured": lambda **options: figures.predicted_beside_measured(prediction, **options),
        "routes": lambda **options: figures.routes(cpu, allreduce_summary, **options),
        "held_out": lambda **options: figures.held_out(allreduce_summary, regret, cpu, **options),
        "roofline": lambda **options: figures.roofline(allreduce_summary.assign(device="sm_90"), **options),
        "numerics": lambda **options: figures.numerics(numerics_tables["ulp_histogram"], **options),
        "unpaired_ratios": lambda **options: figures.unpaired_ratios(both[both.run == "B"], "B", **options),
        "published_pr20759": lambda **options: figures.published_pr20759(published.load(), **options),
    }


@pytest.fixture(scope="session")
def reported_run(tmp_path_factory, tables):
    """A run that has everything, its page included; drawing takes seconds, so all tests read this one."""
    run = _whole_run(tmp_path_factory.mktemp("reported"), tables)
    make_report(run)
    return run


@pytest.fixture(scope="session")
def tables(allreduce_summary, serving_summary, comparison, gates, prediction) -> dict[str, pd.DataFrame]:
    setting = {"world_size": 2, "dtype": "bfloat16", "mode": "eager"}
    return {
        "allreduce_summary": allreduce_summary,
        "serving_summary": serving_summary,
        "serving": invented_requests(),
        "comparison": comparison,
        "gates": gates,
        "prediction": prediction,
        "regret": pd.DataFrame(
            [{**setting, "bytes": 65538, "chosen": "host/one_shot", "best": "gloo", "regret": 0.02}]
        ),
        "router_cost": pd.DataFrame(
            [{**setting, "bytes": 1024, "backend": "host/one_shot", "ratio": 1.02, "ci_low": 1.01, "ci_high": 1.03}]
        ),
    }


def invented_requests() -> pd.DataFrame:
    """100 requests of every block, arm and rate, spread evenly from 60 to 140 % of the arm's times."""
    return pd.DataFrame(
        [
            {"block": block, "arm": arm, "tp": 2, "qps": qps, "request": number, "start_s": number / qps,
             "input_tokens": 128, "output_tokens": 32, "ttft_ms": times["ttft"] * spread,
             "tpot_ms": times["tpot"] * spread, "e2el_ms": (times["ttft"] + 31 * times["tpot"]) * spread, "error": ""}
            for block in (0, 1, 2)
            for arm, times in TIMES_MS.items()
            for qps in (4, 8)
            for number in range(100)
            for spread in [0.6 + 0.008 * number]
        ]
    )  # fmt: skip


def _bare_run(directory):
    path = directory / "reports" / "runs" / RUN_ID
    manifest = {
        "status": "failed", "run_id": RUN_ID, "profile": "synthetic", "profile_hash": "1a2b3c4d" * 8,
        "argv": ["/somewhere/bin/symmlib", "run", "synthetic"], "started": "2026-11-23T22:10:05+00:00",
        "ended": "2026-11-23T22:17:45+00:00", "reason": "failed: 04_serving",
        "git": {"revision": "abcdef0123456789abcdef0123456789abcdef01", "dirty": True}, "versions": {"torch": "2.13.0"},
        "hardware": {"cpu": {"model": "Invented CPU", "cores": 2, "memory_bytes": 8 << 30}, "gpus": []},
        "topology": "Socket(s): 1", "environment": {"SYMMLIB_ALLREDUCE": "router"}, "gates": [], "files": {},
        "steps": {"04_serving": {"status": "failed", "reason": "no server got ready"}},
    }  # fmt: skip
    write_json(path / "manifest.json", manifest)
    return path


def _whole_run(directory, tables):
    run = _bare_run(directory)
    for name, table in tables.items():
        write_csv(run / "results" / f"{name}.csv", table)
    held_out = tables["allreduce_summary"]
    held_out = held_out[held_out.bytes == held_out.bytes.min()].assign(bytes=65538)
    write_csv(run / "check" / "results" / "allreduce_summary.csv", held_out)
    routes = (Route(1 << 16, "host/one_shot", (3 << 14, 5 << 14)), Route(None, "host/two_shot"))
    RoutingTable((Table("cpu", 2, "bfloat16", "eager", False, f"run {RUN_ID}", routes),)).save(run / "routing.toml")
    write_text(run / "params.yaml", "name: synthetic\nparameters: {02_allreduce: {}, 03_routing: {}, 04_serving: {}}\n")
    write_text(run / "notebooks" / "02_allreduce.ipynb", "{}")
    write_text(run / "raw" / "allreduce" / "launch-0 (odd #name).csv", "launch\n")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    write_json(run / "manifest.json", {**manifest, "status": "ok", "reason": "", "steps": {}})
    return run
