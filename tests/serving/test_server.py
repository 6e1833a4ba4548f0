"""Real vLLM servers that go wrong: each ends with a clear message, and with nothing left running."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from symmlib.errors import SymmlibError
from symmlib.serving import ServingExperiment, run_experiment, server

SMALL = {"qps": (4,), "duration_s": 2, "input_len": 16, "output_len": 4, "blocks": 1, "tier": "smoke"}
SMALL |= {"arms": ("gloo", "router")}


def our_processes() -> list[psutil.Process]:
    """Every process below this one. Supervisors and servers are its descendants as long as they live."""
    return [process for process in psutil.Process().children(recursive=True) if process.status() != "zombie"]


def shared_memory() -> set[Path]:
    """What Python keeps in /dev/shm. vLLM's own operation may make its file while it is being ended."""
    return set(Path("/dev/shm").glob("psm_*"))


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request):
    memory = shared_memory()
    yield
    gone, alive = psutil.wait_procs(our_processes(), timeout=20)
    assert not alive, [process.cmdline() for process in alive]
    left = shared_memory() - memory
    if "SIGKILL" in request.node.name:  # nobody of ours lives to remove what vLLM leaves in /dev/shm
        for path in left:
            path.unlink()
    else:
        assert not left


def test_a_server_that_dies_is_reported_with_the_reason_from_its_log(tmp_path):
    experiment = ServingExperiment(**SMALL, server_args=("--quantization", "no-such-thing"))
    with pytest.raises(SymmlibError, match="ended with exit status") as caught:
        run_experiment(experiment, tmp_path)
    assert "no-such-thing" in str(caught.value)
    assert "server.log" in str(caught.value)


def test_a_server_that_is_not_ready_in_time_is_ended(tmp_path):
    with pytest.raises(SymmlibError, match="not ready after 2 s") as caught:
        run_experiment(ServingExperiment(**SMALL, ready_timeout_s=2), tmp_path)
    assert "ready_timeout_s" in str(caught.value)


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.create_server((server.HOST, 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(SymmlibError, match=f"Port {port} on 127.0.0.1 is taken"):
            run_experiment(ServingExperiment(**SMALL, port=port), tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_experiment_ends_its_servers(tmp_path, number):
    parameters = {key: list(value) if isinstance(value, tuple) else value for key, value in SMALL.items()}
    profile = tmp_path / "mine.yaml"
    profile.write_text(yaml.safe_dump({"name": "mine", "parameters": {"04_serving": parameters}}))
    command = [str(Path(sys.executable).with_name("symmlib")), "serve", "--profile", str(profile)]
    log = tmp_path / "out" / "raw" / "serving" / "block-1"
    with open(tmp_path / "said", "w") as said:
        # A shell's background jobs ignore Ctrl-C and hand that on; a user's foreground command does not.
        main = subprocess.Popen(
            [*command, "--out", str(tmp_path / "out")], stdout=said, stderr=said,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while not [path for path in log.glob("*/server.log") if "EngineCore" in path.read_text(errors="replace")]:
            assert main.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)  # polls a real server's log
        started = psutil.Process(main.pid).children(recursive=True)
        assert len(started) > 3
        os.kill(main.pid, number)
        assert main.wait(30) != 0
        gone, alive = psutil.wait_procs(started, timeout=20)
        assert not alive, [process.cmdline() for process in alive]
    finally:
        if main.poll() is None:
            main.kill()
            main.wait()
    if number != signal.SIGKILL:
        assert "Traceback" not in (tmp_path / "said").read_text()
