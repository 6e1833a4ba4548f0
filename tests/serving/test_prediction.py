"""The prediction of a run's directory, its files written by what writes them in a real run."""

import shutil

import pandas as pd
import pytest

from symmlib.analysis import serving as analysis
from symmlib.analysis import words
from symmlib.analysis.prediction import PREDICTION_COLUMNS
from symmlib.report import figures
from symmlib.routing import Decision
from symmlib.routing.trace import Served, Trace
from symmlib.runs import write_csv, write_json, write_text
from symmlib.serving import ServingExperiment, predict
from symmlib.serving.model import make_model

EXPERIMENT = ServingExperiment(input_len=64, qps=(4,), arms=("gloo", "vllm/shm", "router"))
BACKENDS = {"gloo": "gloo", "vllm/shm": "vllm/shm", "router": "host/one_shot"}
MEDIANS_US = {"gloo": 800, "vllm/shm": 60, "host/one_shot": 10}


@pytest.fixture
def run(tmp_path):
    """A run of three blocks on the tiny model: 200 steps that decode and 20 that hold a prompt, a server."""
    serving = tmp_path / "raw" / "serving"
    make_model(tmp_path / "raw" / "model")
    write_json(serving / "experiment.json", {**EXPERIMENT.as_dict(), "left_out": {}})
    summaries = []
    for block in (1, 2, 3):
        for arm, backend in BACKENDS.items():
            place = serving / f"block-{block}" / f"tp2-{arm.replace('/', '-')}"
            trace = Trace(0, 2, place / "trace")
            for tokens, steps in ((1, 200), (65, 20)):
                trace.add(Served(Decision(backend, "a test"), 512 * tokens, "bfloat16", 9 * steps))
            trace.close()
            write_text(place / "commands.txt", "vllm serve model --enforce-eager\n")
            write_json(place / "turn.json", {"block": block, "tp": 2, "arm": arm})
            value_ms = 10 + 9 * MEDIANS_US[backend] / 1000 + 0.01 * block * (arm == "router")
            rows = [(metric, statistic, value_ms, 20, "") for metric in ("ttft", "tpot")
                    for statistic in ("mean", "median")]  # fmt: skip
            frame = pd.DataFrame(rows, columns=analysis.SUMMARY_COLUMNS[4:])
            summaries.append(frame.assign(block=block, arm=arm, tp=2, qps=4))
    summary = pd.concat(summaries)[analysis.SUMMARY_COLUMNS]
    write_csv(tmp_path / "results" / "serving_summary.csv", summary)
    write_csv(tmp_path / "results" / "comparison.csv", analysis.compare(summary, EXPERIMENT.pairs()))
    setting = {"world_size": 2, "dtype": "bfloat16", "mode": "eager", "status": "ok", "wrong": 0, "device": "cpu"}
    times = [
        {"backend": name, "bytes": size, "median_us": time_us, **setting}
        for name, time_us in MEDIANS_US.items()
        for size in (512, 65536)
    ]
    write_csv(tmp_path / "results" / "allreduce_summary.csv", pd.DataFrame(times))
    return tmp_path


def test_a_run_is_read_from_its_own_files_and_the_table_is_kept(run):
    table = predict(run)
    assert list(table.columns) == PREDICTION_COLUMNS
    assert set(zip(table["baseline"], table["treatment"], strict=True)) == set(EXPERIMENT.pairs())
    assert set(table["note"]) == {""}
    to_router = table[(table["baseline"] == "gloo") & (table["treatment"] == "router")]
    assert to_router["predicted_ms"].to_numpy() == pytest.approx(-9 * 0.79)
    assert to_router["explained"].to_numpy() == pytest.approx(1, abs=0.01)
    kept = pd.read_csv(run / "results" / "prediction.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(kept, table, check_dtype=False)


def test_times_of_another_run_serve_as_well(run, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("other") / "times.csv"
    (run / "results" / "allreduce_summary.csv").rename(elsewhere)
    assert set(predict(run)["note"]) == {"no all-reduce was timed"}
    assert predict(run, elsewhere)["predicted_ms"].notna().all()


def test_what_is_predicted_of_ranks_that_shared_a_gpu_says_so(run):
    comparison = pd.read_csv(run / "results" / "comparison.csv", keep_default_na=False)
    write_csv(run / "results" / "comparison.csv", comparison.assign(device="sm_90/one-gpu"))
    table = predict(run)
    assert list(table.columns) == [*PREDICTION_COLUMNS, "device"]
    assert figures.predicted_beside_measured(table).banner == words.ONE_GPU_BANNER


def test_times_of_kernels_that_do_not_serve_predict_nothing(run):
    experiment(run, one_gpu=True)
    (note,) = set(predict(run)["note"])
    assert "set beside_a_model in 02_allreduce" in note
    write_json(run / "raw" / "allreduce" / "plan.json", {"beside_a_model": True})
    assert "beside_a_model" not in set(predict(run)["note"])


def test_without_serving_results_the_table_has_no_rows(tmp_path):
    assert predict(tmp_path).empty
    assert (tmp_path / "results" / "prediction.csv").read_text().strip() == ",".join(PREDICTION_COLUMNS)


def experiment(run, **changes):
    write_json(run / "raw" / "serving" / "experiment.json", {**EXPERIMENT.as_dict(), **changes})


def test_what_is_missing_gives_the_reason_and_keeps_what_was_measured(run):
    experiment(run, model="meta-llama/Llama-3.1-70B-Instruct")
    shutil.rmtree(run / "raw" / "model")  # none was made here
    assert_no_prediction(run, "the size of the model meta-llama/Llama-3.1-70B-Instruct is not known here")
    experiment(run)
    write_json(run / "raw" / "model" / "config.json", {"hidden_size": 256})
    assert_no_prediction(run, "does not say num_hidden_layers")
    make_model(run / "raw" / "model")
    for commands in run.rglob("commands.txt"):
        write_text(commands, "vllm serve model\n")
    assert_no_prediction(run, "CUDA graphs")
    experiment(run, server_args=["--enforce-eager"])
    assert predict(run)["predicted_ms"].notna().all()
    write_text(run / "raw" / "serving" / "block-1" / "tp2-gloo" / "trace" / "rank-0.json", "{")
    assert_no_prediction(run, "the run cannot be read")
    (run / "raw" / "serving" / "experiment.json").unlink()
    assert_no_prediction(run, "the run cannot be read")


def test_a_run_of_vllm_alone_has_no_trace_to_predict_from(run):
    for trace in run.rglob("rank-0.json"):
        trace.unlink()
    assert_no_prediction(run, "no server left a trace of its all-reduces; vllm-default never does")


def test_a_server_may_say_itself_what_it_was(run):
    place = run / "raw" / "serving" / "block-1" / "tp2-router"
    write_json(place / "turn.json", {"arm": "router", "tp": 2, "block": 1})
    place.rename(place.with_name("tp2-whatever"))
    assert predict(run)["predicted_ms"].notna().all()


@pytest.mark.parametrize("name", ["serving_summary", "comparison", "allreduce_summary"])
@pytest.mark.parametrize("damage", ["", "tp,qps\n1,2\n", "\x00\x01"])
def test_a_damaged_table_costs_the_prediction_and_no_error(run, name, damage):
    write_text(run / "results" / f"{name}.csv", damage)
    assert predict(run)["predicted_ms"].isna().all()


def test_an_invalid_cell_counts_for_nothing(run):
    comparison = pd.read_csv(run / "results" / "comparison.csv")
    write_csv(run / "results" / "comparison.csv", comparison.assign(verdict="invalid", note="two schedules"))
    assert predict(run)["measured_ms"].isna().all()
    assert set(predict(run)["note"]) == {"invalid: two schedules"}


def assert_no_prediction(run, reason: str) -> None:
    table = predict(run)
    assert table["predicted_ms"].isna().all() and table["measured_ms"].notna().all()
    assert all(reason in note for note in table["note"]), set(table["note"])
