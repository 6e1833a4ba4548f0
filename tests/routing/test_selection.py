"""Which table a router takes on which GPUs, asked of records of GPUs: no node is needed to know."""

import re

import pytest

from symmlib.communicators.gpu import Gpu
from symmlib.errors import UsageError
from symmlib.routing import Route, RoutingTable, Table
from symmlib.routing.router import setting

NO_SWITCH = "these GPUs have no NVLink multicast"
NODE = Gpu("NVIDIA H200", (9, 0), 132)
PCIE = Gpu("NVIDIA H100 PCIe", (9, 0), 114, no_multicast=NO_SWITCH)
SHARED = Gpu("NVIDIA H200", (9, 0), 132, ranks=4, no_multicast=NO_SWITCH)
BLACKWELL = Gpu("NVIDIA B200", (10, 0), 148)


def tables(*devices: str, multicast: bool = False) -> RoutingTable:
    """A file with a table for each of `devices`: 4 ranks, bfloat16, graph."""
    routes = (Route(None, "symm_mem/two_shot"),)
    return RoutingTable(tuple(Table(one, 4, "bfloat16", "graph", multicast, "a test", routes) for one in devices))


def ask(file: RoutingTable, gpu: Gpu | None, *, world_size: int = 4) -> tuple[Table | None, str]:
    key = setting(gpu, world_size=world_size, mode="graph") | {"dtype": "bfloat16"}
    return file.find(**key), file.why_none(**key)


@pytest.mark.parametrize(
    ("gpu", "device", "multicast"),
    [
        (NODE, "sm_90", True),
        (PCIE, "sm_90", False),
        (SHARED, "sm_90/one-gpu", False),
        (BLACKWELL, "sm_100", True),
        (None, "cpu", False),
    ],
)
def test_a_table_is_found_by_what_the_ranks_run_on(gpu, device, multicast):
    found, _ = ask(tables("cpu", "sm_90", "sm_90/one-gpu", "sm_100", multicast=multicast), gpu)
    assert found.device == device
    assert ask(tables("cpu", "sm_90", "sm_90/one-gpu", "sm_100", multicast=not multicast), gpu)[0] is None


def test_a_table_of_ranks_that_shared_a_gpu_is_refused_on_a_node_in_so_many_words():
    found, why = ask(tables("cpu", "sm_90/one-gpu"), PCIE)
    assert found is None
    assert why == (
        "no table for sm_90, world size 4, bfloat16, graph, multicast false: the file's tables are of ranks that share "
        "one GPU (sm_90/one-gpu), where HBM stood in for NVLink; derive one here with symmlib routes derive"
    )
    assert ask(tables("sm_90/one-gpu"), NODE)[0] is None


def test_a_table_of_a_node_is_refused_where_ranks_share_a_gpu_in_so_many_words():
    found, why = ask(tables("sm_90"), SHARED)
    assert found is None
    assert "no table for sm_90/one-gpu, world size 4, bfloat16, graph, multicast false: " in why
    assert "of ranks with a GPU each (sm_90), and here ranks share one" in why
    assert "derive one here with symmlib routes derive" in why
    assert "of ranks with a GPU each (sm_90)" in ask(RoutingTable.builtin(), SHARED)[1]


@pytest.mark.parametrize(
    ("file", "gpu", "world_size"),
    [
        (tables("sm_90/one-gpu"), BLACKWELL, 4),
        (tables("sm_90", "sm_90/one-gpu"), NODE, 2),
        (tables("sm_90", "sm_90/one-gpu"), SHARED, 2),
        (tables("sm_90"), None, 4),
        (RoutingTable(()), SHARED, 4),
    ],
)
def test_what_is_missing_for_another_reason_is_not_put_down_to_sharing(file, gpu, world_size):
    found, why = ask(file, gpu, world_size=world_size)
    assert found is None
    assert re.fullmatch(r"no table for \S+, world size \d, bfloat16, graph, multicast (true|false)", why)


def test_every_gpu_has_a_name_that_a_table_can_bear_and_keep():
    for gpu in (NODE, PCIE, SHARED, BLACKWELL):
        file = tables(gpu.key)
        assert RoutingTable.loads(file.dumps()) == file


@pytest.mark.parametrize(
    "device", ["cpu/one-gpu", "sm_90/two-gpu", "sm_90/one-gpu/one-gpu", "sm_90 /one-gpu", "/one-gpu"]
)
def test_other_devices_than_shared_gpus_cannot_be_shared(device):
    with pytest.raises(UsageError, match="device: .* where ranks shared one GPU"):
        tables(device)
