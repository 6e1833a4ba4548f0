"""The list of all runs in a browser: with five hundred of them, for everyone, with and without its script."""

import time

import pytest

from symmlib.report import make_index
from symmlib.runs import write_csv, write_json, write_text

COUNT = 500
MODELS = ("tiny", "meta-llama/Llama-3.1-70B-Instruct", "/models/qwen3-8b")
GPUS = ([], [{"name": "NVIDIA B200"}] * 8, [{"name": "NVIDIA H100"}] * 4)
STATUSES = ("ok",) * 7 + ("failed", "invalid", "running")


@pytest.fixture(scope="module")
def many_runs(tmp_path_factory, comparison, gates):
    """The index of five hundred runs: of three models on three machines, with four verdicts, a tenth of them failed."""
    reports = tmp_path_factory.mktemp("many") / "reports"
    verdicts = ("faster", "slower", "equivalent", "inconclusive")
    tables = {verdict: comparison.assign(verdict=verdict).to_csv(index=False) for verdict in verdicts}
    for n in range(COUNT):
        day, minute = divmod(n, 20)
        stamp = f"2026{1 + day // 20:02d}{1 + day % 20:02d}T{minute:02d}0000Z"
        run = reports / "runs" / f"{stamp}-{('cpu', 'b200-tp8')[n % 2]}-{n:08x}"
        status = STATUSES[n % len(STATUSES)]
        manifest = {
            "status": status, "run_id": run.name, "profile": ("cpu", "b200-tp8")[n % 2],
            "started": f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{minute:02d}:00:00+00:00",
            "reason": "04_serving failed: no server got ready" if status == "failed" else "",
            "git": {"revision": f"{n:040x}"[::-1], "dirty": False},
            "hardware": {"cpu": {"model": "Invented CPU", "cores": 2}, "gpus": GPUS[n % 3]},
        }  # fmt: skip
        write_json(run / "manifest.json", manifest)
        rates = [1, 5, 10 + 90 * (n % 5 == 0)]
        write_json(run / "raw" / "serving" / "experiment.json", {"model": MODELS[n % 3], "tp": [8], "qps": rates})
        if status == "failed":
            continue
        write_text(run / "results" / "comparison.csv", tables[verdicts[n % 4]])
        write_text(run / "index.html", "<title>a run</title>")
        if status == "invalid":
            write_csv(run / "results" / "gates.csv", gates)
    began = time.perf_counter()
    index = make_index(reports)
    print(f"\nmake_index of {COUNT} runs: {time.perf_counter() - began:.1f} s, {index.stat().st_size / 1e3:.0f} kB")
    return index


def test_tmp(many_runs):
    print(many_runs)
