"""Small valid inputs of every kind, which `properties` damages."""

import json
from pathlib import Path

import yaml

DATA = Path(__file__).parents[1] / "serving" / "data"
ROUTE = {"max_bytes": 65536, "backend": "host/one_shot", "crossover_bytes": [40000, 90000]}
TABLE = {
    "schema": 1,
    "table": [
        {"device": device, "world_size": 2, "dtype": "bfloat16", "mode": "eager", "multicast": False, "source": "x",
         "incumbent": "gloo", "route": [ROUTE, {"backend": "host/two_shot"}]}
        for device in ("cpu", "sm_100")
    ],
}  # fmt: skip

EXPERIMENT = {
    "model": "tiny", "tp": [2], "qps": [4, 8.5], "duration_s": 8, "input_len": 128, "output_len": 32, "prefix_len": 8,
    "sonnet_path": "", "blocks": 3, "tier": "quick", "baseline": "gloo", "treatment": "router", "max_model_len": 2048,
    "server_args": ["--max-num-seqs", "64"], "port": 0, "ready_timeout_s": 300, "seed": 0,
    "arms": [
        "gloo", "router",
        {"name": "other", "all_reduce": "vllm-default", "environment": {"A": "1"}, "server_args": ["--x", "y"],
         "must_use": ["SHM"], "must_not_use": []},
    ],
}  # fmt: skip
PROFILE = {
    "name": "some",
    "description": "x",
    "parameters": {
        "02_allreduce": {"world_size": 2, "backends": ["gloo", "host/one_shot"], "sizes": "1KiB:1MiB:x4"},
        "03_routing": {"held_out_launches": 1},
        "04_serving": EXPERIMENT,
    },
}
PROFILE_YAML = yaml.safe_dump(PROFILE, sort_keys=False)

_FEW = 4
_vllm = json.loads((DATA / "vllm-bench-serve.json").read_text())
# Of those keys alone that a reader looks at: damage to any other one says nothing.
VLLM = {key: _vllm[key][:_FEW] for key in ("start_times", "ttfts", "itls", "input_lens", "output_lens", "errors")}
VLLM |= {"duration": _vllm["duration"], "latencies": _vllm["latencies"][:_FEW]}
VLLM["itls"] = [gaps[:3] for gaps in VLLM["itls"]]
_guidellm = json.loads((DATA / "guidellm.json").read_text())["benchmarks"][0]["requests"]
GUIDELLM = {"benchmarks": [{"requests": {key: (value or [])[:2] for key, value in _guidellm.items()}}]}
AIPERF = [json.loads(line) for line in (DATA / "aiperf.jsonl").read_text().splitlines()[:_FEW]]

_POINT = [["gloo", 2, "bfloat16", "eager", size] for size in (1024, 65536, 1 << 20)]
_POINT += [["host/one_shot", *point[1:]] for point in _POINT]
_HEAD = ["backend", "world_size", "dtype", "mode", "bytes"]
SUMMARY = [
    [*_HEAD, "launches", "median_us", "p99_us", "algbw_gbps", "busbw_gbps", "max_abs_error", "wrong",
     "bitwise_equal_across_ranks", "status", "reason", "samples", "device", "multicast"],
    *([*point, 2, 5.5, None, 1.0, 1.0, 0.0, 0, True, "ok", None, 40, "cpu", False] for point in _POINT),
]  # fmt: skip
SAMPLES = [
    ["launch", "round", *_HEAD, "iteration", "time_us"],
    *([launch, number, *point, 0, 5.0 + number] for launch in (0, 1) for number in (0, 1) for point in _POINT),
]

_MANIFEST = {
    "status": "running", "run_id": "20261123T221005Z-x-1a2b3c4d", "profile": "x", "profile_hash": "1a2b3c4d",
    "argv": ["/bin/symmlib", "run", "x"], "started": "2026-11-23T22:10:05+00:00", "ended": None, "reason": "",
    "git": {"revision": "abcdef0123", "dirty": True}, "versions": {"torch": "2.13.0"},
    "hardware": {"cpu": {"model": "some CPU", "cores": 2, "memory_bytes": 8 << 30}, "gpus": [{"name": "some GPU"}]},
    "topology": "x", "environment": {"SYMMLIB_ALLREDUCE": "router"},
    "gates": [{"gate": "rate", "cell": "x", "status": "valid", "reason": ""}], "files": {"results/gates.csv": 10},
    "steps": {
        "02_allreduce": {"status": "ok", "started": "2026-11-23T22:10:05+00:00", "ended": "2026-11-23T22:11:05+00:00",
                         "parameters_hash": "x", "outputs": ["results/gates.csv"]},
        "04_serving": {"status": "failed", "reason": "no server got ready"},
    },
}  # fmt: skip
_CELL = [2, 4, "tpot", "median"]
_TIMES = [["block", "arm", "tp", "qps", "metric", "statistic", "value_ms", "requests", "note"]]
_TIMES += [[block, arm, *_CELL, 3.5 + block, 40, None] for block in (1, 2, 3) for arm in ("gloo", "router")]
RUN_DATA = {
    "manifest.json": _MANIFEST,
    "03_routing.failure.json": {"step": "03_routing", "reason": "x", "parameters": {}, "traceback": "x"},
    "raw/serving/experiment.json": {"workload": "random tokens", "vllm": "0.32.0", "is_a_a": False, "load_key": "x"},
    "results/allreduce_summary.csv": SUMMARY,
    "results/allreduce.csv": SAMPLES,
    "results/serving_summary.csv": _TIMES,
    "results/comparison.csv": [
        ["tp", "qps", "metric", "statistic", "baseline", "treatment", "ratio", "ci_low", "ci_high", "p_value",
         "blocks", "tier", "verdict", "note", "delta"],
        [*_CELL, "gloo", "router", 0.5, 0.4, 0.6, 0.25, 3, "quick", "faster", None, 0.025],
        [2, 8, "ttft", "mean", "gloo", "router", 1.5, 1.4, 1.6, 0.25, 3, "quick", "slower", None, 0.025],
    ],
    "results/gates.csv": [["gate", "cell", "status", "reason"], ["rate", "TP=2, QPS 4", "invalid", "too slow"]],
    "results/regret.csv": [["world_size", "dtype", "mode", "bytes", "chosen", "best", "regret"],
                           [2, "bfloat16", "eager", 65538, "gloo", "gloo", 0.0]],
    "results/noise_floor.csv": [["metric", "statistic", "delta", "blocks", "cells"], ["tpot", "median", 0.03, 3, 2]],
}  # fmt: skip


def _csv(rows: list[list]) -> str:
    return "".join(",".join("" if cell is None else f'"{cell}"' for cell in row) + "\n" for row in rows)


RUN_FILES = {
    name: (_csv(data) if name.endswith(".csv") else json.dumps(data)).encode() for name, data in RUN_DATA.items()
} | {"params.yaml": PROFILE_YAML.encode(), "routing.toml": b"schema = 1\n", "notebooks/02_allreduce.ipynb": b"{}"}

# What opens a vLLM server to more than this machine, or to web pages of other origins. vLLM's parser takes any
# beginning of an option's name that fits no other option.
EXPOSING = ("--host", "--allowed-origins", "--allow-credentials", "--uds", "--config", "--ssl-keyfile")


def exposing(argv: list[str]) -> list[str]:
    """The arguments of a `vllm serve` command that expose it, those of symmlib itself left out."""
    ours = argv.index("--no-enable-prefix-caching")
    names = [argument.split("=")[0].replace("_", "-") for argument in argv[ours:] if argument.startswith("--")]
    return [name for name in names if len(name) > 3 and any(option.startswith(name) for option in EXPOSING)]
