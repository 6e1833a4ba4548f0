"""How long is left is told from what servers took, and before that from what servers have taken elsewhere."""

from pathlib import Path

import pytest

from symmlib.serving import ServingExperiment, estimate
from symmlib.serving.arms import Arm
from symmlib.serving.turns import Turn

EXPERIMENT = ServingExperiment(tp=(2, 4), qps=(1, 5), duration_s=10, blocks=3, arms=("gloo", "router"))
GLOO, ROUTER = (Arm.of(name) for name in ("gloo", "router"))


def turn(tp: int, arm: Arm, block: int = 1) -> Turn:
    return Turn(block, tp, arm, Path("unused"))


def test_before_the_first_server_it_is_what_the_whole_experiment_was_said_to_take():
    known = estimate.Estimate(EXPERIMENT, "cpu")
    turns = [turn(tp, arm, block) for tp in (2, 4) for arm in (GLOO, ROUTER) for block in (1, 2, 3)]
    assert known.of(*turns) == pytest.approx(12 * estimate.server_s(EXPERIMENT, "cpu")) and not known.is_measured


def test_a_server_takes_as_long_as_the_last_of_its_kind_else_as_the_last_of_all():
    known = estimate.Estimate(EXPERIMENT, "cuda")
    known.took(turn(2, GLOO), 130)  # the first compiles
    assert known.is_measured and known.of(turn(2, ROUTER)) == 130
    known.took(turn(2, ROUTER), 80)
    assert known.of(turn(4, GLOO)) == 80
    known.took(turn(2, GLOO, 2), 70)
    assert (known.of(turn(2, ROUTER, 2)), known.of(turn(4, ROUTER))) == (80, 70)
    assert known.of(turn(2, ROUTER, 2), turn(2, GLOO, 3)) == 150
