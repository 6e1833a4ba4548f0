"""An experiment that several GPUs, or several calls, share: who serves what, and the one run that is made of it."""

import json

import pytest

from symmlib.cli import main
from symmlib.errors import UsageError
from symmlib.runs import write_json
from symmlib.serving import ServingExperiment, claim
from symmlib.serving.parts import ALL, Part, merge
from symmlib.serving.turns import all_turns, take_up

FLOOR = {"name": "floor", "all_reduce": "gloo", "blocks": 1}
EXPERIMENT = ServingExperiment(tp=(2, 4), arms=("vllm/shm", "router", FLOOR), baseline="vllm/shm", blocks=3)


def noted(blocks: int = 3, digest: str = "a") -> dict:
    return {"hash": digest, "blocks": blocks}


def served(out, turns, note) -> None:
    """As if `turns` had run to their end in the run `out`."""
    raw = out / "raw" / "serving"
    for turn in turns:
        place = raw / turn.place
        (place / "trace").mkdir(parents=True)
        (place / "trace" / "rank-0.json").write_text("{}")
        for one in turn.measurements(EXPERIMENT):
            for path in (one.path, one.schedule_path):
                write_json(raw / path, {"from": out.name})
        write_json(place / "turn.json", {"block": turn.block, "tp": turn.tp, "arm": turn.arm.name})
    write_json(raw / "experiment.json", note)


@pytest.fixture
def turns(tmp_path):
    """Of the experiment, with places that are relative to raw/serving."""
    return all_turns(EXPERIMENT, tmp_path.relative_to(tmp_path))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7])
def test_every_server_is_in_one_part_and_the_arms_of_a_block_stay_together(turns, count):
    parts = [Part(number, count).turns(turns) for number in range(1, count + 1)]
    assert sorted(map(str, sum(parts, []))) == sorted(map(str, turns))
    homes = [{(turn.block, turn.tp) for turn in part} for part in parts]
    assert sum(map(len, homes)) == 6  # no pair of a block and a TP is in two of them
    assert ALL.turns(turns) == turns


def test_two_parts_of_two_tensor_parallel_sizes_are_one_size_each_with_more_blocks_too(turns):
    more = all_turns(ServingExperiment(tp=(2, 4), arms=EXPERIMENT.arms, baseline="vllm/shm", blocks=5), turns[0].place)
    for number, tp in ((1, 2), (2, 4)):
        for asked in (turns, more):
            assert {turn.tp for turn in Part(number, 2).turns(asked)} == {tp}


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "1/2/3", "a/b", "1.5/2", "²/3"])
def test_what_is_no_part_is_refused(text, capsys):
    assert main(["serve", "--part", text, "--dry-run"]) == 2
    assert f"part '{text}' is not one of several, such as 1/2 and 2/2" in capsys.readouterr().err


def test_a_dry_run_counts_the_servers_of_its_part(capsys):
    assert main(["serve", "--profile", "one-gpu-serving", "--part", "2/2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "part      2/2, 10 of 20 servers" in said and "for each of 10 servers to start" in said


@pytest.fixture
def parts(turns, tmp_path):
    """Both halves of the experiment; the last server of the second one was killed."""
    one, two = tmp_path / "one", tmp_path / "two"
    *whole, killed = Part(2, 2).turns(turns)
    served(one, Part(1, 2).turns(turns), noted())
    served(two, whole, noted(blocks=6))
    (two / "raw" / "serving" / killed.place).mkdir(parents=True)
    (one / "raw" / "serving" / "routing.toml").write_text("a table")
    return one, two


def test_the_servers_of_all_parts_become_one_run_which_the_experiment_takes_for_its_own(parts, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["serve", "merge", *map(str, parts), "--out", str(out)]) == 0
    assert "13 servers copied; 13 are in" in capsys.readouterr().out
    raw = out / "raw" / "serving"
    assert (raw / "routing.toml").read_text() == "a table"
    assert json.loads((raw / "experiment.json").read_text())["blocks"] == 6
    turns = all_turns(EXPERIMENT, raw)
    there = [turn for turn in turns if turn.place.exists()]
    assert len(there) == 13 and all((turn.trace / "rank-0.json").is_file() for turn in there)
    assert take_up(turns, EXPERIMENT, raw, noted()) == [turns[-1]]
    assert merge(parts, out) == (0, 13)


def test_what_a_run_has_already_stays(parts, turns, tmp_path):
    one, two = parts
    again = tmp_path / "again"
    served(again, turns[:1], noted())
    assert merge([again], one) == (0, 7)
    assert '"one"' in (one / "raw" / "serving" / turns[0].place / "qps-4.json").read_text()
    assert merge([two], one) == (6, 13)


def test_runs_of_different_experiments_are_not_merged(parts, turns, tmp_path):
    other, out = tmp_path / "other", tmp_path / "out"
    served(other, turns[:1], noted(digest="b"))
    for sources, target in (([*parts, other], out), ([other], parts[0])):
        with pytest.raises(UsageError, match="are not of the same experiment: machine, code, versions, model, load"):
            merge(sources, target)
    assert not out.exists() and not list(parts[0].rglob("*other*"))


def test_what_holds_no_experiment_is_not_merged_nor_a_run_that_is_being_measured_into(parts, tmp_path):
    with pytest.raises(UsageError, match="nothing holds no serving experiment"):
        merge([tmp_path / "nothing"], tmp_path / "out")
    (parts[1] / "raw" / "serving" / "experiment.json").write_text("[]")
    with pytest.raises(UsageError, match="two holds no serving experiment"):
        merge(parts, tmp_path / "out")
    held = parts[0] / "raw" / "serving"
    with claim.alone([], held, "somebody"), pytest.raises(UsageError, match="serves somebody"):
        merge(parts[:1], parts[0])
