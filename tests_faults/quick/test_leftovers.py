"""What a tool or a dead run has left: half a result is no result, and the next run ends a dead one's servers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from symmlib.errors import SymmlibError
from symmlib.serving import ServingExperiment, claim
from symmlib.serving.turns import all_turns, take_up
from tests.waiting import PATIENCE_S

SMALL = {"qps": [4], "duration_s": 2, "input_len": 16, "output_len": 4, "blocks": 1, "tier": "smoke"}
SMALL |= {"arms": ["gloo", "router"]}


@pytest.mark.parametrize(
    "left", ["", "{", '{"completed": 8, "ttf', "\x00"], ids=["nothing", "a brace", "half", "garbage"]
)
@pytest.mark.fault("the load generator leaves no whole JSON ({left!r})", "serving")
def test_a_turn_of_whose_results_half_is_there_runs_again_and_says_which(fault, tmp_path, left):
    experiment, raw = ServingExperiment(**SMALL), tmp_path / "serving"
    turns = all_turns(experiment, raw)
    take_up(turns, experiment, raw, {"hash": "a"})
    for turn in turns:  # as if it had run to its end
        turn.place.mkdir(parents=True)
        for one in turn.measurements(experiment):
            one.path.write_text("{}")
            one.schedule_path.write_text("{}")
        turn.finish(ready_s=1.0)
    (turns[1].place / "qps-4.json").write_text(left)
    with pytest.raises(SymmlibError, match=r"left no whole \S+/qps-4.json") as caught:
        turns[1].require_whole(experiment)
    assert take_up(turns, experiment, raw, {"hash": "a"}) == turns[1:]
    fault.saw(str(caught.value), caught.value.exit_status, "the other servers' results; this one runs again")


@pytest.mark.fault("servers and shared memory of a dead run are still there", "serving")
def test_only_what_was_started_for_this_directory_is_ended_and_its_shared_memory_removed(fault, tmp_path, capsys):
    mine, others = tmp_path / "mine", tmp_path / "others"
    memory = Path(f"/dev/shm/psm_test{os.getpid()}")
    memory.write_bytes(b"0")
    started = {}
    try:
        for place in (mine, others):
            place.mkdir()
            env = {**os.environ, claim.MARK: str(place)}
            started[place] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=env)
        (mine / claim.MEMORY).write_text(json.dumps([str(memory), "/etc/hostname", "/dev/shm/psm_x/../../etc/hosts"]))
        assert claim.end_orphans(mine) == 1
        assert started[mine].wait(PATIENCE_S) is not None and started[others].poll() is None
        assert not memory.exists() and Path("/etc/hostname").exists() and Path("/etc/hosts").exists()
    finally:
        memory.unlink(missing_ok=True)
        for process in started.values():
            process.kill()
            process.wait()
    said = capsys.readouterr().out.split("] ")[1]
    fault.saw(said, None, "the next run starts from a clean place, and other runs' servers go on")
