"""Items of lm-eval's samples to tables: accuracies, and arms compared item by item."""

import pandas as pd
import pytest

from symmlib.analysis.accuracy import INVALID, accuracy, compare, items_of, sentences

FLOOR = ("gloo", "gloo again")


def items(rights: dict[str, list[int]], prompts: str = "p") -> pd.DataFrame:
    """Items of arms by name, by whether each is right."""
    return pd.concat(
        [
            items_of(
                [
                    {"filter": "strict-match", "doc_id": item, "prompt_hash": f"{prompts}{item}", "exact_match": right}
                    for item, right in enumerate(given)
                ],
                tp=2,
                arm=arm,
                task="gsm8k",
            )
            for arm, given in rights.items()
        ]
    )


def test_accuracy_has_the_standard_error_that_the_pull_request_gives():
    table = accuracy(items({"gloo": [1] * 95 + [0] * 5}))
    assert table.iloc[0][["n", "correct", "accuracy"]].tolist() == [100, 95, 0.95]
    assert table.stderr[0] == pytest.approx(0.0219, abs=5e-5)  # as lm-eval printed it there for 0.95 of 100


def test_arms_are_compared_item_by_item_and_not_by_their_totals():
    right = [1] * 50 + [0] * 50
    turned = right[::-1]
    found = compare(items({"gloo": right, "gloo again": right, "router": turned}), [("gloo", "router")], FLOOR)
    router = found.set_index("treatment").loc["router"]
    assert (router.only_baseline, router.only_treatment, router.difference) == (
        50,
        50,
        0,
    )  # equal totals, no equal answers


def test_a_loss_is_worse_and_an_equal_arm_says_what_it_could_have_shown():
    right, broken = [1] * 90 + [0] * 10, [1] * 70 + [0] * 30
    table = compare(
        items({"gloo": right, "gloo again": right, "router": broken, "shm": right}),
        [("gloo", "router"), ("gloo", "shm")],
        FLOOR,
    ).set_index("treatment")
    assert table.verdict["router"] == "worse" and table.p_holm["router"] == pytest.approx(2 * 2 / 2**20)
    assert table.ci_high["router"] < -0.1
    assert table.verdict["shm"] == "no change detected; 100 items show one of 8.9 points or more (power 80 %)"
    assert table.detectable["shm"] == pytest.approx(0.089, abs=0.002)  # 7 must turn: two pairs begin at 0.025
    assert "20 items lost and 0 won of 100" in sentences(table.reset_index())[0]


def test_the_baseline_s_own_noise_makes_less_detectable():
    right = [1] * 90 + [0] * 10
    noisy = [0, 0, 0] + right[3:-3] + [1, 1, 1]
    quiet, loud = (
        compare(items({"gloo": right, "gloo again": again, "shm": right}), [("gloo", "shm")], FLOOR)
        .set_index("treatment")
        .detectable["shm"]
        for again in (right, noisy)
    )
    assert loud > quiet


def test_arms_that_were_asked_other_items_or_served_otherwise_give_no_verdict():
    right = [1] * 20
    asked = pd.concat([items({"gloo": right}), items({"router": right}, prompts="other")])
    found = compare(asked, [("gloo", "router")])
    assert (found.verdict[0], found.note[0]) == (INVALID, "the arms were not asked the same items")
    served = compare(
        items({"gloo": right, "router": right}), [("gloo", "router")], None, {(2, "router"): "gloo served"}
    )
    assert (served.verdict[0], served.note[0]) == (INVALID, "gloo served")
    assert sentences(served)[0].endswith("invalid: gloo served.")


def test_an_arm_that_is_not_there_yet_is_not_compared():
    assert compare(items({"gloo": [1, 0]}), [("gloo", "router")], FLOOR).empty
