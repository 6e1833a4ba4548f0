"""The part of the page on answers: scores beside the published ones, what changed, and what could have been seen."""

import pandas as pd
import pytest

from symmlib.analysis.accuracy import accuracy, compare, items_of
from symmlib.analysis.agreement import summarize
from symmlib.report import make_report
from symmlib.report.accuracy import beside_published
from symmlib.runs import write_csv

FLOOR = ("gloo", "gloo again")


def answered(rights: dict[str, list[int]]) -> pd.DataFrame:
    parts = []
    for arm, right in rights.items():
        samples = [
            {"filter": name, "doc_id": item, "prompt_hash": str(item), "exact_match": value}
            for name in ("strict-match", "flexible-extract")
            for item, value in enumerate(right)
        ]
        parts.append(items_of(samples, tp=2, arm=arm, task="word_problems"))
    return pd.concat(parts)


def add_answers(run, router: list[int]) -> str:
    """Add invented answers to a run; returns its page."""
    right = [1] * 45 + [0] * 5
    items = answered({"gloo": right, "gloo again": right, "router": router})
    write_csv(run / "results" / "accuracy.csv", accuracy(items))
    write_csv(run / "results" / "accuracy_comparison.csv", compare(items, [("gloo", "router")], FLOOR))
    parted = {"prompt": [0, 1], "tokens": 4, "identical": [True, False], "first_divergence": [pd.NA, 2],
              "gap": [float("nan"), 3.0], "logprob_difference": 0.0}  # fmt: skip
    table = pd.DataFrame(parted).assign(tp=2, baseline="gloo", treatment="router")
    write_csv(run / "results" / "agreement_summary.csv", summarize(table, {2: FLOOR}))
    return make_report(run).read_text(encoding="utf-8")


def test_a_sound_arm_is_told_with_what_could_have_been_seen(whole_run):
    page = add_answers(whole_run, [1] * 45 + [0] * 5)
    assert "Are the answers still right?" in page
    assert "No change of accuracy was detected in any arm against gloo, with 50 items: a loss of 15 points" in page
    assert "vLLM pull request 20759" in page and "± 0.022" in page and "± 0.030" in page
    assert "1 of 2 sequences are identical; the earliest parts at token 2" in page


def test_a_broken_arm_is_named_with_a_warning(whole_run):
    page = add_answers(whole_run, [1] * 15 + [0] * 35)
    assert "router: answers are worse than those of gloo. Do not serve with it before you know why." in page


def test_a_run_without_answers_has_no_such_section(whole_run):
    page = make_report(whole_run).read_text(encoding="utf-8")
    assert "Are the answers still right?" not in page
    assert "step 05_accuracy is not part of this run" in page


def test_the_published_accuracies_stand_beside_the_run_s():
    table = beside_published(accuracy(answered({"gloo": [1] * 9 + [0]})))
    theirs = table[table.source == "vLLM pull request 20759"].set_index("filter")
    assert theirs.accuracy.to_dict() == {"flexible-extract": 0.95, "strict-match": 0.90}
    assert theirs.stderr["flexible-extract"] == pytest.approx((0.95 * 0.05 / 99) ** 0.5, abs=5e-5)
