"""MPS starts, answers, and is gone afterwards, whatever happens in between.

The program under it is a stand-in (`stand_ins/nvidia-cuda-mps-control`): what is tested here is how its processes are
handled. That the real one lets ranks run together is tested on a GPU, in `tests_gpu`.
"""

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from symmlib import mps as module
from symmlib.errors import SymmlibError, UsageError
from symmlib.mps import mps
from tests.waiting import PATIENCE_S, gone

STAND_INS = Path(__file__).parent / "stand_ins"


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setenv("PATH", str(STAND_INS), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def started(directory: Path) -> dict:
    return json.loads((directory / "mps.log").read_text())


def test_clients_are_told_where_it_is_and_nothing_else(tmp_path):
    with mps(tmp_path / "launch-1.mps") as environment:
        assert set(environment) == {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"}
        pipes = Path(environment["CUDA_MPS_PIPE_DIRECTORY"])
        assert stat.S_IMODE(pipes.stat().st_mode) == 0o700
        assert len(str(pipes)) < 40  # with the names of its sockets below 107 bytes, however deep the run's directory
        assert Path(environment["CUDA_MPS_LOG_DIRECTORY"]) == tmp_path / "launch-1.mps"
        told = started(tmp_path / "launch-1.mps")
        assert {name: told[name] for name in environment} == environment
    assert gone(told["pids"])
    assert not pipes.exists()


def test_it_ends_with_its_server_when_the_body_raises(tmp_path):
    with pytest.raises(ZeroDivisionError), mps(tmp_path):
        pids = started(tmp_path)["pids"]
        assert not gone(pids)
        raise ZeroDivisionError
    assert gone(pids)


def test_one_that_does_not_quit_is_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("MPS_STAND_IN", "deaf")
    monkeypatch.setattr(module, "QUIT_TIMEOUT_S", 0.1)
    with mps(tmp_path):
        pids = started(tmp_path)["pids"]
    assert gone(pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_the_process_that_asked_for_it(tmp_path, number):
    code = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from symmlib.mps import mps\n"
        "with mps(sys.argv[1]):\n"
        "    print('up', flush=True)\n"
        "    while True: time.sleep(0.05)"  # signal.pause() would sleep through a signal that came just before it
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as asking:
        assert asking.stdout.readline() == "up\n"
        family = psutil.Process(asking.pid).children(recursive=True)
        told = started(tmp_path)
        assert {*told["pids"]} <= {process.pid for process in family}
        asking.send_signal(number)
    assert asking.returncode != 0
    assert not psutil.wait_procs(family, timeout=PATIENCE_S)[1]
    assert not Path(told["CUDA_MPS_PIPE_DIRECTORY"]).exists()


def test_numbers_of_gpus_mean_the_same_to_its_clients_and_uuids_are_kept(tmp_path, monkeypatch):
    for given, kept in (("1", None), ("0,2", None), ("0, 1", None), ("GPU-8932f937,MIG-1", "GPU-8932f937,MIG-1")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        with mps(tmp_path):
            assert started(tmp_path)["CUDA_VISIBLE_DEVICES"] == kept


def test_one_that_does_not_start_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("MPS_STAND_IN", "dies")
    says = "(?s)ended with status 3.*control.log:\nno GPU that a stand-in could use"
    with pytest.raises(SymmlibError, match=says), mps(tmp_path):
        pass


def test_a_machine_without_it_is_told_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not module.installed()
    says = "nvidia-cuda-mps-control is not on the PATH: it comes with NVIDIA's driver"
    with pytest.raises(UsageError, match=says), mps(tmp_path):
        pass
