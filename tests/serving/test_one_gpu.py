"""Ranks of vLLM that share one GPU: what the launcher sets, and what the plug-in changes in the vLLM that is here.

No rank runs here: there is no GPU. The patches are applied to the classes of the real vLLM, in a process of their own,
as if its version were known. What they are for is served by the profile one-gpu-serving, on a GPU.
"""

import contextlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from symmlib import profiles, vllm_one_gpu
from symmlib.errors import SymmlibError
from symmlib.mps import mps
from symmlib.provenance import gpus, throttling
from symmlib.serving import ServingExperiment, claim, floor, run_experiment, server
from symmlib.serving.arms import Arm
from symmlib.serving.model import Model
from symmlib.serving.parts import ALL, Part

STAND_INS = Path(__file__).parents[1] / "stand_ins"
MODEL = Model("dummy-8b", dummy=True, local=True)
# One process: importing vLLM takes as long as all the rest.
PATCHED = """
import json, os
from symmlib import vllm_one_gpu, vllm_plugin
from vllm.platforms import current_platform
from vllm.engine.arg_utils import EngineArgs

platform = type(current_platform)
platform.device_count = classmethod(lambda cls: 1)
platform.device_control_id_to_physical_device_id = classmethod(lambda cls, device: int(device))
platform.device_control_env_var = "CUDA_VISIBLE_DEVICES"

def told(visible=""):
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    asked = [EngineArgs(model="x", tensor_parallel_size=tp)._resolve_device_ids() for tp in (1, 2, 4)]
    return asked, platform.device_count(), platform.dist_backend, platform.get_device_communicator_cls()

def refused(call):
    try:
        call()
    except SystemExit as refusal:
        return str(refusal)

version = vllm_one_gpu.metadata.version("vllm")
before = platform.get_device_communicator_cls
found = {}
os.environ["SYMMLIB_ALLREDUCE"] = "router"
vllm_plugin.register()
found["without"] = told()
platform.get_device_communicator_cls = before
os.environ["SYMMLIB_ONE_GPU"] = "1"
found["unknown"] = refused(vllm_plugin.register)
vllm_one_gpu.KNOWN += (version,)
resolve = EngineArgs._resolve_device_ids
del EngineArgs._resolve_device_ids
found["lacks"] = refused(vllm_plugin.register)
EngineArgs._resolve_device_ids = resolve
vllm_plugin.register()
vllm_plugin.register()
found["with"] = told(), told("3,1")
print(json.dumps(found))
"""
OURS = "symmlib.vllm_plugin.RoutedCommunicator"


@pytest.fixture(scope="module")
def found() -> dict:
    """What `PATCHED` prints."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SYMMLIB_")}
    done = subprocess.run([sys.executable, "-c", PATCHED], env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_without_the_variable_no_rank_is_moved(found):
    asked, count, _, communicator = found["without"]
    assert (asked, count, communicator) == ([None, None, None], 1, OURS)


def test_a_vllm_that_nobody_tried_is_refused_with_its_version(found):
    version = metadata.version("vllm")
    assert f"this is vLLM {version}, and ranks on one GPU are known to work with vLLM 0.24.0" in found["unknown"]


def test_a_vllm_without_what_is_patched_is_refused(found):
    assert "lacks what is to be patched" in found["lacks"] and "_resolve_device_ids" in found["lacks"]


def test_with_it_every_rank_gets_the_first_gpu_and_twice_is_as_once(found):
    for (asked, count, backend, communicator), gpu in zip(found["with"], (0, 3), strict=True):
        assert asked == [None, [gpu] * 2, [gpu] * 4]
        assert (count, backend, communicator) == (8, "gloo", OURS)


def test_only_an_experiment_of_one_gpu_sets_the_variable():
    arm = Arm.of("router")
    shared = server.environment(MODEL, arm, 2, "cuda", trace=Path("t"), one_gpu=True)
    assert shared[vllm_one_gpu.VARIABLE] == "1"
    assert shared["TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES"] == shared["TORCH_SYMM_MEM_DISABLE_MULTICAST"] == "1"
    assert shared["VLLM_DISABLE_PYNCCL"] == "1"
    plain = server.environment(MODEL, arm, 2, "cuda", trace=Path("t"))
    assert plain[vllm_one_gpu.VARIABLE] is None  # also where somebody has it set
    assert "VLLM_DISABLE_PYNCCL" not in plain


def test_its_servers_leave_the_reduction_between_gpus_out():
    experiment = ServingExperiment(arms=["gloo", "router"], one_gpu=True)
    argv = server.command(experiment, MODEL, Arm.of("router"), 2, 8000, "cuda")
    assert "--disable-custom-all-reduce" in argv
    plain = ServingExperiment(arms=["gloo", "router"])
    assert "--disable-custom-all-reduce" not in server.command(plain, MODEL, Arm.of("router"), 2, 8000, "cuda")


@pytest.mark.parametrize(
    ("all_reduce", "kind", "reason"),
    [
        ("router", "cuda", ""),
        ("gloo", "cuda", ""),
        ("vllm/symm_mem", "cuda", ""),
        ("triton/one_shot", "cuda", ""),
        ("nccl", "cuda", "it does not run where ranks share a GPU"),
        ("symm_mem/multimem", "cuda", "it does not run where ranks share a GPU"),
        ("vllm-default", "cuda", "name what is to serve"),
        ("host/one_shot", "cuda", "it sums in the host's memory"),
        ("router", "cpu", "ranks that share a GPU need one"),
    ],
)
def test_what_cannot_serve_there_is_left_out_with_the_reason(all_reduce, kind, reason):
    said = server.why_not(all_reduce, kind, one_gpu=True)
    assert reason in said and bool(said) == bool(reason)


def test_the_shipped_experiment_is_the_pull_requests_on_one_gpu():
    experiment = ServingExperiment.of(profiles.load("one-gpu-serving").parameters["04_serving"])
    assert experiment.one_gpu and experiment.tp == (2, 4) and experiment.qps == (1, 5, 10)
    assert (experiment.input_len, experiment.output_len, experiment.prefix_len) == (550, 150, 200)
    assert (experiment.baseline, experiment.treatment) == ("vllm/symm_mem", "router")
    assert [arm.name for arm in experiment.again()] == ["vllm/symm_mem again"]
    floor = next(arm for arm in experiment.arms if arm.all_reduce == "gloo")
    assert "--enforce-eager" in floor.server_args and experiment.blocks >= 3


def test_a_vllm_that_is_not_known_is_refused_before_a_server_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("symmlib.serving.server.platform", lambda: "cuda")
    with pytest.raises(SymmlibError, match="known to work with vLLM 0.24.0. Install that one"):
        run_experiment(ServingExperiment(arms=("gloo", "router"), one_gpu=True), tmp_path)
    assert not list(tmp_path.rglob("server.log"))


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A stand-in that says what it is told to: called with the lines of a shell script."""

    def says(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        gpus.cache_clear()

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    yield says
    gpus.cache_clear()


def test_parts_on_different_gpus_of_one_host_are_not_taken_for_the_same_machine(nvidia_smi, monkeypatch):
    def key(visible: str, one_gpu: bool = True) -> str:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return floor.load_key(ServingExperiment(one_gpu=one_gpu), "cuda")

    nvidia_smi("""case "$*" in
        *index,uuid*) echo "0, GPU-1111"; echo "1, GPU-2222" ;;
        *--id=GPU-1111*) echo "NVIDIA H100" ;;
        *--id=GPU-2222*) echo "NVIDIA H200" ;;
        *) echo "NVIDIA H100"; echo "NVIDIA H200" ;;
    esac""")
    of_the_h200 = key("1")
    assert of_the_h200 == key("GPU-2222") == key("GPU-22") != key("") == key("0,1")
    assert key("", one_gpu=False) == key("1", one_gpu=False)
    assert claim.devices("cuda", one_gpu=True) == ["GPU-2222"] and claim.devices("cuda") == ["GPU-2222"]
    nvidia_smi("""case "$*" in *index,uuid*) echo "0, GPU-3333" ;; *) echo "NVIDIA H200" ;; esac""")
    assert key("") == of_the_h200


def test_a_gpu_that_is_not_held_voids_nothing_by_its_heat(nvidia_smi):
    nvidia_smi('echo "0, GPU-1, Not Active, Not Active, Not Active"; echo "1, GPU-2, Active, Not Active, Not Active"')
    assert throttling(["GPU-1"]) == []
    assert throttling(["GPU-1", "GPU-2"]) == throttling(["GPU-2"]) == ["GPU 1: hw thermal slowdown"]
    assert throttling(["GPU-3"]) is None
    nvidia_smi('echo "0, GPU-1, N/A, N/A, N/A"')
    assert throttling(["GPU-1"]) is None
    nvidia_smi("exit 1")
    assert throttling(["GPU-1"]) is None


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """Runs an experiment whose servers fail for real, as this vLLM is none that is known; the MPS is a stand-in.

    Called with `mps_starts`, how often that can be started; gives the error and what became of each MPS."""

    def run(mps_starts: int, blocks: int = 1, part: Part = ALL) -> tuple[str, list[str]]:
        events = []

        @contextlib.contextmanager
        def noted(directory):
            if events.count("starts") == mps_starts:
                raise SymmlibError("no MPS any more")
            with mps(directory) as environment:
                events.append("starts")
                yield environment
            events.append("has ended")

        monkeypatch.setenv("PATH", str(STAND_INS), prepend=":")
        monkeypatch.setattr("symmlib.serving.run.mps", noted)
        monkeypatch.setattr("symmlib.serving.server.why_not", lambda *_: "")
        monkeypatch.setattr("symmlib.serving.results.routed_device", lambda: "sm_90")
        small = {"qps": (4,), "duration_s": 1, "input_len": 16, "output_len": 4, "blocks": blocks, "tier": "smoke"}
        experiment = ServingExperiment(**small, arms=("gloo", "router"), one_gpu=True)
        with pytest.raises(SymmlibError) as caught:
            run_experiment(experiment, tmp_path, part=part)
        return str(caught.value), events

    return run


def test_after_a_server_that_failed_the_next_gets_another_mps(failing, tmp_path):
    said, events = failing(2)
    assert "2 of the servers failed" in said and said.count("known to work with vLLM 0.24.0") == 2
    assert events == ["starts", "has ended"] * 2
    assert (tmp_path / "results" / "gates.csv").read_text().count("server ran to its end") == 2


def test_a_part_starts_no_server_of_another(failing):
    said, events = failing(2, blocks=2, part=Part(2, 2))
    assert "2 of the servers failed" in said and (said.count("block 1:"), said.count("block 2:")) == (0, 2)
    assert events == ["starts", "has ended"] * 2


def test_an_mps_that_does_not_start_again_hides_no_server_that_failed(failing):
    said, events = failing(1)
    assert "1 of the servers failed" in said and said.count("known to work with vLLM 0.24.0") == 1
    assert "0 of 2 servers have run, and the rest could not: no MPS any more" in said
    assert events == ["starts", "has ended"]
