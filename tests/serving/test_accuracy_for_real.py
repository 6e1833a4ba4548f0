"""Real servers, the real lm-eval, a model that was trained here: sound arms agree, a broken all-reduce is caught."""

import os
from pathlib import Path

import pandas as pd
import pytest

from symmlib.serving.accuracy import AccuracyExperiment, run_accuracy
from tests.waiting import PATIENCE_S

PLANTED = Path(__file__).parent / "planted"
BROKEN = {
    "name": "broken",
    "all_reduce": "gloo",
    "environment": {"PYTHONPATH": os.pathsep.join(filter(None, [str(PLANTED), os.environ.get("PYTHONPATH")]))},
}
ITEMS = 40


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Where an experiment of a sound arm, a broken one, and the sound one again has left its results."""
    place = tmp_path_factory.mktemp("accuracy")
    experiment = AccuracyExperiment(
        arms=("gloo", BROKEN),
        baseline="gloo",
        treatment="broken",
        limit=ITEMS,
        agreement_prompts=8,
        max_new_tokens=48,
        ready_timeout_s=PATIENCE_S,
    )
    run_accuracy(experiment, place)
    return place


def results(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / "results" / f"{name}.csv", keep_default_na=False, na_values=[""])


def test_the_trained_model_solves_problems_that_it_was_not_trained_on(out):
    scores = results(out, "accuracy").query("arm == 'gloo'").set_index("filter")
    assert (scores["n"] == ITEMS).all()
    assert scores.accuracy["strict-match"] > 0.5
    assert scores.accuracy["flexible-extract"] > 0.5


def test_the_broken_arm_is_worse_by_its_answers(out):
    compared = results(out, "accuracy_comparison").set_index(["filter", "treatment"])
    for filter_ in ("strict-match", "flexible-extract"):
        assert compared.verdict[filter_, "broken"] == "worse"
        assert compared.verdict[filter_, "gloo again"].startswith("no change detected")


def test_the_broken_arm_s_greedy_tokens_part_from_the_baseline_s_where_that_was_sure(out):
    summary = results(out, "agreement_summary").set_index("treatment")
    assert summary.verdict.to_dict() == {"broken": "changed", "gloo again": "identical"}
    assert summary.largest_gap["broken"] > 1


def test_the_gates_see_nothing_wrong_because_the_intended_all_reduce_did_serve(out):
    gates = results(out, "gates")
    assert set(gates["cell"]) == {f"TP=2, {arm}, accuracy" for arm in ("gloo", "broken", "gloo again")}
    assert (gates["status"] == "valid").all()  # which is why answers have to be looked at


def test_what_lm_eval_wrote_and_the_command_that_repeats_it_are_kept(out):
    place = out / "raw" / "accuracy" / "tp2-gloo"
    assert list(place.glob("lm_eval/*/results_*.json")) and list(place.glob("lm_eval/*/samples_word_problems_*.jsonl"))
    commands = (place / "commands.txt").read_text().splitlines()
    assert "vllm serve" in commands[0] and "lm_eval run --model local-completions" in commands[1]
    assert "OPENAI_API_KEY=none" in commands[1]
