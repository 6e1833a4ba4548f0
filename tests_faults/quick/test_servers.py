"""Real vLLM servers that go wrong: each ends with a clear message, and with nothing left running."""

import signal
import socket

import pytest
import yaml

from symmlib.errors import SymmlibError
from symmlib.serving import ServingExperiment, run_experiment, server
from tests.waiting import PATIENCE_S

SMALL = {"qps": (4,), "duration_s": 2, "input_len": 16, "output_len": 4, "blocks": 1, "tier": "smoke"}
SMALL |= {"arms": ("gloo", "router"), "ready_timeout_s": PATIENCE_S}


WHERE = "serving"
pytestmark = pytest.mark.timeout(2400)


@pytest.mark.fault("the server crashes as it starts", WHERE)
def test_a_server_that_dies_is_reported_with_the_reason_from_its_log(fault, tmp_path):
    experiment = ServingExperiment(**SMALL, server_args=("--quantization", "no-such-thing"))
    with pytest.raises(SymmlibError, match="ended with exit status") as caught:
        run_experiment(experiment, tmp_path)
    assert "no-such-thing" in str(caught.value)
    assert "server.log" in str(caught.value)
    assert "2 of the servers failed" in str(caught.value)
    gates = (tmp_path / "results" / "gates.csv").read_text()
    assert gates.count("server ran to its end") == 2
    fault.saw(str(caught.value), caught.value.exit_status, "other arms go on; a gate names those that failed")


@pytest.mark.fault("the server is never ready", WHERE)
def test_a_server_that_is_not_ready_in_time_is_ended(fault, tmp_path):
    with pytest.raises(SymmlibError, match="had not imported vLLM after 2 s|not ready after 2 s") as caught:
        run_experiment(ServingExperiment(**SMALL | {"ready_timeout_s": 2}), tmp_path)
    assert "ready_timeout_s" in str(caught.value)
    log = next((tmp_path / "raw" / "serving").glob("block-1/*/server.log")).read_text(errors="replace")
    stacks = "its stack is in its log" if "most recent call first" in log else "no stack: it listens for nothing yet"
    fault.saw(str(caught.value), caught.value.exit_status, stacks)


@pytest.mark.fault("the port is taken", WHERE)
def test_a_port_that_is_taken_is_named(fault, tmp_path):
    with socket.create_server((server.HOST, 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(SymmlibError, match=f"Port {port} on 127.0.0.1 is taken") as caught:
            run_experiment(ServingExperiment(**SMALL, port=port), tmp_path)
        assert not list(tmp_path.rglob("server.log")), "no server was started to find it out"
    fault.saw(str(caught.value), caught.value.exit_status, "nothing was measured yet")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.fault("the suite gets {number}", WHERE)
def test_an_interrupted_experiment_ends_its_servers(fault, tmp_path, number):
    parameters = {key: list(value) if isinstance(value, tuple) else value for key, value in SMALL.items()}
    profile, out = tmp_path / "mine.yaml", tmp_path / "out"
    profile.write_text(yaml.safe_dump({"name": "mine", "parameters": {"04_serving": parameters}}))
    running = fault.start("serve", "--profile", profile, "--out", out)

    def engine_runs():
        logs = out.glob("raw/serving/block-1/*/server.log")
        return [log for log in logs if "EngineCore" in log.read_text(errors="replace")]

    fault.until(engine_runs, "the engine to start", running)
    assert len(fault.alive()) > 3
    running.send_signal(number)
    status = running.wait(PATIENCE_S)
    assert status != 0 and "Traceback" not in fault.said()
    if number == signal.SIGINT:
        assert "What is complete: " in fault.said() and "goes on from there" in fault.said(), fault.said()
    said = fault.said().strip().splitlines()[-1] if number != signal.SIGKILL else "none"
    fault.saw(said, status, "every server that was done; the same command goes on after it")
