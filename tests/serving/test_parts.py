"""An experiment that several GPUs, or several calls, share: who serves what, and the one run that is made of it."""

import json
import shutil
from pathlib import Path

import pytest

from symmlib.cli import main
from symmlib.errors import UsageError
from symmlib.routing import RoutingTable
from symmlib.runs import write_json, write_text
from symmlib.serving import ServingExperiment, claim
from symmlib.serving.parts import ALL, Merged, Part, merge
from symmlib.serving.turns import Turn, all_turns, take_up

RAW = Path("raw", "serving")
FLOOR = {"name": "floor", "all_reduce": "gloo", "blocks": 1}
EXPERIMENT = ServingExperiment(tp=(2, 4), arms=("vllm/shm", "router", FLOOR), baseline="vllm/shm", blocks=3)


def noted(**changes) -> dict:
    return EXPERIMENT.as_dict() | {"hash": "a", "identity": {"code": "1", "seed": 0}, "environment": {}} | changes


def served(out: Path, turns: list[Turn], note: dict) -> None:
    """As if `turns` had run to their end in the run `out`."""
    raw = out / RAW
    for turn in turns:
        place = raw / turn.place
        (place / "trace").mkdir(parents=True)
        (place / "trace" / "rank-0.json").write_text("{}")
        for one in turn.measurements(EXPERIMENT):
            for path in (one.path, one.schedule_path):
                write_json(raw / path, {"from": out.name})
        write_json(place / "turn.json", {"block": turn.block, "tp": turn.tp, "arm": turn.arm.name, "by": out.name})
    write_json(raw / "experiment.json", note)


@pytest.fixture
def turns(tmp_path):
    """Of the experiment, with places that are relative to raw/serving."""
    return all_turns(EXPERIMENT, tmp_path.relative_to(tmp_path))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
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


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "1/2/3", "a/b", "1.5/2", "²/3", "1/" + 5000 * "9"])
def test_what_is_no_part_is_refused(text, capsys):
    assert main(["serve", "--part", text, "--dry-run"]) == 2
    assert "is not one of several, such as 1/2 and 2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["--part", "7/7", "--dry-run"], "nothing in part 7/7: blocks times tensor-parallel sizes are 3"),
        (["--part", "1/2"], "part 1/2 needs a directory of its own, for `symmlib serve merge`: --out DIR"),
    ],
)
def test_a_part_that_cannot_be_served_is_refused_before_anything_starts(command, told, capsys):
    assert main(["serve", "--profile", "cpu", *command]) == 2
    assert told in capsys.readouterr().err


def test_a_dry_run_counts_the_servers_of_its_part(capsys):
    assert main(["serve", "--profile", "one-gpu-serving", "--part", "2/2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "part      2/2, 10 of 20 servers" in said and "for each of 10 servers to start" in said


TABLE = """schema = 1
[[table]]
device = "cpu"
world_size = 2
dtype = "bfloat16"
mode = "eager"
multicast = false
source = "by hand"
[[table.route]]
backend = "gloo"
"""
HALF = ("block-1 tp4",)  # of `parts`: its floor, which comes last, was killed


@pytest.fixture
def parts(turns, tmp_path):
    """Both halves of the experiment; the last server of the second one was killed."""
    one, two = tmp_path / "one", tmp_path / "two"
    *whole, killed = Part(2, 2).turns(turns)
    served(one, Part(1, 2).turns(turns), noted())
    served(two, whole, noted(blocks=6, tier="standard"))
    (two / RAW / killed.place).mkdir(parents=True)
    (one / RAW / "routing.toml").write_text("a table")
    return one, two


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def still_to_run(out: Path) -> list[Turn]:
    turns = all_turns(EXPERIMENT, out / RAW)
    return take_up(turns, EXPERIMENT, out / RAW, noted())


def test_the_servers_of_all_parts_become_one_run_which_the_experiment_takes_for_its_own(parts, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["serve", "merge", *map(str, parts), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "13 servers copied; 13 are in" in said and "Not whole: block-1 tp4. Let that part end" in said
    assert (out / RAW / "routing.toml").read_text() == "a table"
    assert json.loads((out / RAW / "experiment.json").read_text())["blocks"] == 6
    turns = all_turns(EXPERIMENT, out / RAW)
    assert all((turn.trace / "rank-0.json").is_file() for turn in turns[:-1])
    assert still_to_run(out) == [turns[-1]]
    assert merge(parts, out) == Merged(0, 13, (), HALF)


def test_a_merge_that_was_interrupted_goes_on_and_no_half_counts_as_a_server(parts, tmp_path, monkeypatch):
    out, copied = tmp_path / "out", []

    def write(path, text):
        if path.name == "turn.json":
            if len(copied) == 3:
                raise KeyboardInterrupt
            copied.append(path)
        return write_text(path, text)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("symmlib.serving.parts.write_text", write)
        merge(parts, out)
    assert len(list(out.rglob("rank-0.json"))) == 4 and len(still_to_run(out)) == 11
    assert merge(parts, out) == Merged(10, 13, (), HALF)
    assert len(still_to_run(out)) == 1


def test_parts_that_may_only_be_read_are_merged_into_a_run_that_may_be_written(parts, tmp_path):
    for path in parts[0].rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        merge(parts, tmp_path / "out")
        assert all(path.stat().st_mode & 0o200 for path in tmp_path.joinpath("out").rglob("*") if path.is_dir())
    finally:
        for path in parts[0].rglob("*"):
            path.chmod(0o755)


def test_a_run_with_a_table_takes_no_servers_that_followed_another(parts, tmp_path):
    out = tmp_path / "out"
    write_text(out / "routing.toml", TABLE)
    digest = RoutingTable.load(out / "routing.toml").digest
    served(tmp_path / "same", [], noted(identity={"routing table": digest}))
    assert merge([tmp_path / "same"], out).copied == 0
    served(tmp_path / "other", [], noted(identity={"routing table": "another"}))
    shutil.rmtree(out / RAW)
    with pytest.raises(UsageError, match="was not served by .*routing.toml. Serve the parts with --routing-table"):
        merge([tmp_path / "other"], out)


def test_a_part_that_has_gone_on_is_merged_again(parts, turns, tmp_path):
    one, _ = parts
    late = tmp_path / "late"
    shutil.copytree(one, late)
    shutil.rmtree(late / RAW / "block-3" / "tp2-router")
    assert merge([late], tmp_path / "out") == Merged(6, 6, (), ("block-3 tp2",))
    assert merge([one], tmp_path / "out") == Merged(1, 7, (), ())


def test_the_arms_of_a_pair_come_from_one_run(turns, tmp_path):
    few, all_, out = tmp_path / "few", tmp_path / "all", tmp_path / "out"
    served(few, turns[:1], noted())
    served(all_, [turn for turn in turns if (turn.block, turn.tp) == (1, 2)], noted())
    assert merge([few, all_], out) == Merged(3, 3, (), ())
    by = {json.loads(path.read_text())["by"] for path in out.rglob("turn.json")}
    assert by == {"all"}
    # A server that the run has stays, and gets no company from elsewhere.
    before = contents(few)
    assert merge([all_], few) == Merged(0, 1, ("block-1 tp2",), ("block-1 tp2",))
    assert contents(few) == before


def test_a_pair_is_gone_on_with_from_the_run_that_it_came_from(turns, tmp_path):
    pair = [turn for turn in turns if (turn.block, turn.tp) == (1, 2)]
    one, other, out = tmp_path / "one", tmp_path / "other", tmp_path / "out"
    served(one, pair[:1], noted())
    served(other, pair, noted())
    assert merge([one], out).copied == 1
    shutil.rmtree(one)
    served(one, pair[:2], noted())
    assert merge([other, one], out) == Merged(1, 2, ("block-1 tp2",), ("block-1 tp2",))
    assert {json.loads(path.read_text())["by"] for path in out.rglob("turn.json")} == {"one"}


def test_a_damaged_server_is_none(turns, tmp_path):
    pair = [turn for turn in turns if (turn.block, turn.tp) == (1, 2)]
    damaged, sound, out = tmp_path / "damaged", tmp_path / "sound", tmp_path / "out"
    served(damaged, pair, noted())
    (damaged / RAW / pair[0].place / "qps-4.json").unlink()
    (damaged / RAW / pair[1].place / "turn.json").write_bytes(b"\xff{")
    served(sound, pair[:2], noted())
    assert merge([damaged, sound], out) == Merged(2, 2, ("block-1 tp2",), ("block-1 tp2",))
    assert {json.loads(path.read_text())["by"] for path in out.rglob("turn.json")} == {"sound"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hash": "b", "identity": {"code": "2", "seed": 0}}, "not of the same experiment as .*: not the same code"),
        ({"environment": {"VLLM_X": "1"}}, r"were served with different variables: VLLM_X \(.*1.*\)"),
    ],
)
def test_what_was_not_measured_alike_is_not_merged_and_nothing_changes(parts, turns, tmp_path, changes, told):
    other, out = tmp_path / "other", tmp_path / "out"
    served(other, turns[:1], noted(**changes))
    before = contents(tmp_path)
    for runs, target in (([*parts, other], out), ([other], parts[0])):
        with pytest.raises(UsageError, match=told):
            merge(runs, target)
    assert contents(tmp_path) == before and not out.exists()


def test_a_run_that_has_a_note_and_no_servers_yet_is_compared_as_well(parts, tmp_path):
    out = tmp_path / "out"
    served(out, [], noted(hash="b", identity={"code": "1", "seed": 0, "routing table": "mine"}))
    with pytest.raises(UsageError, match="not the same routing table"):
        merge(parts, out)


def test_what_holds_no_experiment_is_not_merged_nor_a_run_that_is_being_measured_into(parts, tmp_path):
    with pytest.raises(UsageError, match="nothing holds no serving experiment"):
        merge([tmp_path / "nothing"], tmp_path / "out")
    with claim.alone([], parts[0] / RAW, "somebody"), pytest.raises(UsageError, match="serves somebody"):
        merge(parts[:1], parts[0])
    (tmp_path / "out" / RAW / "imported").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds what was imported"):
        merge(parts, tmp_path / "out")
    with pytest.raises(UsageError, match="lies among the servers of"):
        merge(parts, parts[0] / RAW / "block-1" / "tp2-router")
    merge(parts, tmp_path / "lost")
    (tmp_path / "lost" / RAW / "experiment.json").unlink()
    with pytest.raises(UsageError, match="lost holds no serving experiment"):
        merge(parts, tmp_path / "lost")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        merge(parts, tmp_path / "file")
    (parts[0] / RAW / "a.log").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match="a link that leads out of the run"):
        merge(parts, tmp_path / "new")


@pytest.mark.parametrize(
    "note", ["[]", "{", "[" * 100_000, noted(blocks="3"), noted(identity=None), noted(hash=1), noted(arms=["none"])]
)
def test_a_damaged_note_is_told(parts, tmp_path, note):
    (parts[1] / RAW / "experiment.json").write_text(note if isinstance(note, str) else json.dumps(note))
    with pytest.raises(UsageError, match="two holds no serving experiment"):
        merge(parts, tmp_path / "out")
