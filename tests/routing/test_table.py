"""Routing tables: what is shipped, what is refused, and that writing and reading lose nothing."""

import csv
import re
import subprocess
import sys
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmlib.backends import BACKENDS
from symmlib.errors import UsageError
from symmlib.routing import Route, RoutingTable, Table, show
from symmlib.routing.table import BUILTIN_DIR

MIB = 1 << 20
GOOD = """schema = 1

[[table]]
device = "cpu"
world_size = 2
dtype = "bfloat16"
mode = "eager"
multicast = false
source = "a test"

[[table.route]]
max_bytes = 65_536
backend = "host/one_shot"
crossover_bytes = [49_152, 98_304]

[[table.route]]
backend = "host/two_shot"
"""


def thresholds() -> list[dict]:
    with resources.files("symmlib.data").joinpath("thresholds_mib.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", thresholds(), ids=lambda row: f"{row['source']} {row['device']} x{row['world_size']}")
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_built_in_gpu_tables_agree_with_the_thresholds_on_record(row, mode):
    file = "vllm-0.33.0" if row["source"] == "vllm 0.33.0" else "vllm-pr20759"
    table = RoutingTable.builtin(file).find(
        device=row["device"], world_size=int(row["world_size"]), dtype="bfloat16", mode=mode, multicast=True
    )
    custom_max = min(float(row["custom_max_mib"]), 8) * MIB
    assert table.lookup(1).backend == "vllm/custom"
    assert table.lookup(int(custom_max) - 16).backend == "vllm/custom"
    symm_mem = f"symm_mem/{row['symm_mem_algorithm']}"
    assert table.lookup(int(custom_max)).backend == symm_mem
    if row["symm_mem_max_mib"]:
        symm_mem_max = int(float(row["symm_mem_max_mib"]) * MIB)
        assert table.lookup(symm_mem_max).backend == symm_mem
        assert table.lookup(symm_mem_max + 1).backend == "nccl"
    else:
        assert table.lookup(1 << 40).backend == symm_mem


def test_built_in_gpu_tables_hold_nothing_that_is_not_on_record():
    rows = {(row["source"], row["device"], int(row["world_size"])) for row in thresholds()}
    assert len(RoutingTable.builtin("vllm-0.33.0").tables) == 2 * sum("0.33.0" in source for source, *_ in rows)
    assert len(RoutingTable.builtin("vllm-pr20759").tables) == 2 * sum("20759" in source for source, *_ in rows)


@pytest.mark.parametrize("world_size", range(2, 9))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_cpu_world_size_and_dtype_has_a_default_of_host_kernels(world_size, dtype):
    table = RoutingTable.builtin().find(device="cpu", world_size=world_size, dtype=dtype, mode="eager", multicast=False)
    assert {route.backend.split("/")[0] for route in table.routes} == {"host"}


@pytest.mark.parametrize("name", RoutingTable.builtin_names())
def test_built_in_files_are_a_comment_and_then_the_canonical_text(name):
    text = (BUILTIN_DIR / f"{name}.toml").read_text()
    assert re.sub(r"\A(#.*\n)+\n", "", text) == RoutingTable.builtin(name).dumps()


def test_bounds_are_inclusive():
    table = RoutingTable.loads(GOOD).tables[0]
    assert [table.lookup(size).backend for size in (1, 65_536, 65_537, 1 << 40)] == [
        "host/one_shot",
        "host/one_shot",
        "host/two_shot",
        "host/two_shot",
    ]


def test_one_backend_may_own_two_disjoint_ranges():
    routes = (Route(1024, "nccl/symmetric"), Route(8192, "vllm/custom"), Route(None, "nccl/symmetric"))
    table = Table("sm_100", 8, "bfloat16", "graph", True, "a test", routes)
    assert [table.lookup(size).backend for size in (512, 4096, 16384)] == [route.backend for route in routes]


def test_a_saved_table_loads_as_it_was(tmp_path):
    table = RoutingTable.loads(GOOD)
    table.save(tmp_path / "new directory" / "routing.toml")
    assert (tmp_path / "new directory" / "routing.toml").read_text() == GOOD
    assert RoutingTable.load(tmp_path / "new directory" / "routing.toml") == table


sizes = st.lists(st.integers(1, 1 << 40), unique=True, max_size=5).map(sorted)


@given(sizes, st.data(), st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1))
def test_any_table_survives_writing_and_reading(bounds, data, source):
    pick = st.sampled_from(sorted(BACKENDS))
    interval = data.draw(st.sampled_from([None, (1, 1 << 41)]))
    routes = [Route(bound, data.draw(pick), interval) for bound in bounds] + [Route(None, data.draw(pick))]
    table = RoutingTable((Table("sm_90", 8, "float32", "graph", True, f"x{source}", tuple(routes)),))
    again = RoutingTable.loads(table.dumps())
    assert again == table
    assert again.digest == table.digest


ASSIGNMENTS = [number for number, line in enumerate(GOOD.splitlines()) if " = " in line]
VALUES = [
    "true",
    "-1",
    "0",
    "1.5",
    "1_000",
    '""',
    '"gloo"',
    '"cpu"',
    "[]",
    "[1, 2]",
    "{}",
    "1979-05-27",
    "nan",
    f"1{'0' * 5000}",
]
MISTAKES = st.one_of(st.sampled_from(VALUES), st.text(st.characters(codec="ascii", categories=["L", "N", "P"])))


@given(st.sampled_from(ASSIGNMENTS), MISTAKES)
def test_any_value_in_any_place_is_read_or_refused_with_the_file_and_the_key(place, value):
    lines = GOOD.splitlines()
    key = lines[place].split(" = ")[0]
    lines[place] = f"{key} = {value}"
    try:
        table = RoutingTable.loads("\n".join(lines), name="mine.toml")
    except UsageError as error:
        assert str(error).startswith("mine.toml: ")
        assert "not valid TOML" in str(error) or key in str(error)
    else:
        assert RoutingTable.loads(table.dumps()) == table


@given(st.text(max_size=200))
def test_text_that_is_no_table_is_refused_with_the_file(text):
    with pytest.raises(UsageError, match=r"(?s)^mine\.toml: "):
        RoutingTable.loads(text, name="mine.toml")


def test_the_digest_ignores_layout_and_order_but_nothing_else():
    table = RoutingTable.loads(GOOD)
    reordered = GOOD.replace('device = "cpu"\nworld_size = 2\n', 'world_size = 2 # ranks\ndevice = "cpu"\n')
    assert reordered != GOOD
    assert RoutingTable.loads(reordered).digest == table.digest
    assert RoutingTable.loads(GOOD.replace("65_536", "65536")).digest == table.digest
    assert RoutingTable.loads(GOOD.replace("65_536", "65_537")).digest != table.digest
    builtin = RoutingTable.builtin()
    assert RoutingTable(builtin.tables[::-1]).digest == builtin.digest


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("schema = 1", "schema = 2", "schema: 2 is not 1"),
        ("schema = 1\n", "", "schema: this key is missing"),
        ("schema = 1", "schema = 1\nscheme = 1", "unknown key 'scheme'. Did you mean 'schema'"),
        ("schema = 1", "schema =", "not valid TOML"),
        ("[[table]]", "[table]", "not valid TOML|is not a list of \\[\\[table\\]\\]"),
        ('device = "cpu"', 'device = "B200"', "table 1 .*device: 'B200' is neither \"cpu\" nor"),
        ("world_size = 2", "world_size = 1", "table 1 .*world_size: 1 is not a whole number of at least 2"),
        ("world_size = 2", 'world_size = "2"', "world_size: '2' is not a whole number"),
        ("world_size = 2", "worldsize = 2", "table 1: unknown key 'worldsize'. Did you mean 'world_size'"),
        ('mode = "eager"\n', "", "table 1: mode: this key is missing"),
        ('"bfloat16"', '"bf16"', "dtype: unknown dtype 'bf16'. Did you mean 'bfloat16'"),
        ('"eager"', '"graphs"', "mode: unknown mode 'graphs'. Did you mean 'graph'"),
        ("false", '"no"', "multicast: 'no' is not true or false"),
        ('"a test"', '""', "source: '' does not say where"),
        ("max_bytes", "max_byte", "table 1 .*route 1: unknown key 'max_byte'. Did you mean 'max_bytes'"),
        ("65_536", "true", "route 1: max_bytes: True is not a whole number"),
        ("65_536", "0", "route 1: max_bytes: 0 is not a whole number of at least 1"),
        ("max_bytes = 65_536\n", "", "route 1: max_bytes: this key is missing; only the last"),
        (
            "host/one_shot",
            "host/oneshot",
            "route 1: backend: unknown backend 'host/oneshot'. Did you mean 'host/one_shot'",
        ),
        ('"host/one_shot"', "[1]", "route 1: backend: unknown backend"),
        ("[49_152, 98_304]", "[98_304, 49_152]", "route 1: crossover_bytes: .* runs downwards"),
        ("[49_152, 98_304]", "[49_152]", "crossover_bytes: .* is not a pair"),
        ("[49_152, 98_304]", "49_152", "crossover_bytes: 49152 is not a pair"),
        ('backend = "host/two_shot"', 'backend = "host/two_shot"\nmax_bytes = 70_000', "the last route has none"),
        (
            '[[table.route]]\nbackend = "host/two_shot"',
            '[[table.route]]\nmax_bytes = 1024\nbackend = "host/two_shot"\n[[table.route]]\nbackend = "gloo"',
            "route 2: max_bytes: 1024 does not exceed 65536",
        ),
        (GOOD, GOOD + GOOD.removeprefix("schema = 1\n"), "table 2 .* repeats table 1"),
        (GOOD, "schema = 1\ntable = []\n", "table: \\[\\] is not a list"),
        (GOOD, "schema = 1\ntable = [3]\n", "table 1: 3 is not a section"),
    ],
)
def test_a_mistake_is_refused_with_the_file_the_table_and_the_key(tmp_path, old, new, expected):
    assert old in GOOD
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UsageError, match=f"(?s)^{re.escape(str(path))}: .*({expected})"):
        RoutingTable.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="absent.toml"):
        RoutingTable.load(tmp_path / "absent.toml")


def test_an_unknown_built_in_name_is_refused_with_those_that_exist():
    with pytest.raises(UsageError, match="Did you mean 'cpu'"):
        RoutingTable.builtin("cpus")


def test_show_says_which_sizes_go_where_and_why():
    rows = show(RoutingTable.loads(GOOD))
    assert list(rows["sizes"]) == ["up to 64 KiB", "above 64 KiB"]
    assert list(rows["from_bytes"]) == [1, 65_537]
    assert rows["why"][0] == "crossover between 48 KiB and 96 KiB (95 %); a test"


def test_show_filters_and_says_what_there_is_where_nothing_matches():
    assert set(show(RoutingTable.builtin(), device="sm_103", mode="graph")["world_size"]) == {2, 4, 6, 8}
    with pytest.raises(UsageError, match="no table for world size 3. There is: world size 2."):
        show(RoutingTable.loads(GOOD), world_size=3)


def test_tables_are_read_and_shown_without_torch():
    code = (
        "import sys; from symmlib.routing import RoutingTable, show; show(RoutingTable.builtin()); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
