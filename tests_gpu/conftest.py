"""Ranks that share this machine's GPU under an MPS of their own. Run by `make test-gpu`; needs one Hopper or newer."""

import json
from pathlib import Path

import pytest
import torch

from symmlib.allreduce.launches import SHARED_GPU
from symmlib.mps import mps
from symmlib.processes import ProcessGroup
from symmlib.torchrun import command

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def one_gpu():
    """Fails the test where there is no GPU."""
    if not torch.cuda.is_available():
        pytest.fail("there is no GPU here; `make test` runs everything that needs none")


@pytest.fixture(scope="session")
def ranks(one_gpu, tmp_path_factory):
    """`ranks(script, world_size, timeout_s=...)`: what `script` of this directory wrote as JSON."""

    def run(script: str, world_size: int, *, timeout_s: float = 300):
        directory = tmp_path_factory.mktemp(f"{Path(script).stem}-{world_size}")
        out = directory / "out.json"
        # An MPS of its own each time: a rank that dies in a kernel takes its MPS along.
        with mps(directory / "mps") as found, command(world_size) as (argv, environment):
            argv += [str(HERE / script), str(out)]
            environment |= SHARED_GPU | found
            environment |= {"SYMMLIB_TEST_ONE_GPU": "1", "PYTHONPATH": str(HERE.parent)}
            with ProcessGroup(argv, log=directory / "log", env=environment) as group:
                status = group.wait(timeout_s)
        assert status == 0, group.tail(60)
        return json.loads(out.read_text())

    return run
