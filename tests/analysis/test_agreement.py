"""Greedy answers beside each other: where they part, how sure the baseline was there, and what that is called."""

import math

import pandas as pd
import pytest

from symmlib.analysis.agreement import CHANGED, CLOSE, NOISE, SAME, compare, sentences, summarize

SURE, CLOSE_GAP = 3.0, 0.1
FLOOR = ("gloo", "gloo again")


def answer(tokens: list[int], gap: float = SURE, shift: float = 0.0) -> dict:
    return {"token_ids": tokens, "logprobs": [-0.1 + shift] * len(tokens), "gaps": [gap] * len(tokens)}


def summary(**arms: list[dict]) -> pd.DataFrame:
    """Of arms by name, each against the first; `floor` is the baseline served again."""
    first, *_ = arms.values()
    names = {"floor": FLOOR[1]}
    tables = [
        compare(first, given).assign(tp=2, baseline="gloo", treatment=names.get(name, name))
        for name, given in arms.items()
        if name != "gloo"
    ]
    return summarize(pd.concat(tables), {2: FLOOR}).set_index("treatment")


def test_the_first_divergence_is_found_with_the_baseline_s_gap_and_what_lies_before_it():
    found = compare([answer([1, 2, 3, 4])], [answer([1, 2, 9, 4], gap=0.5, shift=0.02)]).iloc[0]
    assert not found.identical and found.first_divergence == 2 and found.gap == SURE
    assert found.logprob_difference == pytest.approx(0.02)


def test_identical_answers_have_no_divergence_but_may_differ_in_their_logprobs():
    found = compare([answer([1, 2])], [answer([1, 2], shift=-0.001)]).iloc[0]
    assert found.identical and pd.isna(found.first_divergence) and math.isnan(found.gap)
    assert found.logprob_difference == pytest.approx(0.001)


def test_answers_to_different_prompts_are_refused():
    with pytest.raises(ValueError, match="2 and 1 answers"):
        compare([answer([1]), answer([2])], [answer([1])])


def test_an_arm_that_always_says_the_same_is_identical():
    same = [answer([1, 2])] * 8
    assert summary(gloo=same, floor=same, router=same).verdict.to_dict() == {"gloo again": SAME, "router": SAME}


def test_parting_where_two_tokens_are_as_good_as_even_is_no_change():
    same = [answer([1, 2], gap=CLOSE_GAP)] * 8
    other = [answer([1, 3])] * 8
    assert summary(gloo=same, floor=same, router=other).verdict["router"] == CLOSE


def test_parting_where_the_baseline_was_sure_is_a_change_unless_it_does_so_itself():
    same, other = [answer([1, 2])] * 8, [answer([1, 3])] * 8
    found = summary(gloo=same, floor=same, router=other)
    assert found.verdict["router"] == CHANGED and found.p_value["router"] == pytest.approx(2 / 2**8)
    assert summary(gloo=same, floor=other, router=other).verdict["router"] == NOISE
    one = [other[0], *same[1:]]
    assert summary(gloo=same, floor=one, router=other).verdict["router"] == CHANGED


def test_a_sentence_says_where_and_by_how_much():
    same = [answer([1, 2])] * 3
    table = summary(gloo=same, floor=same, router=[*same[:2], answer([1, 3])]).reset_index()
    floor, router = sentences(table, [FLOOR])
    assert floor == "gloo again and gloo at TP=2 (noise floor): 3 of 3 sequences are identical."
    assert router == (
        "router and gloo at TP=2: 2 of 3 sequences are identical; the earliest parts at token 1, and the baseline was "
        "ahead by up to 3 nats where they part: changed."
    )
