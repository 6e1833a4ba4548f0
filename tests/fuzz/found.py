"""Inputs that made the suite crash once, by the property that they broke: kept so that they never do again."""

import copy
import json

from documents import csv_text, json_text, toml_document
from samples import AIPERF, GUIDELLM, RUN_DATA, RUN_FILES, SAMPLES, SUMMARY, TABLE, VLLM

HUGE = "1" + 330 * "0"  # no float holds it
GUIDELLM_TIMES = ("benchmarks", 0, "requests", "successful", 0, "info", "timings")
GUIDELLM_NAMES = ("first_token_iteration", "last_token_iteration")
AIPERF_NAMES = ("time_to_first_token", "request_latency", "inter_chunk_latency")


def replaced(document, *path_and_value):
    """`document` with another value at the path of keys and positions."""
    *path, last, value = path_and_value
    document = copy.deepcopy(document)
    node = document
    for key in path:
        node = node[key]
    node[last] = value
    return document


def imported(text: str) -> tuple:
    return "imported_result", (text, "gloo", 1, 4.0)


def measured(summary: list, samples: list) -> tuple:
    return "allreduce_results", (csv_text(summary).encode(), csv_text(samples).encode(), "plain")


def of_a_run(name: str, value) -> dict[str, bytes]:
    write = csv_text if name.endswith(".csv") else json_text
    return {**RUN_FILES, name: write(value).encode()}


CPU = ("hardware", "cpu")
MANIFEST, MEASURED = RUN_DATA["manifest.json"], RUN_DATA["results/allreduce_summary.csv"]
FOUND = [
    *(("routing_table", toml_document(replaced(TABLE, "table", 1, "incumbent", odd))) for odd in ({}, [])),
    ("report_of_a_run", of_a_run("manifest.json", replaced(MANIFEST, *CPU, "model", None))),
    ("report_of_a_run", of_a_run("manifest.json", replaced(MANIFEST, *CPU, "memory_bytes", 10**330))),
    ("report_of_a_run", of_a_run("results/allreduce_summary.csv", replaced(MEASURED, 1, 4, HUGE))),
    ("resumed_run", of_a_run("manifest.json", replaced(MANIFEST, "ended", float("nan")))),
    (
        "resumed_run",
        RUN_FILES | {"manifest.json": json_text(replaced(MANIFEST, "ended", "?")).replace('"?"', "1e400").encode()},
    ),
    *(imported(json_text(replaced(VLLM, "input_lens", 0, odd))) for odd in ("x", {}, [], {"a": None})),
    *(imported(json_text(replaced(VLLM, "itls", 0, odd))) for odd in ("x", None, 1, {}, True)),
    *(imported(json_text(replaced(VLLM, "itls", 0, 0, odd))) for odd in ("x", None, {}, [])),
    imported(json_text(replaced(VLLM, "errors", 0, None))),
    imported(json_text(replaced(VLLM, "ttfts", "-inf"))),
    *(imported(json_text(replaced(VLLM, name, 0, 10**330))) for name in VLLM if name != "duration"),
    *(imported(json_text(replaced(GUIDELLM, *GUIDELLM_TIMES, name, 10**330))) for name in GUIDELLM_NAMES),
    imported(json_text(replaced(AIPERF[0], "metadata", "request_start_ns", 10**330))),
    *(imported(json_text(replaced(AIPERF[0], "metrics", name, "value", 10**330))) for name in AIPERF_NAMES),
    *(
        imported(json.dumps(replaced(VLLM, *path, "?")).replace('"?"', "1e400"))  # which JSON reads as infinity
        for path in (("input_lens", 0), ("output_lens", 0), ("itls", 0, 0), ("errors", 0), ("duration",))
    ),
    *(measured(replaced(SUMMARY, 2, SUMMARY[0].index(name), HUGE), SAMPLES) for name in ("bytes", "wrong")),
    measured(SUMMARY, replaced(SAMPLES, 2, SAMPLES[0].index("bytes"), HUGE)),
]
