"""A killed experiment goes on where it was: what was whole stays, what was left running ends, nobody else's does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from symmlib.errors import UsageError
from symmlib.runs import Run
from symmlib.serving import ServingExperiment, claim
from symmlib.serving.session import Session
from symmlib.serving.turns import all_turns, require_all_blocks, require_same_environment, take_up
from tests.waiting import PATIENCE_S, RUN_S

SMALL = {"qps": [4], "duration_s": 2, "input_len": 16, "output_len": 4, "blocks": 1, "tier": "smoke"}
SMALL |= {"arms": ["gloo", "router"], "ready_timeout_s": PATIENCE_S}
SYMMLIB = str(Path(sys.executable).with_name("symmlib"))


def start(*arguments: str, log: Path) -> subprocess.Popen:
    with open(log, "w") as said:
        return subprocess.Popen([SYMMLIB, *arguments], stdout=said, stderr=said, process_group=0)


def wait_for(condition, main: subprocess.Popen, log: Path, timeout_s: float = PATIENCE_S):
    """What `condition` returns as soon as that is true; `main` runs meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert main.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)  # polls files of a real run
    return found


def test_a_run_killed_in_the_middle_of_a_block_goes_on_after_its_last_whole_arm(tmp_path):
    profile, reports, log = tmp_path / "mine.yaml", tmp_path / "reports", tmp_path / "said"
    profile.write_text(yaml.safe_dump({"name": "mine", "parameters": {"04_serving": SMALL}}))
    main = start("run", str(profile), "--reports-dir", str(reports), log=log)
    try:
        begun = wait_for(lambda: list(reports.glob("runs/*/raw/serving/experiment.json")), main, log)[0]
        run = Run.open(begun.parents[2])
        # A second suite meanwhile, as the first server starts, is told who holds the machine.
        second = subprocess.run([SYMMLIB, "serve", "--profile", str(profile), "--out", str(tmp_path / "second")],
                                capture_output=True, text=True, timeout=PATIENCE_S)  # fmt: skip
        assert second.returncode == 2 and run.id in second.stderr, second.stderr
        whole = wait_for(lambda: list(run.path.glob("raw/serving/*/*/turn.json")), main, log)[0]
        servers = [one for one in psutil.Process(main.pid).children(recursive=True) if one.pid != main.pid]
        os.killpg(main.pid, signal.SIGKILL)
        main.wait()
    finally:
        if main.poll() is None:
            main.kill()
    gone, alive = psutil.wait_procs(servers, timeout=PATIENCE_S)
    assert not alive, alive
    assert run.manifest["status"] == "running"
    before = {path: path.read_bytes() for path in whole.parent.glob("*.json")}

    log = tmp_path / "said-again"
    again = start("run", str(run.path / "params.yaml"), "--reports-dir", str(reports), log=log)
    assert again.wait(RUN_S) == 0, log.read_text()
    assert "going on with it" in log.read_text() and "1 of 2 servers have run already" in log.read_text()
    assert len(list(reports.glob("runs/*"))) == 1 and run.manifest["status"] in ("ok", "invalid")
    assert before == {path: path.read_bytes() for path in whole.parent.glob("*.json")}
    assert len(list(run.path.glob("raw/serving/*/*/turn.json"))) == 2
    summary = (run.results / "serving_summary.csv").read_text()
    assert ",gloo," in summary and ",router," in summary
    assert (run.results / "comparison.csv").read_text().count("\n") == 1 + 4 * 5


def whole(turn, experiment):
    """As if `turn` had run to its end."""
    turn.place.mkdir(parents=True)
    for one in turn.measurements(experiment):
        one.path.write_text("{}")
        one.schedule_path.write_text("{}")
    turn.finish(ready_s=1.0)


def test_what_is_kept_was_made_by_the_very_same_experiment_and_what_was_not_is_moved_aside(tmp_path):
    experiment, raw = ServingExperiment(**SMALL), tmp_path / "serving"
    turns = all_turns(experiment, raw)
    assert take_up(turns, experiment, raw, {"hash": "a"}) == turns
    whole(turns[0], experiment)
    turns[1].place.mkdir(parents=True)
    (turns[1].place / "qps-4.json").write_text("{}")  # half a turn
    assert take_up(turns, experiment, raw, {"hash": "a"}) == turns[1:]
    assert turns[0].place.is_dir() and not turns[1].place.exists()
    assert take_up(turns, experiment, raw, {"hash": "b"}) == turns
    assert not turns[0].place.exists() and list((tmp_path / "serving-before-1").glob("block-1/*/turn.json"))
    assert json.loads((raw / "experiment.json").read_text()) == {"hash": "b"}


def test_a_turn_whose_results_were_lost_runs_again(tmp_path):
    experiment, raw = ServingExperiment(**SMALL), tmp_path / "serving"
    turns = all_turns(experiment, raw)
    take_up(turns, experiment, raw, {"hash": "a"})
    for turn in turns:
        whole(turn, experiment)
    (turns[1].place / "qps-4.json").unlink()
    assert take_up(turns, experiment, raw, {"hash": "a"}) == turns[1:]


def test_more_blocks_go_on_where_fewer_ended(tmp_path):
    few, more = (ServingExperiment(**SMALL | {"blocks": blocks}) for blocks in (1, 3))
    raw = tmp_path / "serving"
    turns = all_turns(few, raw)
    take_up(turns, few, raw, {"hash": "a"})
    for turn in turns:
        whole(turn, few)
    assert take_up(all_turns(more, raw), more, raw, {"hash": "a"}) == all_turns(more, raw)[2:]


def test_fewer_blocks_than_have_run_are_refused_and_a_block_that_is_not_whole_is_none(tmp_path):
    few, more = (ServingExperiment(**SMALL | {"blocks": blocks}) for blocks in (1, 3))
    raw = tmp_path / "raw" / "serving"
    for turn in all_turns(more, raw)[:-1]:
        whole(turn, more)
    with pytest.raises(UsageError, match=r"2 blocks have run in .*: ask for 2 or more \(--blocks 2\) instead of 1"):
        require_all_blocks(few, raw)
    require_all_blocks(ServingExperiment(**SMALL | {"blocks": 2}), raw)


def test_blocks_that_have_run_at_one_tensor_parallel_size_are_not_left_out_either(tmp_path):
    both = {"tp": [2, 4], "blocks": 3}
    raw = tmp_path / "raw" / "serving"
    for turn in all_turns(ServingExperiment(**SMALL | both), raw):
        if turn.tp == 2 or turn.block == 1:
            whole(turn, ServingExperiment(**SMALL | both))
    with pytest.raises(UsageError, match="3 blocks have run in"):
        require_all_blocks(ServingExperiment(**SMALL | both | {"blocks": 1}), raw)


def test_how_many_blocks_and_what_verdicts_they_earn_make_no_other_experiment(tmp_path):
    def noted(**changes) -> str:
        return Session(ServingExperiment(**SMALL | changes), tmp_path / "raw" / "serving", None).note()["hash"]

    assert noted() == noted(blocks=3, tier="quick") == noted(blocks=6, tier="standard")
    assert noted() != noted(output_len=5)


def test_an_experiment_is_gone_on_with_in_the_environment_that_it_was_served_in(tmp_path, monkeypatch):
    experiment, raw = ServingExperiment(**SMALL), tmp_path / "raw" / "serving"

    def note(**variables: str) -> dict:
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            return Session(experiment, raw, None).note()

    turns = all_turns(experiment, raw)
    take_up(turns, experiment, raw, note(VLLM_LOGGING_LEVEL="INFO", VLLM_CPU_KVCACHE_SPACE="2"))
    require_same_environment(raw, note())  # nothing was served yet
    whole(turns[0], experiment)
    told = "VLLM_CPU_KVCACHE_SPACE=2, VLLM_LOGGING_LEVEL=INFO, VLLM_USE_V1 not set. Set them so"
    with pytest.raises(UsageError, match=told):
        require_same_environment(raw, note(VLLM_USE_V1="1"))
    same = {"VLLM_LOGGING_LEVEL": "INFO", "VLLM_CPU_KVCACHE_SPACE": "2"}
    elsewhere = {"VLLM_CACHE_ROOT": "/x", "CUDA_VISIBLE_DEVICES": "1", "VLLM_HOST_IP": "10.0.0.1"}  # ours, or a place
    require_same_environment(raw, note(**same, **elsewhere))


def test_the_router_goes_on_with_the_table_that_it_followed_unless_the_run_has_its_own(tmp_path):
    given = tmp_path / "mine.toml"
    given.write_text('schema = 1\n[[table]]\ndevice = "cpu"\nworld_size = 2\ndtype = "bfloat16"\nmode = "eager"\n'
                     'multicast = false\nsource = "by hand"\n[[table.route]]\nbackend = "gloo"\n')  # fmt: skip
    raw = tmp_path / "raw" / "serving"

    def session(table=None) -> Session:
        return Session(ServingExperiment(**SMALL), raw, table)

    assert session().routing_table is None
    first = session(given)
    first.keep_table()
    again = session()
    assert again.routing_table == raw / "routing.toml" and again.note()["hash"] == first.note()["hash"]
    own = tmp_path / "routing.toml"
    own.write_text(given.read_text().replace("by hand", "of this run"))
    assert session().routing_table == own and session(given).routing_table == given


def test_more_blocks_change_nothing_about_those_before(tmp_path):
    floor = {"name": "floor", "all_reduce": "vllm/shm", "blocks": 3}
    few, more = (
        ServingExperiment(**SMALL | {"arms": ["gloo", floor, "router"], "blocks": blocks}).orders() for blocks in (3, 7)
    )
    assert more[:3] == few and all(arm.name != "floor" for order in more[3:] for arm in order)


def test_arms_of_some_blocks_only_run_when_what_is_to_be_compared_is_whole(tmp_path):
    floor = {"name": "floor", "all_reduce": "vllm/shm", "blocks": 1}
    experiment = ServingExperiment(**SMALL | {"arms": ["gloo", floor, "router"], "blocks": 3})
    turns = all_turns(experiment, tmp_path)
    assert [turn.block for turn in turns] == [1, 1, 2, 2, 3, 3, 1]
    assert turns[-1].arm.name == "floor" and turns[-1].place.parent.name == "block-1"


def test_a_device_or_a_directory_is_held_by_one_at_a_time_and_let_go_of(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    with claim.alone(["test-device"], one, "run one"):
        said = r"GPU test-device serves run one \(process \d+\) at this moment"
        with pytest.raises(UsageError, match=said), claim.alone(["test-device"], two, "run two"):
            pass
        with pytest.raises(UsageError, match="one serves run one"), claim.alone(["another"], one, "run two"):
            pass
    with claim.alone(["test-device"], one, "run two"):
        pass
