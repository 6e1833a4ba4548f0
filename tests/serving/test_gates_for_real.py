"""Gates that a real server and a real client trip: one server, of two requests at a time and without the plug-in."""

import contextlib
import json
import math
import operator
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from symmlib.serving import ServingExperiment, access, claim, gates, load, server
from symmlib.serving.arms import Arm
from symmlib.serving.gates import Measurement
from symmlib.serving.model import find_model
from tests.waiting import PATIENCE_S, until

EXPERIMENT = ServingExperiment(
    qps=(4,), duration_s=3, input_len=16, output_len=8, blocks=1, tier="smoke", arms=("router", "gloo"),
    max_model_len=256, server_args=("--max-num-seqs", "2"),
)  # fmt: skip
OF_THE_MACHINE = {"sent on time", "achieved rate", "no growing queue"}  # may find fault with a busy one: their work


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server and a client, ready."""
    place = tmp_path_factory.mktemp("serving")
    model, arm = find_model("tiny", place / "model"), Arm.of("vllm-default")
    env = server.environment(model, arm, 2, "cpu", trace=place / "trace")
    with (
        server.Server(env, log=place / "server.log", label="the test's server") as one,
        load.Client(place / "client.log") as client,
    ):
        one.wait_until_imported(PATIENCE_S)
        port = server.free_port()
        one.start(server.command(EXPERIMENT, model, arm, 2, port, "cpu"), port)
        one.wait_until_ready(PATIENCE_S)
        client.wait_until_ready()
        yield SimpleNamespace(place=place, model=model, url=one.url, client=client, server=one)


def measured(running, name: str, qps: float, *, instead: dict[str, str] | None = None) -> Measurement:
    """One rate, sent and kept as `run` does it, with arguments of `vllm bench serve` replaced by name."""
    place = running.place / name
    (place / "trace").mkdir(parents=True)
    path = place / f"qps-{qps:g}.json"
    arguments = load.bench_arguments(EXPERIMENT, running.model, running.url, qps, 1, path, {"arm": "router"})
    for option, value in (instead or {}).items():
        arguments[arguments.index(option) + 1] = value
    running.client.bench(arguments, path.with_suffix(""), timeout_s=PATIENCE_S)
    return Measurement(1, Arm.of("router"), 2, qps, path, place / "trace")


def answer_s(running, tokens: int) -> float:
    """Seconds that the idle server takes for one answer of so many tokens."""
    asked = {"model": running.model.name, "prompt": "x", "max_tokens": tokens, "ignore_eos": True}
    headers = {"Content-Type": "application/json"} | access.headers()
    request = urllib.request.Request(f"{running.url}/v1/completions", json.dumps(asked).encode(), headers)
    began = time.monotonic()
    access.open_url(request, PATIENCE_S).close()
    return time.monotonic() - began


def reasons(measurement: Measurement) -> dict[str, str]:
    """gate -> reason, of those that failed."""
    checked = gates.check([measurement])
    rows = checked.frame()
    bad = rows[rows["status"] == "invalid"]
    assert bool(len(bad)) == bool(checked.invalid)
    return dict(zip(bad["gate"], bad["reason"], strict=True))


def test_a_server_whose_plug_in_was_not_active_is_found_out_and_nothing_else_is_wrong(running):
    found = reasons(measured(running, "no-plug-in", 4))
    assert {*found} - OF_THE_MACHINE == {"intended all-reduce"}
    assert "0 of 2 ranks left a trace: was the plug-in loaded?" in found["intended all-reduce"]


def test_a_request_that_the_server_refuses_is_a_failed_one(running):
    found = reasons(measured(running, "refused", 4, instead={"--random-output-len": "4000"}))
    assert "12 of 12 requests failed" in found["no failed requests"]


def test_a_server_that_cannot_keep_up_is_found_out_by_its_queue(running):
    answered_s = answer_s(running, 80)
    count = max(120, math.ceil(20 * 4 * answered_s))  # sent for much longer than an answer takes at its fastest
    found = reasons(
        measured(running, "overloaded", 20, instead={"--random-output-len": "80", "--num-prompts": f"{count}"})
    )
    assert "requests in flight in the second quarter" in found["no growing queue"]


def test_a_client_that_stops_for_a_while_is_found_out(running):
    result = {}
    longer = {"--num-prompts": "48"}  # sent in 12 s: the client is sending still when it is stopped
    sending = threading.Thread(
        target=lambda: result.update(found=reasons(measured(running, "stopped", 4, instead=longer)))
    )
    sending.start()
    log = running.place / "stopped" / "qps-4.log"
    until(lambda: log.exists() and load.finished_requests(log) or not sending.is_alive(), "the first answer")
    planned_s = json.loads(log.with_name(f"qps-4{load.SCHEDULE}").read_text())["planned_s"]
    stopped_s = max(map(operator.sub, planned_s[1:], planned_s)) + 0.5  # a request is due before its last 0.5 s
    members = running.client.members()
    for number, lasts_s in ((signal.SIGSTOP, stopped_s), (signal.SIGCONT, 0)):
        for pid in members:
            os.kill(pid, number)
        time.sleep(lasts_s)  # the fault itself, not a wait for something
    sending.join()
    assert "ms late" in result["found"]["sent on time"]


def test_server_ranks_and_client_listen_on_the_loopback_interface_only(running):
    found = listening()
    assert ("127.0.0.1", int(running.url.rpartition(":")[2])) in found
    assert {address for address, _ in found} <= {"127.0.0.1", "::1"}, found


def test_the_servers_processes_meet_in_a_private_directory_that_goes_with_it(running):
    found = set()
    for process in descendants():
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {Path(one.laddr).parent for one in process.net_connections("unix") if one.laddr.startswith("/")}
    assert found
    for directory in found:
        assert directory.name.startswith("symmlib-") and directory.stat().st_mode & 0o077 == 0, directory


def test_the_server_answers_only_those_who_have_its_key_and_no_page_of_another_origin(running):
    body = json.dumps({"model": running.model.name, "prompt": "x", "max_tokens": 1}).encode()
    here = {"Content-Type": "application/json", "Origin": "http://elsewhere.example"}
    for stranger in ({}, {"Authorization": "Bearer none"}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(f"{running.url}/v1/completions", body, here | stranger))
        assert caught.value.code == 401
    with urllib.request.urlopen(
        urllib.request.Request(f"{running.url}/v1/completions", body, here | access.headers())
    ) as answer:
        assert answer.status == 200 and "Access-Control-Allow-Origin" not in answer.headers


def test_the_key_is_in_no_file(running):
    files = [path for path in running.place.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if access.KEY.encode() in path.read_bytes()]


def test_shared_memory_of_the_server_is_its_users_alone_and_has_names_that_nobody_guesses(running):
    mapped = {path for process in descendants() for path in claim.mapped(process.pid)}
    assert mapped
    for path in mapped:
        assert path.stat().st_mode & 0o077 == 0, path
        assert len(path.name.removeprefix("psm_")) >= 8, path


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def listening() -> set[tuple[str, int]]:
    """(address, port) of all TCP sockets on which processes below this one listen."""
    found = set()
    for process in descendants():
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets = process.net_connections("tcp")
            found |= {tuple(one.laddr) for one in sockets if one.status == psutil.CONN_LISTEN}
    return found
