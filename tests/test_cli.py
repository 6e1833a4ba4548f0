"""The command line as a user meets it: a mistake costs seconds, is named, and leaves nothing behind."""

import fcntl
import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from symmlib import cli, profiles, suite
from symmlib.analysis.words import ONE_GPU_BANNER
from symmlib.cli.commands import parser
from symmlib.runs import Run, write_csv, write_json
from tests.waiting import PATIENCE_S

SYMMLIB = Path(sys.executable).with_name("symmlib")

TYPO = """schema = 1
[[table]]
device = "cpu"
world_size = 2
dtype = "bfloat16"
mode = "eager"
multicast = false
source = "by hand"
[[table.route]]
max_byte = 1024
backend = "gloo"
"""

SERVING = "name: mine\nparameters:\n  04_serving: {model: MODEL, tp: [TP]}\n"


@pytest.fixture
def called(tmp_path, monkeypatch, capsys):
    """Runs `symmlib ...` in this process, as a fresh one loads for seconds what is loaded here; returns its exit
    status, what it printed, and what it printed as an error. What it raises is the test's error."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def call(*arguments) -> tuple[int, str, str]:
        try:
            status = cli.main([*map(str, arguments)])
        except SystemExit as left:  # of argparse
            status = left.code
        return status, *capsys.readouterr()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def refused(called):
    """Runs `symmlib ...`, which must refuse it in a line; returns that line."""

    def run(*arguments) -> str:
        status, _, errors = called(*arguments)
        assert status in (1, 2)
        assert errors.startswith(("symmlib: ", "usage: ")), errors
        return errors

    return run


@pytest.mark.parametrize(
    "command",
    ["", "doctor", "run", "allreduce", "numerics", "serve", "accuracy", "routes", "routes show", "routes derive",
     "routes check", "report", "publish", "lab"],
)  # fmt: skip
def test_every_command_says_how_it_is_used(command, capsys):
    with pytest.raises(SystemExit) as left:
        parser().parse_args([*command.split(), "--help"])
    assert left.value.code == 0 and capsys.readouterr().out.startswith(f"usage: symmlib {command}".rstrip())


def test_an_unknown_profile_is_answered_with_the_known_ones(refused):
    message = refused("run", "b200-tp9")
    assert "b200-tp9" in message and "b200-tp8" in message and "smoke" in message


def test_a_real_command_refuses_in_a_line_too(tmp_path):
    done = subprocess.run(
        [SYMMLIB, "run", "b200-tp9"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("symmlib: unknown profile 'b200-tp9'") and "Traceback" not in done.stderr


def test_an_unknown_key_of_a_profile_is_named_with_its_file(refused, tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nparameters:\n  02_allreduce: {sises: 1KiB}\n")
    message = refused("run", "mine.yaml")
    assert "mine.yaml" in message and "'sises'" in message and "sizes" in message


def test_an_unknown_backend_is_answered_with_the_known_ones(refused, tmp_path):
    message = refused("allreduce", "--backends", "gloo,host/on_shot", "--out", tmp_path / "out")
    assert "'host/on_shot'" in message and "host/one_shot" in message


@pytest.mark.parametrize("sizes", ["1KiB:16MiB:y4", "4kilo", "16MiB:1KiB:x4", "-4KiB", ""])
def test_a_size_that_is_none_is_quoted(refused, tmp_path, sizes):
    message = refused("allreduce", f"--sizes={sizes}", "--out", tmp_path / "out")
    assert sizes.split(":")[0] in message


def test_a_world_size_beyond_one_host_is_refused(refused, tmp_path):
    assert "world_size 9" in refused("allreduce", "--world-size", 9, "--out", tmp_path / "out")


def test_ranks_that_are_no_number_are_quoted(refused, tmp_path):
    assert "'2,four' is neither a number of ranks nor several" in refused("allreduce", "--world-size", "2,four")
    assert "world_size 2 is named twice" in refused("allreduce", "--world-size", "2,2", "--out", tmp_path / "out")


def test_ranks_cannot_share_a_gpu_with_backends_that_need_none(refused, tmp_path):
    message = refused("allreduce", "--one-gpu", "--backends", "gloo,triton/one_shot", "--out", tmp_path / "out")
    assert "one_gpu puts all ranks on a GPU, but the host's memory is where gloo works" in message


def test_a_tp_beyond_the_cores_is_refused_before_a_server_starts(refused, tmp_path):
    cores = len(os.sched_getaffinity(0))
    if cores >= 8:
        pytest.skip("this machine has a core for every rank that can be asked for")
    (tmp_path / "mine.yaml").write_text(SERVING.replace("MODEL", "tiny").replace("TP", str(cores + 1)))
    message = refused("serve", "--profile", "mine.yaml", "--out", tmp_path / "out")
    assert f"TP={cores + 1}" in message and "core" in message


def test_a_typo_in_a_routing_table_is_found_by_file_table_and_key(refused, tmp_path):
    (tmp_path / "routing.toml").write_text(TYPO)
    message = refused("routes", "show", "routing.toml")
    for part in ("routing.toml", "table 1", "route 1", "max_byte"):
        assert part in message


@pytest.mark.parametrize("command", [("allreduce",), ("serve", "--profile", "smoke")])
def test_an_output_directory_that_cannot_be_written_is_refused_at_once(refused, tmp_path, command):
    (tmp_path / "file").write_text("in the way")
    assert "cannot write" in refused(*command, "--out", tmp_path / "file" / "out")


def test_a_reports_directory_that_cannot_be_made_is_refused_at_once(refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot make" in refused("run", "smoke", "--reports-dir", tmp_path / "file")


def test_a_model_directory_without_a_config_is_refused_before_a_server_starts(refused, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "mine.yaml").write_text(SERVING.replace("MODEL", str(tmp_path / "model")).replace("TP", "2"))
    assert "config.json" in refused("serve", "--profile", "mine.yaml", "--out", tmp_path / "out")


def test_an_empty_argument_is_no_default(refused, tmp_path):
    assert "unknown profile ''" in refused("run", "")
    assert "empty" in refused("allreduce", "--out", "")


def test_a_second_measurement_into_one_directory_is_refused(refused, tmp_path):
    raw = tmp_path / "out" / "raw" / "allreduce"
    raw.mkdir(parents=True)
    directory = os.open(raw, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        message = refused("allreduce", "--sizes", "4KiB", "--backends", "gloo", "--out", tmp_path / "out")
    finally:
        os.close(directory)
    assert "another measurement writes to" in message


def test_output_that_cannot_be_written_does_not_end_a_measurement(tmp_path):
    command = (
        f"{SYMMLIB} allreduce --sizes 4KiB --launches 1 --backends host/one_shot --out {tmp_path / 'out'} >/dev/full"
    )
    subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=PATIENCE_S)
    assert (tmp_path / "out" / "results" / "allreduce_summary.csv").is_file()


def test_what_was_measured_is_printed_and_routed_and_what_was_not_is_no_candidate(called, tmp_path):
    some = ("--sizes", "4KiB", "--launches", 1, "--backends", "gloo,host/one_shot")
    status, printed, errors = called("allreduce", *some, "--out", "out")
    assert status == 0, errors
    assert "host/one_shot" in printed and (tmp_path / "out" / "routing.toml").is_file()
    status, _, errors = called("routes", "derive", "out", "--candidates", "nccl")
    assert status == 1 and "none of the candidates was measured" in errors


def test_routes_show_says_what_serves_which_size_and_why(called):
    status, printed, _ = called("routes", "show", "--device", "cpu", "--world-size", 2, "--dtype", "bfloat16")
    assert status == 0
    assert "host/two_shot" in printed and "every size" in printed


@pytest.mark.parametrize(("device", "told"), [("sm_90/one-gpu", True), ("sm_90", False)])
def test_routes_from_ranks_that_shared_a_gpu_say_so(called, tmp_path, device, told):
    point = {"backend": "triton/one_shot", "world_size": 2, "dtype": "bfloat16", "mode": "graph", "bytes": 1024}
    row = {**point, "median_us": 5.0, "wrong": 0, "status": "ok", "device": device, "multicast": False}
    write_csv(tmp_path / "results" / "allreduce_summary.csv", pd.DataFrame([row]))
    samples = [{**point, "launch": launch, "time_us": 5.0} for launch in (1, 2)]
    write_csv(tmp_path / "results" / "allreduce.csv", pd.DataFrame(samples))
    status, printed, errors = called("routes", "derive", tmp_path)
    assert status == 0, errors
    assert (ONE_GPU_BANNER in printed) == told
    assert f'device = "{device}"' in (tmp_path / "routing.toml").read_text()


def test_the_doctor_says_what_this_machine_can_run_and_why_not_the_rest(tmp_path):
    done = subprocess.run([SYMMLIB, "doctor"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("  ") and "->" not in line}
    assert lines["host/one_shot"].split()[0] == "ok"
    assert "make report" in done.stdout
    for line in lines.values():  # whatever cannot run says why
        assert line.split()[0] in ("ok", "no") and len(line.split()) > 2, line


@pytest.mark.parametrize(
    ("profile", "servers"), [("cpu", 9), ("pr20759-b200", 60), ("pr20759-h200", 60), ("dummy-70b", 18)]
)
def test_a_dry_run_says_every_command_the_schedule_and_how_long_it_takes_and_starts_nothing(
    profile, servers, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", "--profile", profile, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"each of {servers} servers to start" in said and "requests at" in said
    arms = said.split("\n# TP=")[1:]
    rates = len(set(re.findall(r"requests at ([\d.]+)/s", said)))
    for commands in arms:
        assert commands.count("vllm serve ") == 1 and commands.count("vllm bench serve ") == 1 + rates
        assert commands.count("--seed 1 ") == rates and "--dataset-name random" in commands
    assert "block 3, seed 3:" in said and "in another block the rates have its --seed" in said
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_the_pull_requests_arms_shows_what_each_of_them_sets(capsys):
    cli.main(["serve", "--profile", "pr20759-b200", "--dry-run"])
    commands = dict(part.split("\n", 1) for part in capsys.readouterr().out.split("\n# TP=4, ")[1:])
    for arm, switch in (("symmetric memory off", "0"), ("symmetric memory on", "1")):
        assert f"VLLM_ALLREDUCE_USE_SYMM_MEM={switch}" in commands[arm]
        assert "VLLM_ALLREDUCE_USE_FLASHINFER=0" in commands[arm] and "fuse_allreduce_rms" in commands[arm]
        assert "-u SYMMLIB_ALLREDUCE" in commands[arm]
    assert "SYMMLIB_ALLREDUCE=router" in commands["symmlib router"]
    assert "SYMMLIB_ALLREDUCE=nccl" in commands["nccl"]
    assert "VLLM_ALLREDUCE_USE_SYMM_MEM" not in commands["vllm-default"]


def test_an_a_a_dry_run_has_the_baseline_twice(capsys):
    assert cli.main(["serve", "--profile", "cpu", "--aa", "--dry-run"]) == 0
    assert "arms      gloo, gloo again\n" in capsys.readouterr().out
    assert cli.main(["serve", "--profile", "cpu", "--aa", "vllm/shm", "--dry-run"]) == 0
    assert "compared  vllm/shm again with vllm/shm\n" in capsys.readouterr().out


def test_blocks_of_a_dry_run_are_those_asked_for(capsys):
    assert cli.main(["serve", "--profile", "cpu", "--blocks", "6", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "blocks    6 (tier standard)" in said and "each of 18 servers" in said


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("serve --profile cpu --dry-run --blocks 0", "blocks 0 is not a whole number of at least 1"),
        ("serve --profile one-gpu --dry-run --blocks 3", "the profile one-gpu has no section 04_serving"),
        ("run one-gpu --reports-dir . --blocks 3", "the profile one-gpu has no section 04_serving"),
        ("run smoke --reports-dir . --blocks 21", "blocks 21 is more than 20"),
    ],
)
def test_blocks_that_cannot_be_are_refused_before_anything_starts(refused, tmp_path, command, told):
    assert told in refused(*command.split())
    assert not list(tmp_path.iterdir())


def test_a_dry_run_shows_another_model_tp_and_rate(capsys):
    command = "serve --profile b200-tp8 --model dummy-8b --tp 2,4 --qps 0.5,3 --dry-run"
    assert cli.main(command.split()) == 0
    said = capsys.readouterr().out
    assert "dummy-8b" in said and "Llama-3.1-70B" not in said
    assert set(re.findall(r"# TP=(\d+), ", said)) == {"2", "4"}
    assert set(re.findall(r"requests at ([\d.]+)/s", said)) == {"0.5", "3"}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("run cpu --reports-dir . --tp 2,x", "'2,x' is neither a tensor-parallel size nor several, such as 4,8"),
        ("run cpu --reports-dir . --tp 2,2", "world_size 2 is named twice"),
        ("run cpu --reports-dir . --tp 3,1", "world_size 1 is not a whole number of at least 2"),
        ("run cpu --reports-dir . --qps fast", "'fast' is neither a rate in requests per second nor several"),
        ("run cpu --reports-dir . --qps nan", "qps nan is not"),
        ("run cpu --reports-dir . --model nothing-such", "there is no model 'nothing-such'"),
        ("run one-gpu --reports-dir . --model tiny", "the profile one-gpu has no section with a model to change"),
        ("run --resume . --qps 1 --tp 4", "--tp, --qps would make it another. Leave --resume out for a new run"),
    ],
)
def test_a_load_that_cannot_be_is_refused_before_anything_starts(refused, tmp_path, command, told):
    assert told in refused(*command.split())
    assert not list(tmp_path.iterdir())


@pytest.fixture
def four_blocks(tmp_path) -> Run:
    """A run of the profile cpu in which four of five blocks are done, as `symmlib run cpu --blocks 5` leaves one."""
    run = Run.create(profiles.load("cpu").with_blocks(5), reports_dir=tmp_path)
    for block, arm in itertools.product(range(1, 5), ("gloo", "router")):
        write_json(run.path / "raw" / "serving" / f"block-{block}" / f"tp2-{arm}" / "turn.json", {})
    return run


def test_no_block_that_ran_is_taken_away(refused, four_blocks):
    before = (four_blocks.path / "params.yaml").read_text()
    said = refused("run", "--resume", four_blocks.path, "--blocks", 3)
    assert "4 blocks have run in" in said and "ask for 4 or more (--blocks 4) instead of 3" in said
    assert (four_blocks.path / "params.yaml").read_text() == before


@pytest.mark.parametrize(("blocks", "tier"), [(4, "quick"), (6, "standard"), (10, "full")])
def test_a_run_is_gone_on_with_in_so_many_blocks_for_the_verdicts_that_they_earn(
    called, four_blocks, monkeypatch, blocks, tier
):
    executed = []
    monkeypatch.setattr(suite.notebooks, "execute", lambda run, name, parameters: executed.append((name, parameters)))
    called("run", "--resume", four_blocks.path, "--blocks", blocks)
    asked = dict(executed)["04_serving"]
    assert (asked["blocks"], asked["tier"]) == (blocks, tier)
    assert profiles.load(four_blocks.path / "params.yaml").parameters["04_serving"] == asked
