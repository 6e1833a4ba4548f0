"""An accuracy experiment before any server starts: what it refuses, its task, its prompts, its tables."""

import http.server
import json
import threading

import pandas as pd
import pytest
import yaml

from symmlib.analysis import accuracy as analysis
from symmlib.errors import UsageError
from symmlib.serving import accuracy_task, agreement, word_problems
from symmlib.serving.accuracy import AccuracyExperiment, AccuracyTurn
from symmlib.serving.accuracy_results import samples, write_results
from symmlib.serving.arms import Arm
from symmlib.serving.turns import take_up
from tests.waiting import PATIENCE_S


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"task": "gsm9k"}, "unknown task 'gsm9k'. Did you mean 'gsm8k'"),
        ({"data": "/somewhere"}, "data is for the task gsm8k; word_problems makes its own"),
        ({"limit": 1}, "limit 1 is not a whole number of at least 2"),
        ({"concurrency": True}, "concurrency True is not a whole number"),
        ({"arms": ["gloo"]}, "treatment 'router' is not among the arms gloo"),
        ({"arms": ["gloo", "glo"]}, "unknown arm 'glo'"),
    ],
)
def test_what_it_cannot_mean_is_refused_before_a_server_starts(given, says):
    with pytest.raises(UsageError, match=says):
        AccuracyExperiment(**given)


def test_the_task_is_lm_eval_s_own_but_for_its_data(tmp_path):
    own = yaml.safe_load(accuracy_task._gsm8k().read_text())
    task = accuracy_task.prepare("word_problems", tmp_path, items=10)
    made = yaml.safe_load((tmp_path / "word_problems.yaml").read_text())
    changed = {key for key in own.keys() | made.keys() if own.get(key) != made.get(key)}
    assert changed == {"task", "dataset_path", "dataset_name", "dataset_kwargs"}
    assert task.local and len((tmp_path / "test.jsonl").read_text().splitlines()) == 10
    assert [entry["name"] for entry in made["filter_list"]] == ["strict-match", "flexible-extract"]
    assert made["num_fewshot"] == 5


def test_gsm8k_is_taken_from_the_hub_or_from_a_directory_that_holds_it(tmp_path):
    assert not accuracy_task.prepare("gsm8k", tmp_path / "hub", items=10).local
    with pytest.raises(UsageError, match="holds no train.jsonl"):
        accuracy_task.prepare("gsm8k", tmp_path / "task", items=10, data=str(tmp_path))
    word_problems.write(tmp_path, 10)
    assert accuracy_task.prepare("gsm8k", tmp_path / "task", items=10, data=str(tmp_path)).local


def test_prompts_are_always_the_same_and_end_where_the_answer_begins():
    few, more = agreement.prompts(3), agreement.prompts(5)
    assert more[:3] == few and len(set(more)) == 5
    assert all(text.count("Question:") == 6 and text.endswith("\nAnswer:") for text in more)


def test_the_gap_is_to_the_best_other_token():
    assert agreement._gap(-0.1, "7", {"7": -0.1, "8": -2.6}) == pytest.approx(2.5)
    assert agreement._gap(-0.7, "7", {"7": -0.7, "8": -0.7}) == 0


def left_by_a_server(place, arm: str, right: list[int], tokens: list[int]) -> AccuracyTurn:
    """What a server of `arm` leaves, in invented numbers."""
    turn = AccuracyTurn(1, 2, Arm(arm, "gloo"), place / arm)
    (turn.output / "model").mkdir(parents=True)
    samples = [
        {"filter": name, "doc_id": item, "prompt_hash": str(item), "exact_match": value}
        for name in ("strict-match", "flexible-extract")
        for item, value in enumerate(right)
    ]
    (turn.output / "model" / "samples_word_problems_1.jsonl").write_text("\n".join(map(json.dumps, samples)))
    answer = {"token_ids": tokens, "logprobs": [-0.1] * len(tokens), "gaps": [4.0] * len(tokens)}
    turn.answers.write_text(json.dumps([answer] * 3))
    turn.trace.mkdir()
    call = {"backend": "gloo", "calls": 100, "by_table": True, "reason": ""}
    for rank in (0, 1):
        (turn.trace / f"rank-{rank}.json").write_text(json.dumps({"calls": [call]}))
    turn.finish(task="word_problems")
    return turn


def test_tables_and_gates_are_made_of_what_servers_left(tmp_path):
    experiment = AccuracyExperiment(arms=("gloo", {"name": "other", "all_reduce": "gloo"}), treatment="other")
    right, fewer = [1] * 18 + [0] * 2, [1] * 8 + [0] * 12
    done = [
        left_by_a_server(tmp_path / "raw", "gloo", right, [1, 2, 3]),
        left_by_a_server(tmp_path / "raw", "other", fewer, [1, 9, 3]),
        left_by_a_server(tmp_path / "raw", "gloo again", right, [1, 2, 3]),
    ]
    results = tmp_path / "results"
    others = pd.DataFrame([["sent on time", "TP=2, QPS 4", "valid", ""]], columns=["gate", "cell", "status", "reason"])
    results.mkdir()
    others.to_csv(results / "gates.csv", index=False)
    for _ in range(2):  # written anew, its own gates do not pile up
        comparison = write_results(experiment, done, results)
    assert comparison.set_index(["filter", "treatment"]).verdict["strict-match", "other"] == "worse"
    assert pd.read_csv(results / "accuracy.csv").set_index(["arm", "filter"]).correct["other", "strict-match"] == 8
    summary = pd.read_csv(results / "agreement_summary.csv").set_index("treatment")
    assert summary.verdict.to_dict() == {"other": "changed", "gloo again": "identical"}
    gates = pd.read_csv(results / "gates.csv")
    assert len(gates) == 4 and gates.cell[0] == "TP=2, QPS 4"


def test_an_arm_that_another_all_reduce_served_is_invalid(tmp_path):
    experiment = AccuracyExperiment(arms=("gloo", {"name": "other", "all_reduce": "gloo"}), treatment="other")
    done = [left_by_a_server(tmp_path / "raw", name, [1] * 20, [1, 2]) for name in ("gloo", "other")]
    (done[1].trace / "rank-1.json").unlink()
    comparison = write_results(experiment, done, tmp_path / "results")
    assert set(comparison.verdict) == {"invalid"}
    assert "1 of 2 ranks left a trace" in comparison.note[0]


def test_a_killed_experiment_goes_on_after_the_last_whole_server(tmp_path):
    experiment = AccuracyExperiment()
    turns = [left_by_a_server(tmp_path, name, [1, 0], [1]) for name in ("gloo", "router")]
    (tmp_path / "experiment.json").write_text(json.dumps({"hash": "a"}))
    (turns[1].place / "turn.json").unlink()
    assert take_up(turns, experiment, tmp_path, {"hash": "a"}) == turns[1:]
    assert turns[0].is_whole(experiment) and not turns[1].place.exists()


class AlwaysThree(http.server.BaseHTTPRequestHandler):
    """A stand-in for a server: whatever is asked, the answer is 3."""

    asked: list[dict] = []

    def do_POST(self):
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        choice = {"index": 0, "text": " That is 3.\n#### 3", "finish_reason": "stop"}
        body = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def test_lm_eval_asks_a_server_the_items_and_its_numbers_are_ours(tmp_path):
    task = accuracy_task.prepare("word_problems", tmp_path / "task", items=30)
    turn = AccuracyTurn(1, 2, Arm("gloo", "gloo"), tmp_path / "tp2-gloo")
    turn.place.mkdir()
    counts: list[int] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), AlwaysThree) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = {"url": f"http://127.0.0.1:{server.server_port}", "model": "m", "limit": 30, "shots": 5}
        asked |= {"concurrency": 4, "max_new_tokens": 20, "output": str(turn.output)}
        with accuracy_task.Evaluator(task, tmp_path / "client.log", tmp_path / "scratch") as evaluator:
            evaluator.evaluate(asked, tmp_path / "lm_eval.log", PATIENCE_S, counts.append)
        server.shutdown()
    assert len(AlwaysThree.asked) == 30
    for request in AlwaysThree.asked:
        assert request["prompt"].count("Question:") == 6 and request["prompt"].endswith("\nAnswer:")
        assert (request["temperature"], request["max_tokens"]) == (0, 20)
    ours = analysis.accuracy(analysis.items_of(samples(turn), tp=2, arm="gloo", task=task.name)).set_index("filter")
    (theirs,) = (json.loads(path.read_text())["results"][task.name] for path in turn.output.rglob("results_*.json"))
    for name in ("strict-match", "flexible-extract"):
        assert ours.accuracy[name] == pytest.approx(theirs[f"exact_match,{name}"])
        assert ours.stderr[name] == pytest.approx(theirs[f"exact_match_stderr,{name}"])
    assert 0 < ours.accuracy["strict-match"] < 1 and counts[-1] == 30
